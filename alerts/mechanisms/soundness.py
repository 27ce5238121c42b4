"""What is wrong with a profile: its own contradictions, and numbers that say not where from."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from alerts.catalogue import Catalogue, Fault, nearest, unknown
from alerts.mechanisms import (
    EventOnConcentratedGood,
    FamiliesTogether,
    KeyGood,
    Level,
    LevelPolicy,
    OpenWithoutEasing,
    PartyStatement,
    Profile,
    Recommendation,
    SetBy,
    Span,
    Unit,
)
from alerts.rules import (
    Band,
    Bands,
    Direction,
    EventTrigger,
    MedianOfWindow,
    PercentChange,
    Rule,
)
from alerts.signals import Severity

OUR_DESIGN = "our_design"
"""The source of a number that no public text gives."""

ROUNDING = 0.005
"""Shares and concentrations are published with two digits."""

LONGEST_CRISIS_MONTHS = 12
"""Regulation (EU) 2023/1781, Article 23(3), taken as a law of the engine for every mechanism."""

_UNNUMBERED = frozenset({"version"})
_ID = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PREFIX = re.compile(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)*")
_MONTHS = {Unit.months: 1.0, Unit.years: 12.0, Unit.days: 12 / 365, Unit.hours: 12 / 365 / 24}


def check(profile: Profile, catalogue: Catalogue) -> tuple[Fault, ...]:
    """Everything in a profile that cannot be meant; empty when it may be used.

    Pointers are JSON pointers into the document as it is written.
    """
    return (
        *_identity(profile),
        *_levels(profile),
        *_spans(profile),
        *_clocks(profile),
        *_goods(profile, catalogue),
        *_rules(profile, catalogue),
        *_recommendations(profile),
        *_sources(profile),
    )


def unsourced(document: Mapping[str, object]) -> tuple[Fault, ...]:
    """Numbers of a document as it is written that do not say where they come from.

    Every mapping that directly holds a number must have a ``source``, or stand in one that has,
    below the root. ``version`` needs none, and dates are text here.
    """
    return tuple(_unsourced(document, "", is_sourced=False, is_root=True))


def _unsourced(value: object, pointer: str, *, is_sourced: bool, is_root: bool) -> Iterator[Fault]:
    if isinstance(value, Mapping):
        is_sourced = is_sourced or (not is_root and bool(value.get("source")))
        for key, inner in value.items():
            if _is_number(inner) and not is_sourced and key not in _UNNUMBERED:
                detail = (
                    f"{key!r} is a number without a source: name one of `sources`, or our_design."
                )
                yield Fault(f"{pointer}/{key}", detail)
            yield from _unsourced(inner, f"{pointer}/{key}", is_sourced=is_sourced, is_root=False)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            if _is_number(inner) and not is_sourced:
                detail = "A number without a source: name one of `sources`, or our_design."
                yield Fault(f"{pointer}/{number}", detail)
            yield from _unsourced(
                inner, f"{pointer}/{number}", is_sourced=is_sourced, is_root=False
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _identity(profile: Profile) -> Iterator[Fault]:
    if not _ID.fullmatch(profile.id):
        yield Fault("/id", f"{profile.id!r} must be lower-case words joined by '-'.")
    if not _PREFIX.fullmatch(profile.reference_prefix):
        detail = f"{profile.reference_prefix!r} must be upper-case words joined by '-'."
        yield Fault("/reference_prefix", detail)
    if profile.version < 1:
        yield Fault("/version", "Versions count from 1.")
    if profile.valid_from > profile.valid_until:
        detail = f"It ends on {profile.valid_until} before it begins on {profile.valid_from}."
        yield Fault("/valid_until", detail)
    if not profile.parties:
        yield Fault("/parties", "A mechanism has at least one party.")
    for name in ("parties", "levels", "rules", "clocks", "bodies", "gates", "records", "key_goods"):
        yield from _twice(name, getattr(profile, name))


def _twice(name: str, entries: Sequence[object]) -> Iterator[Fault]:
    """Faults for entries of one list that call themselves the same."""
    key = {"parties": "code", "levels": "level", "key_goods": "good"}.get(name, "id")
    names = [getattr(entry, key) for entry in entries]
    seen: Counter[object] = Counter()
    for number, word in enumerate(names):
        seen[word] += 1
        if seen[word] == 2:
            shown = word.name if isinstance(word, Level) else word
            detail = f"{shown!r} is there twice; first as number {names.index(word) + 1}."
            yield Fault(f"/{name}/{number}/{key}", detail)


def _levels(profile: Profile) -> Iterator[Fault]:
    for level in (Level.monitoring, Level.early_warning):
        if profile.level(level) is None:
            yield Fault("/levels", f"The level {level.name} is missing; every mechanism has it.")
    known = [policy.level for policy in profile.levels]
    if known != sorted(known):
        yield Fault("/levels", "Levels must be written from the lowest to the highest.")
    for number, policy in enumerate(profile.levels):
        yield from _level(profile, policy, f"/levels/{number}")


def _level(profile: Profile, policy: LevelPolicy, pointer: str) -> Iterator[Fault]:
    name = policy.level.name
    if not policy.set_by:
        yield Fault(f"{pointer}/set_by", f"Nobody sets {name}.")
    if SetBy.engine in policy.set_by and policy.level > Level.early_warning:
        detail = f"The engine may set no level above early_warning; {name} is set by people."
        allowed = tuple(s.value for s in SetBy if s is not SetBy.engine)
        yield Fault(f"{pointer}/set_by", detail, allowed)
    if SetBy.no_objection in policy.set_by and policy.objection_window is None:
        detail = f"{name} is set when nobody objects; say within which 'objection_window'."
        yield Fault(pointer, detail)
    if (policy.lasts_at_most is None) != (policy.falls_to is None):
        detail = f"{name} needs 'lasts_at_most' and 'falls_to' together, or neither."
        yield Fault(pointer, detail)
    if policy.falls_to is not None:
        if policy.falls_to >= policy.level:
            detail = f"{name} must fall to a lower level, not to {policy.falls_to.name}."
            lower = tuple(level.name for level in Level if level < policy.level)
            yield Fault(f"{pointer}/falls_to", detail, lower)
        elif profile.level(policy.falls_to) is None:
            yield _missing_level(f"{pointer}/falls_to", policy.falls_to)
    if policy.level is Level.crisis:
        longest = policy.lasts_at_most
        if longest is None or _months(longest) > LONGEST_CRISIS_MONTHS:
            detail = f"A crisis lasts at most {LONGEST_CRISIS_MONTHS} months at a time."
            yield Fault(f"{pointer}/lasts_at_most", detail)
    ids = [requirement.id for requirement in policy.requires]
    if len(set(ids)) < len(ids):
        yield Fault(f"{pointer}/requires", "Two requirements have the same id.")


def _missing_level(pointer: str, level: Level) -> Fault:
    return Fault(pointer, f"The level {level.name} is missing from 'levels'.")


def _months(span: Span) -> float:
    """How long a span is in months, near enough to compare with a year."""
    return span.amount * _MONTHS.get(span.unit, 0.0)


def _spans(profile: Profile) -> Iterator[Fault]:
    for pointer, part in _parts(profile, ""):
        if isinstance(part, Span) and part.amount <= 0:
            yield Fault(f"{pointer}/amount", "A length of time must be above zero.")
    if profile.closing.hold_days < 0:
        yield Fault("/closing/hold_days", "A hold time cannot be negative.")
    if profile.closing.fresh_observations < 1:
        yield Fault("/closing/fresh_observations", "At least one fresh observation is needed.")


def _clocks(profile: Profile) -> Iterator[Fault]:
    for number, clock in enumerate(profile.clocks):
        pointer = f"/clocks/{number}"
        if clock.within is None and not clock.wording:
            yield Fault(pointer, f"The clock {clock.id} needs 'within', or 'wording' instead.")
        for place, level in enumerate(clock.levels):
            if profile.level(level) is None:
                yield _missing_level(f"{pointer}/levels/{place}", level)


def _goods(profile: Profile, catalogue: Catalogue) -> Iterator[Fault]:
    for number, sector in enumerate(profile.sectors):
        if sector not in catalogue.sectors:
            yield unknown(f"/sectors/{number}", "sector", sector, catalogue.sectors)
    if not profile.sectors:
        yield Fault("/sectors", "A mechanism watches at least one sector.")
    for number, key_good in enumerate(profile.key_goods):
        yield from _key_good(profile, catalogue, key_good, f"/key_goods/{number}")
    listing = profile.listing
    if listing is not None and listing.common_when_listed_by is not None:
        count, parties = listing.common_when_listed_by, len(profile.parties)
        if not 1 <= count <= parties:
            detail = f"A good cannot be listed by {count} of {parties} parties."
            yield Fault("/listing/common_when_listed_by", detail)


def _key_good(
    profile: Profile, catalogue: Catalogue, key_good: KeyGood, pointer: str
) -> Iterator[Fault]:
    yield from _good(profile.sectors, catalogue, key_good.good, f"{pointer}/good")
    for name in ("hhi", "top_share"):
        value = getattr(key_good, name)
        if value is not None and not 0 <= value <= 1:
            yield Fault(
                f"{pointer}/{name}", f"{name} is a fraction between 0 and 1, not {value:g}."
            )
    if key_good.hhi is not None and key_good.top_share is not None:
        least = key_good.top_share**2
        if key_good.hhi + ROUNDING < least:
            detail = (
                f"One supplier with a share of {key_good.top_share:g} alone makes an HHI of "
                f"{least:.4g}; it cannot be {key_good.hhi:g}."
            )
            yield Fault(f"{pointer}/hhi", detail)
    codes = [party.code for party in profile.parties]
    for place, party in enumerate(key_good.listed_by):
        if party not in codes:
            detail = f"{party!r} is not a party of this mechanism."
            yield Fault(f"{pointer}/listed_by/{place}", detail, nearest(party, codes))


def _good(sectors: Sequence[str], catalogue: Catalogue, code: str, pointer: str) -> Iterator[Fault]:
    good = catalogue.goods.get(code)
    if good is None:
        known = {g for sector in sectors for g in catalogue.goods_of(sector)}
        yield unknown(pointer, "good", code, known or catalogue.goods)
    elif not set(good.sectors) & set(sectors):
        detail = f"{code} is a good of {' and '.join(good.sectors)}, not of {' or '.join(sectors)}."
        yield Fault(pointer, detail)


def _rules(profile: Profile, catalogue: Catalogue) -> Iterator[Fault]:
    for number, rule in enumerate(profile.rules):
        pointer = f"/rules/{number}"
        yield from _rule_asks(profile, catalogue, rule, pointer)
        yield from _rule_counts(rule, pointer)
        match rule.detector:
            case Bands() | PercentChange():
                yield from _detector(rule.detector, f"{pointer}/detector")
            case EventTrigger():
                yield from _event_trigger(rule.detector, f"{pointer}/detector")


def _rule_asks(profile: Profile, catalogue: Catalogue, rule: Rule, pointer: str) -> Iterator[Fault]:
    for number, sector in enumerate(rule.sectors):
        if sector not in profile.sectors:
            detail = f"{sector!r} is not a sector of this mechanism."
            yield Fault(f"{pointer}/sectors/{number}", detail, nearest(sector, profile.sectors))
    kind = "event" if rule.is_event else "indicator"
    known: Mapping[str, object] = catalogue.events if rule.is_event else catalogue.indicators
    of_sector = catalogue.events_of if rule.is_event else catalogue.indicators_of
    for number, code in enumerate(rule.indicators):
        place = f"{pointer}/indicators/{number}"
        if code not in known:
            yield unknown(place, kind, code, known)
        elif not any(code in of_sector(sector) for sector in rule.sectors):
            yield Fault(place, f"No sector of the rule has the {kind} {code}.")
    for name in ("sectors", "indicators"):
        if not getattr(rule, name):
            yield Fault(f"{pointer}/{name}", f"A rule names at least one of its {name}.")
    for number, code in enumerate(rule.goods):
        yield from _good(rule.sectors, catalogue, code, f"{pointer}/goods/{number}")
    for number, code in enumerate(rule.places):
        if not catalogue.is_place(code):
            yield unknown(f"{pointer}/places/{number}", "place", code, catalogue.places)


def _rule_counts(rule: Rule, pointer: str) -> Iterator[Fault]:
    if not _ID.fullmatch(rule.id):
        yield Fault(f"{pointer}/id", f"{rule.id!r} must be lower-case words joined by '-'.")
    for name in ("version", "raise_after", "clear_after"):
        if getattr(rule, name) < 1:
            yield Fault(f"{pointer}/{name}", f"{name} counts from 1.")
    freshness = rule.freshness
    if freshness is not None and not (
        0 < freshness.stale_after_days < freshness.no_data_after_days
    ):
        detail = "A finding must first become stale, then be without data, both after some days."
        yield Fault(f"{pointer}/freshness", detail)


def _detector(detector: Bands | PercentChange, pointer: str) -> Iterator[Fault]:
    yield from _bands(detector.direction, detector.bands, f"{pointer}/bands")
    if not isinstance(detector, PercentChange):
        return
    if detector.mean_of < 1:
        yield Fault(f"{pointer}/mean_of", "At least one observation is averaged.")
    baseline = detector.baseline
    if isinstance(baseline, MedianOfWindow):
        if baseline.days <= 0 or baseline.guard_days < 0:
            detail = "A window has more than 0 days, and a guard no fewer than 0."
            yield Fault(f"{pointer}/baseline", detail)
        if baseline.min_observations < 1:
            detail = "A median needs at least one observation."
            yield Fault(f"{pointer}/baseline/min_observations", detail)


def _bands(direction: Direction, bands: Sequence[Band], pointer: str) -> Iterator[Fault]:
    if not bands:
        yield Fault(pointer, "At least one band is needed.")
    sign = direction.sign
    side = "below" if direction is Direction.up else "above"
    for number, band in enumerate(bands):
        if band.severity is Severity.none:
            yield Fault(f"{pointer}/{number}/severity", "A band raises a severity; none is none.")
        if sign * band.clear_at >= sign * band.raise_at:
            detail = (
                f"{band.severity.name} must clear {side} {band.raise_at:g}, where it is raised; "
                f"{band.clear_at:g} is not {side} it."
            )
            yield Fault(f"{pointer}/{number}/clear_at", detail)
        if number == 0:
            continue
        before = bands[number - 1]
        if band.severity <= before.severity:
            detail = f"{band.severity.name} must come before {before.severity.name}."
            yield Fault(f"{pointer}/{number}/severity", detail)
        for name in ("raise_at", "clear_at"):
            if sign * getattr(band, name) <= sign * getattr(before, name):
                detail = (
                    f"{name} of {band.severity.name} must lie further {direction.value} than that "
                    f"of {before.severity.name}, {getattr(before, name):g}."
                )
                yield Fault(f"{pointer}/{number}/{name}", detail)


def _event_trigger(trigger: EventTrigger, pointer: str) -> Iterator[Fault]:
    if trigger.corroboration.parties < 1:
        yield Fault(f"{pointer}/corroboration/parties", "At least one party must say it.")
    if trigger.corroboration.within_days <= 0:
        yield Fault(f"{pointer}/corroboration/within_days", "Reports need some days to meet in.")


def _recommendations(profile: Profile) -> Iterator[Fault]:
    for number, condition in enumerate(profile.recommendations):
        pointer = f"/recommendations/{number}"
        if profile.level(condition.level) is None:
            yield _missing_level(f"{pointer}/level", condition.level)
        if condition.level <= Level.early_warning:
            detail = "The engine sets levels up to early_warning itself; recommend a higher one."
            yield Fault(f"{pointer}/level", detail)
        yield from _condition(profile, condition, pointer)


def _condition(profile: Profile, condition: Recommendation, pointer: str) -> Iterator[Fault]:
    match condition:
        case FamiliesTogether():
            if condition.count < 1 or not condition.one_of:
                yield Fault(pointer, "At least one family must fire, out of at least one.")
        case EventOnConcentratedGood():
            for name in ("hhi_above", "top_share_above"):
                if not 0 <= getattr(condition, name) <= 1:
                    yield Fault(f"{pointer}/{name}", f"{name} is a fraction between 0 and 1.")
        case OpenWithoutEasing():
            if condition.days <= 0:
                yield Fault(f"{pointer}/days", "An alert must be open for some days.")
        case PartyStatement():
            known = [r.id for policy in profile.levels for r in policy.requires]
            for number, requirement in enumerate(condition.requirements):
                if requirement not in known:
                    detail = f"No level requires {requirement!r}."
                    place = f"{pointer}/requirements/{number}"
                    yield Fault(place, detail, nearest(requirement, known))


def _sources(profile: Profile) -> Iterator[Fault]:
    """Sources that are named and not listed."""
    for pointer, part in _parts(profile, ""):
        for name in ("source", "validity_source"):
            for key in getattr(part, name, ()):
                if key != OUR_DESIGN and key not in profile.sources:
                    detail = f"There is no source {key!r} in 'sources'."
                    allowed = nearest(key, [*profile.sources, OUR_DESIGN])
                    yield Fault(f"{pointer}/{name}", detail, allowed)


def _parts(value: object, pointer: str) -> Iterator[tuple[str, object]]:
    """A dataclass and every dataclass within it, with pointers."""
    if dataclasses.is_dataclass(value):
        yield pointer, value
        inner: Iterable[tuple[object, object]] = (
            (f.name, getattr(value, f.name)) for f in dataclasses.fields(value)
        )
    elif isinstance(value, tuple):
        inner = enumerate(value)
    else:
        return
    for name, part in inner:
        yield from _parts(part, f"{pointer}/{name}")
