"""The pages of rules: what is asked of signals, since when, by whom; and quietening one for a while."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from alerts import explanation
from alerts.catalogue import Fault
from alerts.findings import State
from alerts.rules import Bands, Detector, EventTrigger, PercentChange, RateOfChange, Rule
from alerts.signals import SeriesId, SeriesKey
from app import inquire, rulebook, store
from app.dashboard import frame, rule_words, session, words
from app.dashboard.frame import Missing, Visitor
from app.dashboard.session import visitor
from app.dashboard.words import Titles
from app.database import Connection
from app.house import House, house
from app.rulebook import Clause, NotNow, NotThere, Refused, Status
from app.store.audit import Actor
from app.store.shelves import Shelf

router = APIRouter(include_in_schema=False, route_class=frame.Page)

Here = Annotated[House, Depends(house)]
Who = Annotated[Visitor, Depends(visitor)]
Reason = Annotated[str, Form(max_length=1_000)]

SCOPE = "rules:write"
FINDINGS_SHOWN = 200
SHELVES_SHOWN = 20
USUAL_SHELF = timedelta(hours=12)
SHORTEST_REASON = 3
UNTIL_FORMAT = "%Y-%m-%dT%H:%M"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a rule: who made it and why, and what it changed (where, was, is)."""

    number: int
    at: datetime
    by: str
    why: str
    retired: bool
    changes: list[tuple[str, str, str]] | None


@dataclass(frozen=True, slots=True)
class Quietened:
    """A shelf, and what it quietens in words; ``links`` lead there."""

    shelf: Shelf
    what: tuple[tuple[str, str], ...]


@router.get("/rules")
async def list_rules(request: Request, here: Here, who: Who) -> HTMLResponse:
    """Every rule of every mechanism, those that cannot be used before all others."""
    await here.rulebook.renew()
    now = datetime.now(UTC)
    edition = here.rulebook.edition
    async with here.database.begin() as connection:
        firing = await store.finding_log.firing(connection)
        shelves = await store.shelves.on(connection, now)
        quietened = await _quietened(connection, here, shelves)
    clauses = sorted(edition.clauses.values(), key=lambda c: c.key)
    shown = [c for c in clauses if c.status is not Status.retired]
    by_mechanism = {
        mechanism: [c for c in shown if c.mechanism == mechanism]
        for mechanism in sorted(edition.profiles)
    }
    return frame.page(
        request,
        "rules",
        who,
        now=now,
        by_mechanism=by_mechanism,
        profiles=edition.profiles,
        refused=[c for c in clauses if c.status is Status.refused],
        retired=[c for c in clauses if c.status is Status.retired],
        firing=firing,
        shelved={c.key: [s for s in shelves if (s.mechanism, s.rule) == c.key] for c in shown},
        quietened=quietened,
        asks=lambda clause: asks(clause, Titles(here.catalogue)),
        title_of=title_of,
    )


@router.get("/rules/{mechanism}/{rule_id}")
async def show_rule(
    mechanism: str, rule_id: str, request: Request, here: Here, who: Who
) -> HTMLResponse:
    """One rule: what it asks, what it finds now, who made it what it is; and a form to shelve it."""
    return await _shown(request, here, who, (mechanism, rule_id))


@router.post("/rules/{mechanism}/{rule_id}/shelve")
async def shelve(
    mechanism: str,
    rule_id: str,
    request: Request,
    here: Here,
    who: Who,
    until: Annotated[str, Form(max_length=40)] = "",
    reason: Reason = "",
) -> Response:
    """Quietens a rule everywhere until an instant, and leads back to its page."""
    if (refusal := session.refusal(request, who, SCOPE, "POST /v1/shelves")) is not None:
        return refusal
    typed = {"until": until, "reason": reason}
    at = _instant(until)
    faults = _faults(reason)
    if at is None:
        faults.append(Fault("/until", "It is not an instant such as 2026-01-31T08:00."))
    if at is None or faults:
        return await _shown(request, here, who, (mechanism, rule_id), typed, faults)
    now = datetime.now(UTC)
    try:
        async with here.database.begin() as connection:
            await rulebook.shelve(
                connection,
                here.policy,
                mechanism=mechanism,
                rule=rule_id,
                series=None,
                until=at,
                reason=reason.strip(),
                actor=Actor(who.key_id, who.name),
                now=now,
            )
    except Refused as error:
        return await _shown(request, here, who, (mechanism, rule_id), typed, error.faults)
    await here.rulebook.renew()
    return RedirectResponse(_address((mechanism, rule_id)), status_code=303)


