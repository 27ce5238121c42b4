"""Backtests: what the rules, or a draft of one, would have said of all that was reported."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from alerts.catalogue import Fault, nearest
from alerts.mechanisms import Profile
from alerts.skill import Kind, Label
from app import documents, rulebook, store
from app.access import Caller, needs
from app.api.problems import Problem
from app.api.rules import told
from app.backtest import stored
from app.backtest.reading import DataFaulty
from app.backtest.stored import Asked, Found, NothingStored, Occupied
from app.database import Connection, DatabaseAway
from app.house import House, house
from app.rulebook import Edition, Refused, Status
from app.settings import Unusable
from app.store.rules import Kept

router = APIRouter(tags=["backtests"])

Writer = Annotated[Caller, Depends(needs("rules:write"))]
Here = Annotated[House, Depends(house)]
Text = Annotated[str, Field(max_length=200, pattern=r"^[^\x00\r\n]*$")]
Name = Annotated[str, Path(max_length=50)]

_LABEL_COLUMNS = (
    "id", "sector", "indicator", "good", "place", "start", "end", "label", "announced", "visible",
    "event",
)  # fmt: skip


class LabelBody(BaseModel):
    """What is known to have happened, as a row of a labels file."""

    model_config = ConfigDict(extra="forbid")

    id: Text = Field(description="Rows of one id are one disruption on several series.")
    sector: Text
    indicator: Text
    good: Text = ""
    place: Text = ""
    start: date
    end: date | None = Field(default=None, description="Without one it lasts.")
    label: Kind
    announced: date | None = None
    visible: Text = Field(
        default="yes", description="`yes` or `partial`; others are listed and not scored."
    )
    event: Text = Field(default="", description="A title.")


class SweepBody(BaseModel):
    """A number of the rules, and its values: both ends belong to it."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00\r\n=]+$")] = Field(
        description="`band`, `ratio`, or the rule's id and the way from there: "
        "`chokepoint-transits.clear_after`."
    )
    first: float = Field(alias="from", allow_inf_nan=False)
    last: float = Field(alias="to", allow_inf_nan=False)
    step: float = Field(allow_inf_nan=False)


class CompareBody(BaseModel):
    """What to put beside it; an empty object is what is in use."""

    model_config = ConfigDict(extra="forbid")

    profile_version: int | None = Field(default=None, ge=1, le=2**31 - 1)
    rule_version: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="Where one rule alone is asked about."
    )
    rule: dict[str, Any] | None = Field(default=None, description="A draft, whole.")


class RuleBacktestBody(BaseModel):
    """How to replay one rule."""

    model_config = ConfigDict(extra="forbid")

    rule: dict[str, Any] | None = Field(
        default=None,
        description="A draft, whole, as in `POST /v1/rules`. It is checked the same and not kept.",
    )
    since: date | None = Field(
        default=None, alias="from", description="Scores from that day on; all before is history."
    )
    until: date | None = Field(
        default=None, alias="to", description="Reads nothing observed after that day."
    )
    as_of: bool = Field(
        default=False, description="Judges every value when it was received, revisions as such."
    )
    known: Literal["received", "published"] = Field(
        default="received",
        description="When a value counts as known. `published`: as the catalogue says, with every "
        "observation in its newest revision; for history that was loaded long after.",
    )
    labels: list[LabelBody] = Field(default=[], max_length=1_000)
    sweep: SweepBody | None = None
    compare: CompareBody | None = None


class BacktestBody(RuleBacktestBody):
    """What to replay, and how."""

    mechanism: str = Field(max_length=100, description="Whose rules, such as `supply-watch`.")
    rules: list[Annotated[str, Field(max_length=100)]] = Field(
        default=[],
        max_length=100,
        description="Only these, and what they count on; a shadow rule named here is judged as if "
        "it were none. Left out: all, or the draft alone.",
    )


class PictureShown(BaseModel):
    """A miss or a false episode as it looked, as SVG."""

    name: str
    kind: Literal["miss", "false"]
    title: str
    said: str
    href: str


class BacktestShown(BaseModel):
    """What was found: the fields of `forewarn backtest --json`, and these.

    Each of `pairs` and `episodes` has `picture`, an address or null. Each of `compare` has `name`.
    """

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True}, extra="allow")

    id: str
    profile: str
    profile_version: int
    series: int
    samples: int
    hits: int
    misses: int
    false_episodes: int
    pod: float | None
    far: float | None
    csi: float | None
    lead_days: dict[str, Any]
    pairs: list[dict[str, Any]]
    episodes: list[dict[str, Any]]
    pictures: list[PictureShown] = Field(
        description=f"The first {stored.PICTURES_SHOWN} misses and false episodes."
    )
    warnings: list[str]
    links: dict[str, str]


