"""What cannot be meant in the terms of an agreement: its parties, levels, clocks and goods."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

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
    SeriesBreak,
    SetBy,
    Span,
    Unit,
)
from alerts.mechanisms.soundness.parts import ID, OUR_DESIGN, parts_of

ROUNDING = 0.005
"""Shares and concentrations are published with two digits."""

LONGEST_CRISIS_MONTHS = 12
"""Regulation (EU) 2023/1781, Article 23(3), taken as a law of the engine for every mechanism."""

_PREFIX = re.compile(r"[A-Z][A-Z0-9]*(-[A-Z0-9]+)*")
_MONTHS = {
    Unit.years: 12.0,
    Unit.months: 1.0,
    Unit.business_days: 12 / 261,
    Unit.days: 12 / 365,
    Unit.hours: 12 / 365 / 24,
    Unit.seconds: 12 / 365 / 86_400,
}


def term_faults(profile: Profile, catalogue: Catalogue) -> Iterator[Fault]:
    """Everything but the rules."""
    yield from _identity(profile)
    yield from _levels(profile)
    yield from _spans(profile)
    yield from _clocks(profile)
    yield from _goods(profile, catalogue)
    yield from _breaks(profile, catalogue)
    yield from _recommendations(profile)
    yield from _sources(profile)


def _identity(profile: Profile) -> Iterator[Fault]:
    if not ID.fullmatch(profile.id):
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
    return span.amount * _MONTHS[span.unit]


def _spans(profile: Profile) -> Iterator[Fault]:
    for pointer, part in parts_of(profile):
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
    yield from good_faults(profile.sectors, catalogue, key_good.good, f"{pointer}/good")
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


def good_faults(
    sectors: Sequence[str], catalogue: Catalogue, code: str, pointer: str
) -> Iterator[Fault]:
    good = catalogue.goods.get(code)
    if good is None:
        known = {g for sector in sectors for g in catalogue.goods_of(sector)}
        yield unknown(pointer, "good", code, known or catalogue.goods)
    elif not set(good.sectors) & set(sectors):
        detail = f"{code} is a good of {' and '.join(good.sectors)}, not of {' or '.join(sectors)}."
        yield Fault(pointer, detail)


def place_faults(catalogue: Catalogue, code: str, pointer: str) -> Iterator[Fault]:
    """The fault of a place that is not known."""
    if not catalogue.is_place(code):
        yield unknown(pointer, "place", code, catalogue.places)


def _breaks(profile: Profile, catalogue: Catalogue) -> Iterator[Fault]:
    seen: set[object] = set()
    for number, broken in enumerate(profile.series_breaks):
        pointer = f"/series_breaks/{number}"
        yield from _break(profile, catalogue, broken, pointer)
        what = (broken.sector, broken.indicator, broken.good, broken.place, broken.at)
        if what in seen:
            yield Fault(pointer, "This break is there twice.")
        seen.add(what)
    if profile.allowed_lateness is not None and profile.allowed_lateness.days <= 0:
        yield Fault("/allowed_lateness/days", "A lateness that is allowed is more than 0 days.")
    if profile.overflow is not None and profile.overflow.open_alerts < 1:
        detail = "At least one alert may be open before others are folded into a summary."
        yield Fault("/overflow/open_alerts", detail)


def _break(
    profile: Profile, catalogue: Catalogue, broken: SeriesBreak, pointer: str
) -> Iterator[Fault]:
    if broken.sector not in profile.sectors:
        detail = f"{broken.sector!r} is not a sector of this mechanism."
        yield Fault(f"{pointer}/sector", detail, nearest(broken.sector, profile.sectors))
    if broken.indicator not in catalogue.indicators:
        known = catalogue.indicators
        yield unknown(f"{pointer}/indicator", "indicator", broken.indicator, known)
    elif broken.indicator not in catalogue.indicators_of(broken.sector):
        detail = f"{broken.sector} does not have the indicator {broken.indicator}."
        yield Fault(f"{pointer}/indicator", detail)
    if broken.good:
        yield from good_faults([broken.sector], catalogue, broken.good, f"{pointer}/good")
    if broken.place:
        yield from place_faults(catalogue, broken.place, f"{pointer}/place")
    if not broken.reason.strip():
        yield Fault(f"{pointer}/reason", "Say what changed; it is shown beside the series.")


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
    for pointer, part in parts_of(profile):
        for name in ("source", "validity_source"):
            for key in getattr(part, name, ()):
                if key != OUR_DESIGN and key not in profile.sources:
                    detail = f"There is no source {key!r} in 'sources'."
                    allowed = nearest(key, [*profile.sources, OUR_DESIGN])
                    yield Fault(f"{pointer}/{name}", detail, allowed)
