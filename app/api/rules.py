"""Rules as a product: read, make, change, retire. A version once kept never changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from alerts.catalogue import Fault
from alerts.explanation import instant
from app import rulebook, store
from app.access import Caller, needs
from app.api.pages import DEFAULT_LIMIT, After, Limit, cursor, page, place_of
from app.api.problems import MOST_ERRORS, Problem
from app.house import House, house
from app.rulebook import Clause, NotNow, NotThere, Refused, Status
from app.store.audit import Actor
from app.store.rules import Kept

router = APIRouter(tags=["rules"])

Reader = Annotated[Caller, Depends(needs("alerts:read"))]
Writer = Annotated[Caller, Depends(needs("rules:write"))]
Here = Annotated[House, Depends(house)]
Reason = Annotated[
    str,
    Field(
        min_length=3,
        max_length=1_000,
        pattern=r"^[^\x00]*$",
        description="Why; kept with who did it and when.",
    ),
]
Expected = Annotated[
    str,
    Header(
        alias="If-Match",
        description='The newest version you have seen, as the `ETag` of the rule says it: `"3"`.',
    ),
]

_VERSION = re.compile(r'(?:W/)?"(\d{1,9})"|(\d{1,9})')


class RuleBody(BaseModel):
    """A new rule."""

    model_config = ConfigDict(extra="forbid")

    mechanism: str = Field(max_length=100, description="Whose rule it is, such as `supply-watch`.")
    rule: dict[str, Any] = Field(
        description="The rule as a profile has it; its `version` is given by the service."
    )
    reason: Reason


class RuleChange(BaseModel):
    """The next version of a rule, whole."""

    model_config = ConfigDict(extra="forbid")

    rule: dict[str, Any] = Field(
        description="The rule whole; its `id` may be left out, its `version` is given by the service."
    )
    reason: Reason


class FaultShown(BaseModel):
    """One thing wrong with a rule; the pointer leads into it."""

    pointer: str
    detail: str
    allowed: list[str] = []


class RuleShown(BaseModel):
    """One rule as it stands."""

    mechanism: str
    id: str
    version: int = Field(description="The version that is in use, or was last.")
    newest_version: int = Field(
        description="The highest version there is; above `version` while it waits for its day."
    )
    profile_version: int | None = Field(
        description="The version of the rule in the mechanism's profile; null where it has none."
    )
    status: Status = Field(
        description="`in_use`; `scheduled`: from its `effective_from` on; `retired`; `refused`: "
        "it cannot be used, and `faults` say why."
    )
    origin: str = Field(description="`profile`, or `operator` where one made this version.")
    title: str | None
    shadow: bool
    effective_from: str | None
    faults: list[FaultShown]
    rule: dict[str, Any] = Field(description="The rule as it was written.")
    links: dict[str, str]


class RuleList(BaseModel):
    """A page of rules, by mechanism and id."""

    items: list[RuleShown]
    next: str | None


class VersionShown(BaseModel):
    """One version of a rule: who made it, when and why."""

    version: int
    retired: bool
    created_at: str
    created_by: str = Field(description="A partner's name; `profile` where the profile brought it.")
    created_key: str | None
    reason: str
    sha256: str | None = Field(description="Of the canonical JSON of the rule.")
    rule: dict[str, Any]


class RuleWhole(RuleShown):
    """One rule with all its versions, oldest first."""

    versions: list[VersionShown]


@router.get("/v1/rules", summary="List rules", response_model=RuleList)
async def list_rules(
    request: Request,
    response: Response,
    _: Reader,
    here: Here,
    mechanism: str | None = None,
    indicator: str | None = None,
    shadow: bool | None = None,
    status: Annotated[
        Status | None, Query(description="Left out: all but the retired ones.")
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    after: After = None,
) -> dict[str, object]:
    """Every rule of every mechanism, whether in use or not, narrowed by any of the parameters."""
    await here.rulebook.renew()
    behind = place_of(after, str, str) or ("", "")
    found = [
        clause
        for key, clause in sorted(here.rulebook.edition.clauses.items())
        if key > behind
        and mechanism in {None, clause.mechanism}
        and (clause.status is not Status.retired if status is None else clause.status is status)
        and (indicator is None or indicator in _words(clause, "indicators"))
        and (shadow is None or _is_shadow(clause) is shadow)
    ]
    following = cursor(*found[limit - 1].key) if len(found) > limit else None
    return page(request, response, [_shown(clause) for clause in found[:limit]], following)


@router.get(
    "/v1/rules/{mechanism}/{id}", summary="One rule, all versions", response_model=RuleWhole
)
async def show_rule(
    mechanism: str, id: str, response: Response, _: Reader, here: Here
) -> dict[str, object]:
    """A rule as it stands, with every version it has had. Its `ETag` is the newest version."""
    return await _whole(here, response, mechanism, id)


@router.post("/v1/rules", status_code=201, summary="Make a rule", response_model=RuleWhole)
async def make_rule(
    body: RuleBody, response: Response, caller: Writer, here: Here
) -> dict[str, object]:
    """Adds a rule to a mechanism. It is asked of what is observed from now on.

    With `shadow` it judges and records and moves no alert; with `effective_from` it begins later.
    """
    now = datetime.now(UTC)
    with told():
        async with here.database.begin() as connection:
            made = await rulebook.add(
                connection,
                here.catalogue,
                body.mechanism,
                body.rule,
                actor=actor(caller),
                reason=body.reason,
                now=now,
            )
    await here.rulebook.renew()
    response.headers["Location"] = f"/v1/rules/{made.mechanism}/{made.rule}"
    return await _whole(here, response, made.mechanism, made.rule)


@router.put("/v1/rules/{mechanism}/{id}", summary="Change a rule", response_model=RuleWhole)
async def change_rule(
    mechanism: str,
    id: str,
    body: RuleChange,
    response: Response,
    caller: Writer,
    here: Here,
    expected: Expected,
) -> dict[str, object]:
    """Makes the next version of a rule; of a retired one it brings it back.

    `carry_over` says what becomes of its findings: `keep` goes on with them, `fresh` begins anew.
    """
    now = datetime.now(UTC)
    with told():
        async with here.database.begin() as connection:
            await rulebook.change(
                connection,
                here.catalogue,
                (mechanism, id),
                body.rule,
                expected=_version(expected),
                actor=actor(caller),
                reason=body.reason,
                now=now,
            )
    await here.rulebook.renew()
    return await _whole(here, response, mechanism, id)


@router.delete("/v1/rules/{mechanism}/{id}", summary="Retire a rule", response_model=RuleWhole)
async def retire_rule(
    mechanism: str,
    id: str,
    response: Response,
    caller: Writer,
    here: Here,
    expected: Expected,
    reason: Annotated[
        str,
        Query(min_length=3, max_length=1_000, description="Why; kept with who did it and when."),
    ],
) -> dict[str, object]:
    """Takes a rule out of use, as its last version; nothing is deleted. PUT brings it back."""
    now = datetime.now(UTC)
    with told():
        async with here.database.begin() as connection:
            await rulebook.retire(
                connection,
                here.catalogue,
                (mechanism, id),
                expected=_version(expected),
                actor=actor(caller),
                reason=reason,
                now=now,
            )
    await here.rulebook.renew()
    return await _whole(here, response, mechanism, id)


def actor(caller: Caller) -> Actor:
    """Who is written down as having done it."""
    return Actor(caller.key_id, caller.partner)


@contextmanager
def told() -> Iterator[None]:
    """Tells what the rulebook refuses as problems."""
    try:
        yield
    except Refused as error:
        raise _problem(error.faults) from None
    except NotNow as error:
        raise Problem("conflict", str(error)) from None
    except NotThere as error:
        raise Problem("not-found", str(error)) from None


def _problem(faults: Sequence[Fault]) -> Problem:
    errors = [_fault(fault) for fault in faults[:MOST_ERRORS]]
    first = errors[0]
    more = f" And {len(faults) - 1} more." if len(faults) > 1 else ""
    detail = f"{first['pointer'] or 'the body'}: {first['detail']}{more}"
    return Problem("invalid", detail, errors=errors)


def _fault(fault: Fault) -> dict[str, object]:
    found: dict[str, object] = {"pointer": fault.pointer, "detail": fault.detail}
    return {**found, "allowed": list(fault.allowed)} if fault.allowed else found


def _version(expected: str) -> int:
    found = _VERSION.fullmatch(expected.strip())
    if found is None:
        detail = 'If-Match must be one version, such as "3"'
        raise Problem("invalid", f"{detail}.", errors=[{"parameter": "If-Match", "detail": detail}])
    return int(found[1] or found[2])


async def _whole(
    here: House, response: Response, mechanism: str, rule_id: str
) -> dict[str, object]:
    await here.rulebook.renew()
    clause = here.rulebook.edition.clauses.get((mechanism, rule_id))
    if clause is None:
        raise Problem("not-found", f"There is no rule {rule_id[:100]!r} under {mechanism[:100]!r}.")
    async with here.database.begin() as connection:
        kept = await store.rules.versions(connection, *clause.key)
        shipped = await store.rules.shipped(connection, *clause.key)
    versions = {k.version: _kept(k) for k in kept}
    for one in shipped:
        number = one.content.get("version")
        if isinstance(number, int) and number not in versions:
            versions[number] = {
                "version": number,
                "retired": False,
                "created_at": instant(one.loaded_at),
                "created_by": "profile",
                "created_key": None,
                "reason": f"Version {one.profile_version} of the profile brought it.",
                "sha256": None,
                "rule": one.content,
            }
    response.headers["ETag"] = f'"{clause.newest}"'
    return {**_shown(clause), "versions": [versions[number] for number in sorted(versions)]}


def _kept(kept: Kept) -> dict[str, object]:
    return {
        "version": kept.version,
        "retired": kept.retired,
        "created_at": instant(kept.created_at),
        "created_by": kept.created_by,
        "created_key": kept.created_key,
        "reason": kept.reason,
        "sha256": kept.sha256.hex(),
        "rule": kept.content,
    }


def _shown(clause: Clause) -> dict[str, object]:
    title, begins = clause.content.get("title"), clause.content.get("effective_from")
    return {
        "mechanism": clause.mechanism,
        "id": clause.id,
        "version": clause.version,
        "newest_version": clause.newest,
        "profile_version": clause.profile_version,
        "status": clause.status.value,
        "origin": "operator" if clause.kept else "profile",
        "title": title if isinstance(title, str) else None,
        "shadow": _is_shadow(clause),
        "effective_from": begins if isinstance(begins, str) else None,
        "faults": [_fault(fault) for fault in clause.faults],
        "rule": clause.content,
        "links": {
            "self": f"/v1/rules/{clause.mechanism}/{clause.id}",
            "findings": f"/v1/findings?mechanism={clause.mechanism}&rule={clause.id}",
        },
    }


def _is_shadow(clause: Clause) -> bool:
    return clause.content.get("shadow") is True


def _words(clause: Clause, name: str) -> tuple[str, ...]:
    """A list of words of a rule as it was written, which may be unreadable to this version."""
    found = clause.content.get(name)
    if isinstance(found, str):
        return (found,)
    return tuple(w for w in found if isinstance(w, str)) if isinstance(found, list | tuple) else ()
