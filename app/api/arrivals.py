"""What a request says, as arrivals for ingest: decoded, checked against the catalogue, or refused.

The hot path: the body is decoded by msgspec straight into items; only when that fails is each item
decoded alone, so that one bad item does not cost its neighbours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec

from alerts import catalogue as catalogue_of
from alerts.catalogue import Event, Fault, Indicator
from alerts.mechanisms import Tlp
from alerts.retention import UNMARKED, Retention
from alerts.signals import Origin, PartnerId, SeriesKey, Severity
from app.api.problems import Problem
from app.house import House
from app.ingest import Arrival
from app.policy import Policy
from app.settings import Settings

_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
_EXERCISE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
# Looking for the nearest codes takes milliseconds; a batch full of faults must not hold the others.
_SUGGESTIONS = 20

_Instant = Annotated[datetime, msgspec.Meta(tz=True)]
_Code = Annotated[str, msgspec.Meta(max_length=64)]
_Line = Annotated[str, msgspec.Meta(max_length=500)]
_Text = Annotated[str, msgspec.Meta(max_length=2_000)]
_Grade = Annotated[str, msgspec.Meta(pattern="^[A-F][1-6]$")]
_SeverityName = Literal["minor", "moderate", "severe", "extreme"]
_Revision = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class _Keyed(msgspec.Struct, kw_only=True):
    """What names one observation: its series and its instant."""

    sector: _Code
    observed_at: _Instant
    indicator: _Code = ""
    event: _Code = ""
    good: _Code | None = None
    place: _Code | None = None
    exercise: _Code | None = None


class Item(_Keyed, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One signal: a measurement (`indicator`, `value`, `unit`) or an event (`event`)."""

    value: float | None = None
    unit: _Code | None = None
    severity: _SeverityName | None = None
    announced_at: _Instant | None = None
    effective_at: _Instant | None = None
    revision: _Revision | None = None
    id: _Line | None = None
    origin: Origin | None = None
    origin_ref: _Line | None = None
    reliability: _Grade | None = None
    tlp: Tlp | None = None
    note: _Text | None = None
    horizon: _Instant | None = None


class Retraction(_Keyed, kw_only=True, forbid_unknown_fields=True):
    """A signal taken back: the key it was reported under, and why."""

    reason: _Text


_DETAILS = (
    "id",
    "origin",
    "origin_ref",
    "reliability",
    "tlp",
    "note",
    "horizon",
    "announced_at",
    "effective_at",
)
_NOTHING = (None,) * len(_DETAILS)
_details_of = attrgetter(*_DETAILS)

_items = msgspec.json.Decoder(list[Item])
_raw_items = msgspec.json.Decoder(list[msgspec.Raw])
_item = msgspec.json.Decoder(Item)
_retractions = msgspec.json.Decoder(list[Retraction] | Retraction)


@dataclass(slots=True)
class Checked:
    """A request after checking: what may be stored, where each came from, and what may not."""

    arrivals: list[Arrival] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    refused: dict[int, Problem] = field(default_factory=dict)


def _is_array(body: bytes) -> bool:
    return body.lstrip()[:1] == b"["


def check_items(
    body: bytes, partner: PartnerId, here: House, now: datetime
) -> tuple[Checked, bool]:
    """Decodes and checks every item; and whether they came as an array.

    What is wrong with one item is kept for its answer.

    Raises:
        Problem: the body is no JSON, or too long.
    """
    checked = Checked()
    taken = _Taken.now(here.settings, now)
    if not _is_array(body):
        decoded = _decode_alone(body, "")
        found = (
            decoded if isinstance(decoded, Problem) else _check(decoded, partner, here, taken, "")
        )
        _file(checked, 0, found)
        return checked, False
    try:
        items: Sequence[Item | Problem] = _items.decode(body)
    except msgspec.ValidationError:
        _must_be_json(body)
        raws = _raw_items.decode(body)
        _limit(len(raws), here.settings)
        items = [_decode_alone(bytes(raw), f"/{i}") for i, raw in enumerate(raws)]
    except _NOT_JSON as error:
        raise _not_json(error) from error
    _limit(len(items), here.settings)
    for index, item in enumerate(items):
        if isinstance(item, Problem):
            _file(checked, index, item)
        else:
            suggest = len(checked.refused) < _SUGGESTIONS
            found = _check(item, partner, here, taken, f"/{index}", suggest=suggest)
            _file(checked, index, found)
    return checked, True