@router.post("/v1/backtests", summary="Replay what was reported", response_model=BacktestShown)
async def make_backtest(body: BacktestBody, _: Writer, here: Here) -> dict[str, object]:
    """Replays all that was reported (exercises left out) through rules, and scores what they say.

    It runs in a process of its own and may take minutes; nothing is kept but the last outcomes
    of this process. One at a time: meanwhile the answer is 429.
    """
    return await _answer(here, body, body.mechanism, body.rules)


@router.post(
    "/v1/rules/{mechanism}/{id}/backtest", summary="Replay one rule", response_model=BacktestShown
)
async def backtest_rule(
    mechanism: str, id: str, body: RuleBacktestBody, _: Writer, here: Here
) -> dict[str, object]:
    """As `POST /v1/backtests`, of one rule as it is in use, or of a draft of its next version."""
    await here.rulebook.renew()
    if (mechanism, id) not in here.rulebook.edition.clauses:
        raise Problem("not-found", f"There is no rule {id[:100]!r} under {mechanism[:100]!r}.")
    if body.rule is not None:
        body = body.model_copy(update={"rule": {"id": id, **body.rule}})
    return await _answer(here, body, mechanism, [id])


@router.get("/v1/backtests/{id}", summary="An outcome again", response_model=BacktestShown)
async def show_backtest(id: Name, _: Writer, here: Here) -> dict[str, object]:
    """One of the last outcomes of this process."""
    return _shown(_found(here, id))


@router.get(
    "/v1/backtests/{id}/pictures/{name}.svg",
    summary="A picture of an outcome",
    response_class=Response,
    responses={200: {"content": {"image/svg+xml": {}}}},
)
async def show_picture(id: Name, name: Name, _: Writer, here: Here, request: Request) -> Response:
    """A miss or a false episode, with the windows of labels and what the value was held against."""
    found = _found(here, id)
    if name == "sweep" and found.sweep_alone:
        return Response(found.sweep_alone, media_type="image/svg+xml")
    for drawing in found.drawings:
        if drawing.name == name:
            return Response(drawing.alone, media_type="image/svg+xml")
    raise Problem("not-found", f"There is no picture at {request.url.path}.")


async def _answer(
    here: House, body: RuleBacktestBody, mechanism: str, rules: Sequence[str]
) -> dict[str, object]:
    now = datetime.now(UTC)
    await here.rulebook.renew()
    with told(), _refused():
        async with here.database.begin() as connection:
            asked = await _asked(connection, here, body, mechanism, rules)
        found = await here.backtests.run(here.database, here.catalogue, asked, now)
    return _shown(found)


async def _asked(
    connection: Connection,
    here: House,
    body: RuleBacktestBody,
    mechanism: str,
    rules: Sequence[str],
) -> Asked:
    edition = here.rulebook.edition
    in_use = edition.profiles.get(mechanism)
    if in_use is None:
        known = nearest(mechanism, edition.profiles)
        raise Refused([Fault("/mechanism", f"There is no mechanism {mechanism[:100]!r}.", known)])
    if body.since and body.until and body.since > body.until:
        raise Refused([Fault("/to", "It lies before `from`.")])
    profile, names = in_use, list(rules)
    if body.rule is not None:
        profile, draft = _drafted(here, mechanism, body.rule, "/rule")
        names = [draft, *(name for name in names if name != draft)]
    beside: list[tuple[str, Profile]] = []
    if body.compare is not None:
        name, other = await _beside(connection, here, body.compare, mechanism, names)
        beside.append((name, stored.narrowed(other, names)))
    sweep = body.sweep
    return Asked(
        profile=stored.narrowed(profile, names),
        labels=_labels(body.labels),
        as_of=body.as_of,
        since=body.since,
        until=body.until,
        only_newest=body.known == "published",
        sweep=f"{sweep.name}={sweep.first!r}:{sweep.last!r}:{sweep.step!r}" if sweep else "",
        beside=tuple(beside),
    )


def _drafted(
    here: House,
    mechanism: str,
    content: Mapping[str, Any],
    pointer: str,
    version: int | None = None,
) -> tuple[Profile, str]:
    """The mechanism with a rule laid over it that is not kept, and the rule's id.

    Raises:
        Refused: it could not be kept either; pointers begin with ``pointer``.
    """
    edition: Edition = here.rulebook.edition
    there = edition.clauses.get((mechanism, str(content.get("id"))))
    version = version or (there.newest + 1 if there else 1)
    document = {**content, "version": version}
    try:
        rule = documents.rule_from_document(document)
    except documents.RuleFaulty as error:
        raise Refused([_below(pointer, fault) for fault in error.faults]) from None
    now = datetime.now(UTC)
    draft = Kept(mechanism, rule.id, version, document, b"", "", now, "", "")
    base = {mechanism: edition.profiles[mechanism]}
    # On the last of all days, so that a draft for later is judged as if its day had come.
    profiles, clauses = rulebook.overlay(base, [draft], here.catalogue, date.max)
    faults = [
        _below(pointer, fault)
        if clause.id == rule.id
        else Fault(pointer, f"The rule {clause.id!r} would be wrong with it: {fault.detail}")
        for clause in clauses.values()
        if clause.status is Status.refused
        for fault in clause.faults
    ]
    if faults:
        raise Refused(faults)
    return profiles[mechanism], rule.id