@router.post("/shelves/{shelf_id}/end")
async def end_shelf(
    shelf_id: Annotated[int, Path(ge=1, le=2**63 - 1)],
    request: Request,
    here: Here,
    who: Who,
    reason: Reason = "",
    back: Annotated[str, Form(max_length=500)] = "/rules",
) -> Response:
    """Ends a shelf before its time, and leads back to where it was asked."""
    if (refusal := session.refusal(request, who, SCOPE, "POST /v1/shelves")) is not None:
        return refusal
    faults = _faults(reason)
    if faults:
        said = f"{faults[0].detail} Go back and say why; the shelf is still on."
        return frame.trouble(request, 422, "Why does it end?", said)
    now = datetime.now(UTC)
    try:
        async with here.database.begin() as connection:
            await rulebook.end_shelf(
                connection,
                shelf_id,
                actor=Actor(who.key_id, who.name),
                reason=reason.strip(),
                now=now,
            )
    except NotThere as error:
        raise Missing(str(error)) from None
    except NotNow as error:
        return frame.trouble(request, 409, "It is over", str(error))
    await here.rulebook.renew()
    return RedirectResponse(session.safe(back), status_code=303)


def _faults(reason: str) -> list[Fault]:
    if len(reason.strip()) < SHORTEST_REASON or "\x00" in reason:
        return [Fault("/reason", "Say in a few words why; whoever is next on duty reads it.")]
    return []