def check_retractions(
    body: bytes, partner: PartnerId, here: House, now: datetime
) -> tuple[Checked, bool]:
    """Decodes and checks what is to be taken back; and whether it was an array.

    Raises:
        Problem: the body is no JSON, or not of that shape, or too long.
    """
    try:
        decoded = _retractions.decode(body)
    except msgspec.ValidationError as error:
        _must_be_json(body)
        raise _refusal((_fault_of(error, Retraction),), "") from error
    except _NOT_JSON as error:
        raise _not_json(error) from error
    several = isinstance(decoded, list)
    retractions = decoded if isinstance(decoded, list) else [decoded]
    _limit(len(retractions), here.settings)
    checked = Checked()
    taken = _Taken.now(here.settings, now)
    for index, said in enumerate(retractions):
        key = _key(said)
        pointer = f"/{index}" if several else ""
        faults: list[Fault] = []
        if _subject(here.policy, key, is_event=bool(said.event)) is None:
            suggest = len(checked.refused) < _SUGGESTIONS
            faults.extend(_key_faults(here.policy, key, is_event=bool(said.event), suggest=suggest))
        faults.extend(_impossible_instant(said.observed_at, taken))
        faults.extend(_misnamed_exercise(said.exercise))
        faults.extend(_unstorable(said, ("reason",)))
        if faults:
            checked.refused[index] = _refusal(faults, pointer)
            continue
        detail = msgspec.json.encode({"note": said.reason}).decode()
        checked.places.append(index)
        checked.arrivals.append(
            Arrival(
                partner,
                key,
                _in_utc(said.observed_at),
                None,
                detail=detail,
                is_event=bool(said.event),
            )
        )
    return checked, several


def _limit(count: int, settings: Settings) -> None:
    if not 1 <= count <= settings.ingest_batch_limit:
        raise Problem(
            "too-large" if count else "invalid",
            f"A batch has 1 to {settings.ingest_batch_limit} items; this one has {count}.",
        )


def _file(checked: Checked, index: int, found: Arrival | Problem) -> None:
    if isinstance(found, Problem):
        checked.refused[index] = found
    else:
        checked.places.append(index)
        checked.arrivals.append(found)


def _decode_alone(raw: bytes, pointer: str) -> Item | Problem:
    try:
        return _item.decode(raw)
    except msgspec.ValidationError as error:
        _must_be_json(raw)
        return _refusal((_fault_of(error, Item),), pointer)
    except _NOT_JSON as error:
        raise _not_json(error) from error


def _must_be_json(body: bytes) -> None:
    """A document of the wrong shape may also break off further on; that comes first."""
    try:
        msgspec.json.decode(body)
    except _NOT_JSON as error:
        raise _not_json(error) from error


_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _not_json(error: Exception) -> Problem:
    said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Problem("malformed-request", f"The body is not JSON in UTF-8: {said}.")


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def _fault_of(error: msgspec.ValidationError, model: type[msgspec.Struct]) -> Fault:
    """A fault from msgspec's "what - at `$.path`"."""
    said, _, path = str(error).partition(" - at `$")
    pointer = re.sub(r"\[(\d+)\]", r"/\1", path.rstrip("`")).replace(".", "/").replace("[...]", "")
    if unknown := _UNKNOWN.fullmatch(said):
        name = unknown[1][:64]
        fields = catalogue_of.nearest(name, model.__struct_fields__)
        escaped = name.replace("~", "~0").replace("/", "~1")
        return Fault(f"{pointer}/{escaped}", "there is no such field", fields)
    return Fault(pointer, said)


def _check(
    item: Item,
    partner: PartnerId,
    here: House,
    taken: _Taken,
    pointer: str,
    *,
    suggest: bool = True,
) -> Arrival | Problem:
    """An item as an arrival, or everything that is wrong with it."""
    key = _key(item)
    is_event = bool(item.event)
    subject = _subject(here.policy, key, is_event=is_event)
    faults: list[Fault] = []
    if subject is None or (item.indicator and item.event):
        faults.extend(_item_faults(here.policy, item, key, suggest=suggest))
    elif isinstance(subject, Indicator):
        if item.value is None or item.unit is None:
            faults.extend(_missing(item, subject))
        elif fault := catalogue_of.value_fault(subject, item.unit, item.value):
            faults.append(fault)
    if not taken.all_from <= item.observed_at <= taken.latest:
        faults.extend(_impossible_instant(item.observed_at, taken))
        faults.extend(_retired(item, taken))
    is_plain = _details_of(item) == _NOTHING
    if not is_plain or is_event or item.exercise is not None or item.severity is not None:
        faults.extend(_odd_fields(item, is_event=is_event))
    if faults:
        return _refusal(faults, pointer)
    value = item.value
    if isinstance(subject, Event):
        value = float(Severity[item.severity] if item.severity else subject.severity)
    detail = None if is_plain else _detail(item)
    at = _in_utc(item.observed_at)
    return _arrival((partner, key, at, value, item.revision, detail, is_event))


@dataclass(frozen=True, slots=True)
class _Taken:
    """Of which instants signals are taken now: none later than ``latest``, whatever they are none
    refused from ``all_from`` on, and before that as the retention policy says.
    """

    at: datetime
    latest: datetime
    all_from: datetime
    retention: Retention

    @classmethod
    def now(cls, settings: Settings, now: datetime) -> _Taken:
        retention = Retention(settings.retention)
        latest = now + timedelta(seconds=settings.future_tolerance_seconds)
        return cls(now, latest, retention.all_kept_from(now) or _EARLIEST, retention)