def _below(pointer: str, fault: Fault) -> Fault:
    return Fault(f"{pointer}{fault.pointer}", fault.detail, fault.allowed)


async def _beside(
    connection: Connection, here: House, body: CompareBody, mechanism: str, names: Sequence[str]
) -> tuple[str, Profile]:
    """What to compare with, and what it is called."""
    given = [n for n in ("profile_version", "rule_version", "rule") if getattr(body, n) is not None]
    if len(given) > 1:
        raise Refused([Fault("/compare", f"Name one of {' and '.join(given)}.")])
    in_use = here.rulebook.edition.profiles[mechanism]
    if body.rule is not None:
        return "draft", _drafted(here, mechanism, body.rule, "/compare/rule")[0]
    if body.profile_version is not None:
        version = body.profile_version
        kept = await store.profiles.before(connection, mechanism, version + 1)
        if kept is None or kept.version != version:
            detail = f"No version {version} of the profile {mechanism!r} was ever kept."
            raise Refused([Fault("/compare/profile_version", detail)])
        return f"profile version {version}", documents.profile_from_document(kept.content)
    if body.rule_version is None:
        return "in use", in_use
    version = body.rule_version
    if len(names) != 1:
        raise Refused([Fault("/compare/rule_version", "Ask about one rule, in `rules`.")])
    texts = {
        k.version: k.content for k in await store.rules.versions(connection, mechanism, *names)
    }
    for shipped in await store.rules.shipped(connection, mechanism, *names):
        texts.setdefault(int(str(shipped.content.get("version", 1))), shipped.content)
    if version not in texts:
        known = tuple(str(v) for v in sorted(texts))
        detail = f"There is no version {version} of the rule {names[0]!r}."
        raise Refused([Fault("/compare/rule_version", detail, known)])
    where = "/compare/rule_version"
    return f"version {version}", _drafted(here, mechanism, texts[version], where, version)[0]


def _labels(given: Sequence[LabelBody]) -> tuple[Label, ...]:
    """The labels, read as a file of them is.

    Raises:
        Problem: with a pointer to each that is faulty.
    """
    text = io.StringIO(newline="")
    lines = csv.DictWriter(text, _LABEL_COLUMNS)
    lines.writeheader()
    lines.writerows(label.model_dump(mode="json") for label in given)
    try:
        return stored.labels_of(text.getvalue()) if given else ()
    except DataFaulty as error:
        errors = [{"pointer": f"/labels/{f.line - 2}", "detail": f.said} for f in error.faults]
        raise Problem(
            "invalid", f"{errors[0]['pointer']}: {errors[0]['detail']}", errors=errors
        ) from None


@contextmanager
def _refused() -> Iterator[None]:
    """Tells why there is no backtest as problems."""
    try:
        yield
    except DatabaseAway:
        raise
    except Occupied as error:
        headers = {"Retry-After": str(stored.TRY_AGAIN_SECONDS)}
        raise Problem("too-many-requests", str(error), headers=headers, retryable=True) from None
    except NothingStored as error:
        raise Problem("conflict", str(error)) from None
    except Unusable as error:
        raise Problem("invalid", str(error)) from None


def _found(here: House, outcome_id: str) -> Found:
    found = here.backtests.found(outcome_id)
    if found is None:
        detail = (
            f"There is no outcome {outcome_id!r} here: a process keeps its last "
            f"{stored.OUTCOMES_KEPT} in memory. Ask again with POST /v1/backtests."
        )
        raise Problem("not-found", detail)
    return found


def _shown(found: Found) -> dict[str, object]:
    own = f"/v1/backtests/{found.id}"

    def href(name: str | None) -> str | None:
        return None if name is None else f"{own}/pictures/{name}.svg"

    shown: dict[str, object] = {
        **found.document,
        "id": found.id,
        "pairs": [{**p, "picture": href(p["picture"])} for p in found.document["pairs"]],
        "episodes": [{**e, "picture": href(e["picture"])} for e in found.document["episodes"]],
        "pictures": [
            {
                "name": d.name,
                "kind": d.kind,
                "title": d.title,
                "said": d.said,
                "href": href(d.name),
            }
            for d in found.drawings
        ],
        "warnings": list(found.warnings),
        "links": {"self": own},
    }
    if found.sweep_alone:
        shown["sweep"] = {**found.document["sweep"], "picture": href("sweep")}
    return shown