def _instant(text: str) -> datetime | None:
    """What a form calls an instant; UTC where it says nothing else."""
    try:
        at = datetime.fromisoformat(text.strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _address(key: tuple[str, str]) -> str:
    return "/rules/" + "/".join(words.in_an_address(part) for part in key)


async def _shown(
    request: Request,
    here: House,
    who: Visitor,
    key: tuple[str, str],
    typed: Mapping[str, str] | None = None,
    faults: Iterable[Fault] = (),
) -> HTMLResponse:
    await here.rulebook.renew()
    now = datetime.now(UTC)
    clause = here.rulebook.edition.clauses.get(key)
    if clause is None:
        raise Missing(f"There is no rule {key[1][:100]} under {key[0][:100]}.")
    async with here.database.begin() as connection:
        versions = await _versions(connection, key)
        shelves = await store.shelves.listing(
            connection, now, before=None, limit=SHELVES_SHOWN, mechanism=key[0], rule=key[1]
        )
        quietened = await _quietened(connection, here, [s for s in shelves if s.is_on(now)])
        findings = await _findings(connection, here, key, now)
        firing = (await store.finding_log.firing(connection)).get(key, 0)
    rule = clause.rule
    profile = here.rulebook.edition.profiles[clause.mechanism]
    faults = tuple(faults)
    return frame.page(
        request,
        "rule",
        who,
        status=422 if faults else 200,
        now=now,
        clause=clause,
        rule=rule,
        title=title_of(clause),
        profile=profile,
        asks=asks(clause, Titles(here.catalogue)),
        question=rule_words.question(rule.detector) if rule else "",
        bands=bands(rule, _unit(rule, Titles(here.catalogue))) if rule else [],
        sources=_sources(rule, profile.sources) if rule else [],
        versions=versions,
        quietened=quietened,
        past=[s for s in shelves if not s.is_on(now)],
        findings=findings,
        firing=firing,
        faults={f.pointer: f.detail for f in faults},
        typed=typed or {"until": f"{now + USUAL_SHELF:{UNTIL_FORMAT}}", "reason": ""},
        latest=f"{now + rulebook.LONGEST_SHELF:{UNTIL_FORMAT}}",
        text=json.dumps(clause.content, indent=2, ensure_ascii=False),
        titles=Titles(here.catalogue),
    )


def title_of(clause: Clause) -> str:
    """A rule's title, or its id where it cannot be read."""
    title = clause.content.get("title")
    return title if isinstance(title, str) and title else clause.id


def asks(clause: Clause, titles: Titles) -> str:
    """What a rule is asked of: indicators, sectors, and goods and places where it names some."""
    rule = clause.rule
    if rule is None:
        return "It cannot be read."
    what = [titles.indicator(code) for code in rule.indicators]
    where = [titles.sector(code) for code in rule.sectors]
    where += [titles.good(code) for code in rule.goods] + [titles.place(p) for p in rule.places]
    return f"{_listed(what) or 'Other findings'} in {_listed(where)}"


def _listed(found: list[str], most: int = 4) -> str:
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _unit(rule: Rule, titles: Titles) -> str:
    """The unit of everything a rule reads; empty where it reads several."""
    units = {titles.unit(SeriesKey("", code)) for code in rule.indicators}
    return units.pop() if len(units) == 1 else ""


def bands(rule: Rule, unit: str) -> list[tuple[Any, str, str]]:
    """Each band, the gentlest first: severity, from where it rises, from where it falls."""
    detector = rule.detector
    if isinstance(detector, EventTrigger):
        return []
    return [
        (
            band.severity,
            _limit(detector, band.raise_at, unit),
            _limit(detector, band.clear_at, unit),
        )
        for band in sorted(detector.bands, key=lambda b: b.severity)
    ]


def _limit(detector: Detector, limit: float, unit: str) -> str:
    relative = isinstance(detector, PercentChange) or (
        isinstance(detector, RateOfChange) and detector.relative
    )
    if relative:
        return words.change(limit)
    return words.amount(limit, unit if isinstance(detector, Bands | RateOfChange) else "")


def _sources(rule: Rule, sources: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Where the rule's numbers come from: name, title, address; in the order they are met."""
    named = [*rule.source]
    for part in (
        rule.detector,
        rule.freshness,
        rule.trust,
        getattr(rule.detector, "baseline", None),
    ):
        named += getattr(part, "source", ())
    found: list[tuple[str, str, str]] = []
    for name in dict.fromkeys(named):
        source = sources.get(name)
        found.append((name, source.title if source else "", source.address if source else ""))
    return found


async def _versions(connection: Connection, key: tuple[str, str]) -> list[Version]:
    """Every version there ever was, newest first."""
    texts: dict[int, Mapping[str, object]] = {}
    told: dict[int, tuple[datetime, str, str, bool]] = {}
    for shipped in await store.rules.shipped(connection, *key):
        number = shipped.content.get("version")
        if isinstance(number, int) and number not in texts:
            texts[number] = shipped.content
            why = f"Version {shipped.profile_version} of the profile brought it."
            told[number] = (shipped.loaded_at, "the profile", why, False)
    for kept in await store.rules.versions(connection, *key):
        texts[kept.version] = kept.content
        told[kept.version] = (kept.created_at, kept.created_by, kept.reason, kept.retired)
    found: list[Version] = []
    before: Mapping[str, object] | None = None
    for number in sorted(texts):
        changed = None if before is None else rule_words.changes(before, texts[number])
        found.append(Version(number, *told[number], changed))
        before = texts[number]
    return found[::-1]


async def _quietened(
    connection: Connection, here: House, shelves: Iterable[Shelf]
) -> list[Quietened]:
    shelves = list(shelves)
    ids = [s.series for s in shelves if s.series is not None]
    keys = await store.series.keys_of(connection, ids) if ids else {}
    return [Quietened(shelf, _what(here, shelf, keys)) for shelf in shelves]


def _what(
    here: House, shelf: Shelf, keys: Mapping[SeriesId, SeriesKey]
) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    if shelf.rule:
        clause = here.rulebook.edition.clauses.get((shelf.mechanism, shelf.rule))
        title = title_of(clause) if clause else shelf.rule
        found.append((f"the rule “{title}”", _address((shelf.mechanism, shelf.rule))))
    if shelf.series is not None:
        key = keys.get(shelf.series)
        title = Titles(here.catalogue).series(key) if key else f"series {shelf.series}"
        found.append((title, f"/series/{shelf.series}"))
    return tuple(found)


async def _findings(
    connection: Connection, here: House, key: tuple[str, str], now: datetime
) -> list[dict[str, Any]]:
    """The rule's findings that are not ok, the worst first."""
    policy = here.policy.as_it_stands()
    kept = await store.finding_log.listing(
        connection,
        behind=(0, "", ""),
        limit=FINDINGS_SHOWN,
        equal_to={"mechanism": key[0], "rule": key[1]},
    )
    kept = [s for s in kept if s.kept.finding.state is not State.ok or s.kept.finding.fires]
    kept.sort(key=lambda s: (-s.kept.finding.severity, s.kept.key))
    evidence = await inquire.evidence_of(connection, policy, kept, now)
    return [
        {
            "series": one.kept.key[0],
            "key": one.key,
            "finding": one.kept.finding,
            "alert": one.alert_ref,
            "sentence": explanation.sentence(known, here.catalogue) if known else "",
        }
        for one, known in zip(kept, evidence, strict=True)
    ]