def _retired(item: Item, taken: _Taken) -> list[Fault]:
    """What the record would give up within the hour is not taken, so that nothing hangs on it."""
    label = item.tlp.value if item.tlp else UNMARKED
    kept_from = taken.retention.kept_from(taken.at, item.sector, label)
    if kept_from is None or item.observed_at >= kept_from:
        return []
    marked = f"marked TLP:{label}" if label else "without a label"
    return [
        Fault(
            "/observed_at",
            f"signals of {item.sector} {marked} are kept here from {kept_from:%Y-%m-%d} on; "
            f"{item.observed_at.isoformat()} is older",
        )
    ]


def _in_utc(at: datetime) -> datetime:
    return at if at.tzinfo is UTC else at.astimezone(UTC)


def _impossible_instant(observed_at: datetime, taken: _Taken) -> list[Fault]:
    if observed_at > taken.latest:
        said = f"{observed_at.isoformat()} is in the future; check your clock"
        return [Fault("/observed_at", said)]
    if observed_at < _EARLIEST:
        return [Fault("/observed_at", "nothing was observed before the year 1900")]
    return []


def _odd_fields(item: Item, *, is_event: bool) -> list[Fault]:
    """What an event or a measurement may not carry, and text PostgreSQL cannot hold."""
    faults = _misnamed_exercise(item.exercise)
    wrong = ("value", "unit") if is_event else ("severity", "announced_at", "effective_at")
    for name in wrong:
        if getattr(item, name) is not None:
            kind = "an event has" if is_event else "a measurement has"
            faults.append(Fault(f"/{name}", f"{kind} no {name}"))
    return faults + _unstorable(item, ("id", "origin_ref", "note"))


def _misnamed_exercise(exercise: str | None) -> list[Fault]:
    if exercise is None or _EXERCISE.fullmatch(exercise):
        return []
    said = "an exercise is named by 1 to 64 lower-case letters, digits and hyphens"
    return [Fault("/exercise", said)]


def _unstorable(item: _Keyed, names: Sequence[str]) -> list[Fault]:
    return [
        Fault(f"/{name}", "the character U+0000 cannot be stored")
        for name in names
        if "\x00" in (getattr(item, name) or "")
    ]


def _missing(item: Item, subject: Indicator) -> list[Fault]:
    faults: list[Fault] = []
    if item.value is None:
        faults.append(
            Fault("/value", "a measurement has a value; to take one back, use /v1/signals/retract")
        )
    if item.unit is None:
        faults.append(Fault("/unit", "the unit is missing", (subject.unit,)))
    return faults


def _key(item: _Keyed) -> SeriesKey:
    named = item.event or item.indicator
    return _series_key((item.sector, named, item.good or "", item.place or "", item.exercise or ""))


# Of the same values, without one more call in Python for each.
_series_key = partial(tuple.__new__, SeriesKey)
_arrival = partial(tuple.__new__, Arrival)


_VETTED_AT_MOST = 1_000_000


def _subject(policy: Policy, key: SeriesKey, *, is_event: bool) -> Indicator | Event | None:
    """What the series measures or tells of; None when its key is not in the catalogue.

    Each key is checked against the catalogue once.
    """
    found = policy.vetted.get((key, is_event))
    if found is None and not _key_faults(policy, key, is_event=is_event, suggest=False):
        known: Mapping[str, Indicator | Event] = (
            policy.catalogue.events if is_event else policy.catalogue.indicators
        )
        found = known[key.indicator]
        if len(policy.vetted) < _VETTED_AT_MOST:
            policy.vetted[key, is_event] = found
    return found


def _key_faults(
    policy: Policy, key: SeriesKey, *, is_event: bool, suggest: bool
) -> tuple[Fault, ...]:
    return catalogue_of.faults(
        policy.catalogue,
        key.sector,
        indicator="" if is_event else key.indicator,
        event=key.indicator if is_event else "",
        good=key.good,
        place=key.place,
        suggest=suggest,
    )


def _item_faults(policy: Policy, item: Item, key: SeriesKey, *, suggest: bool) -> tuple[Fault, ...]:
    value = item.value if item.value is None or math.isfinite(item.value) else None
    return catalogue_of.faults(
        policy.catalogue,
        item.sector,
        indicator=item.indicator,
        event=item.event,
        good=key.good,
        place=key.place,
        unit=item.unit,
        value=value,
        suggest=suggest,
    )


def _detail(item: Item) -> str:
    said = zip(_DETAILS, _details_of(item), strict=True)
    return msgspec.json.encode({name: v for name, v in said if v is not None}).decode()


def _refusal(faults: Sequence[Fault], pointer: str) -> Problem:
    errors: list[dict[str, Any]] = []
    for fault in faults:
        error: dict[str, Any] = {"pointer": pointer + fault.pointer, "detail": fault.detail}
        if fault.allowed:
            error["allowed"] = list(fault.allowed)
        errors.append(error)
    where = errors[0]["pointer"] or "the signal"
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    return Problem("invalid", f"{where}: {errors[0]['detail'].rstrip('.')}{more}.", errors=errors)
