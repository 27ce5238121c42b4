"""Scores warnings against labelled disruptions: hits, misses, false episodes, and how early.

A *pair* is one labelled disruption on one series. An *episode* is a time in which some rule's
finding on a series fires without a pause as long as the series' own. Whatever is compared by time
is compared by reference period, so it does not matter whether a month is stamped on its first or
its last day.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from statistics import fmean, median
from typing import NamedTuple

from alerts.signals import SeriesKey, Severity

BEFORE_START = timedelta(days=30)
"""An opening so long before the start of a disruption is still a warning of it."""

BEFORE_START_AT_MOST = timedelta(days=60)
"""Where it was announced earlier than that, the announcement opens the window, but no further back."""

VISIBLE = frozenset({"yes", "partial"})
"""Labels of other visibility are listed and not scored: nothing in the data could show them."""

DAYS_IN_YEAR = 365.25


class Cadence(enum.StrEnum):
    """How often a series is observed, which says what one observation covers."""

    daily = "daily"
    weekly = "weekly"
    monthly = "monthly"
    quarterly = "quarterly"
    yearly = "yearly"


PAUSE = {
    Cadence.daily: 14,
    Cadence.weekly: 3,
    Cadence.monthly: 3,
    Cadence.quarterly: 3,
    Cadence.yearly: 3,
}
"""Episodes nearer than so many of the series' periods are one."""

TIMELY_DAYS = {
    Cadence.daily: 14,
    Cadence.weekly: 21,
    Cadence.monthly: 75,
    Cadence.quarterly: 165,
    Cadence.yearly: 440,
}
"""A warning that is public so many days after the start is timely still. Daily, weekly and monthly
are declared; the longer ones, ours, are a period and 75 days."""


class Period(NamedTuple):
    """The days an observation speaks of; both ends belong to it."""

    start: date
    end: date


def cadence_of(every_days: float) -> Cadence:
    """What a gap between observations amounts to; whatever is faster than daily counts as daily."""
    for cadence, most in (
        (Cadence.daily, 3.5),
        (Cadence.weekly, 15),
        (Cadence.monthly, 46),
        (Cadence.quarterly, 183),
    ):
        if every_days <= most:
            return cadence
    return Cadence.yearly


def period_of(at: datetime, every_days: float) -> Period:
    """The reference period of an observation: the day, week, month, quarter or year it falls in.

    A week begins on Monday (ISO 8601). Where in its period an observation is stamped does not
    matter.
    """
    cadence, day = cadence_of(every_days), at.astimezone(UTC).date()
    return _period(_number(day, cadence), cadence)


def _number(day: date, cadence: Cadence) -> int:
    """Counts periods, so that neighbours differ by one."""
    match cadence:
        case Cadence.daily:
            return day.toordinal()
        case Cadence.weekly:
            return (day.toordinal() - 1) // 7  # Day 1, the first of January of year 1, is a Monday.
        case Cadence.monthly:
            return day.year * 12 + day.month - 1
        case Cadence.quarterly:
            return day.year * 4 + (day.month - 1) // 3
        case Cadence.yearly:
            return day.year


def _period(number: int, cadence: Cadence) -> Period:
    if cadence is Cadence.daily:
        day = date.fromordinal(number)
        return Period(day, day)
    if cadence is Cadence.weekly:
        return Period(date.fromordinal(number * 7 + 1), date.fromordinal(number * 7 + 7))
    in_year = {Cadence.monthly: 12, Cadence.quarterly: 4, Cadence.yearly: 1}[cadence]
    return Period(_first_day(number, in_year), _first_day(number + 1, in_year) - timedelta(days=1))


def _first_day(number: int, in_year: int) -> date:
    year, place = divmod(number, in_year)
    return date(year, place * (12 // in_year) + 1, 1)


class Kind(enum.StrEnum):
    """What a label says of its window."""

    positive = "positive"
    near_miss = "near_miss"
    negative_control = "negative_control"
    ambiguous = "ambiguous"


@dataclass(frozen=True, slots=True)
class Label:
    """A disruption, or a declared absence of one, on one series or several.

    An empty ``good``, ``place``, ``indicator`` or ``sector`` names the series without one and,
    where there is no such series, all. Without an ``end`` it lasts. Rows of one ``id`` are one event.
    """

    id: str
    sector: str
    indicator: str
    good: str
    place: str
    start: date
    end: date | None
    kind: Kind = Kind.positive
    announced: date | None = None
    visible: str = "yes"
    title: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is scored."""
        return self.visible in VISIBLE

    @property
    def window(self) -> tuple[date, date]:
        """From when to when an opening speaks of it.

        From 30 days before the start, or from the announcement where that is earlier, but at most
        60 days before the start. A negative control is exactly as long as it says.
        """
        end = self.end or date.max
        if self.kind is Kind.negative_control:
            return self.start, end
        begin = self.start - BEFORE_START
        if self.announced is not None and self.announced < begin:
            begin = max(self.announced, self.start - BEFORE_START_AT_MOST)
        return begin, end

    def is_about(self, key: SeriesKey) -> bool:
        """Whether it can be meant of that series; what it leaves empty is not looked at."""
        said = (self.sector, self.indicator, self.good, self.place)
        return all(not word or word == its for word, its in zip(said, key, strict=False))

    def names(self, key: SeriesKey) -> bool:
        """Whether it names exactly that series."""
        return (self.sector, self.indicator, self.good, self.place) == key[:4]


@dataclass(frozen=True, slots=True)
class Exemption:
    """A time declared beforehand in which certain series are not scored."""

    title: str
    start: date
    end: date
    sectors: tuple[str, ...] = ()
    indicators: tuple[str, ...] = ()
    goods: tuple[str, ...] = ()

    def covers(self, key: SeriesKey) -> bool:
        """Whether a series is one of them: by its sector, its indicator or its good."""
        return (
            key.sector in self.sectors or key.indicator in self.indicators or key.good in self.goods
        )


DECLARED = (
    Exemption(
        "COVID-19 stopped production and sales of vehicles alike",
        date(2020, 1, 23),
        date(2020, 8, 31),
        sectors=("automotive", "vehicles"),
        indicators=("auto_inventory", "auto_inventories", "inventory_sales_ratio"),
        goods=("cars", "vehicles", "autos"),
    ),
)
"""The exemptions that hold unless others are declared. Series of vehicles are known by any of the
three; a ratio of stock to sales counts as one, for want of a better sign."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A series as it was replayed.

    ``every_days`` is the usual gap between its observations, ``first`` and ``last`` its ends.
    ``judged`` is false where no rule asks it; ``told`` is true of reported events, which are what
    somebody said rather than what was judged. ``pause`` is how many observations its rules wait
    before they clear.
    """

    key: SeriesKey
    every_days: float
    first: datetime
    last: datetime
    observations: int = 0
    judged: bool = True
    told: bool = False
    pause: int = 0

    @property
    def cadence(self) -> Cadence:
        """How often it is observed."""
        return cadence_of(self.every_days)

    def number(self, at: datetime) -> int:
        """Counts its periods."""
        return _number(at.astimezone(UTC).date(), self.cadence)

    def period(self, at: datetime) -> Period:
        """The reference period of an observation of it."""
        return period_of(at, self.every_days)


@dataclass(frozen=True, slots=True)
class Episode:
    """A time in which a series fired: the observations that turned it on, and off again.

    ``known_at`` is when the opening observation could be known; ``rules`` are those that fired.
    """

    series: SeriesKey
    opened: datetime
    resolved: datetime | None
    peak: Severity
    known_at: datetime
    rules: tuple[str, ...] = ()


def joined(watched: Watched, episodes: Iterable[Episode]) -> list[Episode]:
    """The episodes of one series, those nearer to each other than its pause made one.

    The pause is 14 days, 3 weeks or 3 months, and longer where its rules wait longer to clear.
    """
    pause = max(PAUSE[watched.cadence], watched.pause)
    found: list[Episode] = []
    for episode in sorted(episodes, key=lambda e: e.opened):
        before = found[-1] if found else None
        if before is None or (
            before.resolved is not None
            and watched.number(episode.opened) - watched.number(before.resolved) >= pause
        ):
            found.append(episode)
            continue
        ends = before.resolved and episode.resolved and max(before.resolved, episode.resolved)
        found[-1] = replace(
            before,
            resolved=ends,
            peak=max(before.peak, episode.peak),
            rules=tuple(sorted({*before.rules, *episode.rules})),
        )
    return found


class Outcome(enum.StrEnum):
    """What became of a pair."""

    hit = "hit"
    covered = "covered"
    miss = "miss"


@dataclass(frozen=True, slots=True)
class Pair:
    """A disruption on a series, and the warning of it.

    Leads are days from when the warning could be public to the start, or to the announcement;
    negative when late. A covered pair, where the warning of another disruption still stood, has
    the lead of that warning, which no average counts. ``why`` says what a miss had against it.
    """

    label: Label
    series: SeriesKey
    outcome: Outcome
    episode: Episode | None = None
    lead_days: float | None = None
    lead_on_announced_days: float | None = None
    timely: bool = False
    why: str = ""


class Verdict(enum.StrEnum):
    """What an episode was."""

    hit = "hit"
    false = "false"
    near_miss = "near_miss"
    ambiguous = "ambiguous"
    exempt = "exempt"
    left_out = "left_out"
    told = "told"


@dataclass(frozen=True, slots=True)
class Judged:
    """An episode and what it was; ``label`` is the one whose window it opened in.

    ``unscored`` names a label that is not scored but in whose window a false episode opened.
    """

    episode: Episode
    verdict: Verdict
    label: str | None = None
    unscored: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A label that was not scored on a series, and why."""

    label: Label
    series: SeriesKey | None
    why: str


class Leads(NamedTuple):
    """Lead times in days; negative is late."""

    pairs: int
    lowest: float
    median: float
    mean: float
    highest: float


@dataclass(frozen=True, slots=True)
class Score:
    """How the warnings did. Rates whose denominator is empty are None."""

    series: int
    series_years: float
    pairs: tuple[Pair, ...] = ()
    episodes: tuple[Judged, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    exempted: tuple[tuple[Exemption, SeriesKey], ...] = ()

    def count(self, outcome: Outcome) -> int:
        """How many pairs came out so."""
        return sum(p.outcome is outcome for p in self.pairs)

    @property
    def hits(self) -> int:
        """Pairs that were warned of, covered ones among them."""
        return self.count(Outcome.hit) + self.count(Outcome.covered)

    @property
    def misses(self) -> int:
        """Pairs nothing warned of."""
        return self.count(Outcome.miss)

    @property
    def false_episodes(self) -> int:
        """Episodes that speak of nothing."""
        return sum(j.verdict is Verdict.false for j in self.episodes)

    @property
    def pod(self) -> float | None:
        """Probability of detection: H / (H + M)."""
        return _ratio(self.hits, self.hits + self.misses)

    @property
    def far(self) -> float | None:
        """False alarm ratio: F / (H + F)."""
        return _ratio(self.false_episodes, self.hits + self.false_episodes)

    @property
    def csi(self) -> float | None:
        """Critical success index: H / (H + M + F)."""
        return _ratio(self.hits, self.hits + self.misses + self.false_episodes)

    @property
    def false_per_series_year(self) -> float | None:
        """False episodes in a year of one series."""
        return _ratio(self.false_episodes, self.series_years)

    @property
    def timely(self) -> int:
        """Pairs that were warned of in time."""
        return sum(p.timely for p in self.pairs)

    @property
    def events(self) -> dict[str, Outcome]:
        """What became of each disruption: the best of its pairs, by id."""
        best = [Outcome.hit, Outcome.covered, Outcome.miss]
        found: dict[str, Outcome] = {}
        for pair in self.pairs:
            before = found.get(pair.label.id, Outcome.miss)
            found[pair.label.id] = min(before, pair.outcome, key=best.index)
        return dict(sorted(found.items()))

    @property
    def leads(self) -> Leads | None:
        """Against the start, of pairs that were hit."""
        return _leads(p.lead_days for p in self.pairs if p.outcome is Outcome.hit)

    @property
    def leads_on_announced(self) -> Leads | None:
        """Against the announcement, of pairs that were hit and announced."""
        return _leads(p.lead_on_announced_days for p in self.pairs if p.outcome is Outcome.hit)


def score(
    labels: Sequence[Label],
    watched: Sequence[Watched],
    episodes: Iterable[Episode],
    exemptions: Sequence[Exemption] = DECLARED,
    since: date | None = None,
) -> Score:
    """Scores the episodes of the watched series.

    Args:
        labels: what is known to have happened, or not to have.
        watched: every series that was replayed.
        episodes: of any of them, in any order, not yet joined.
        exemptions: times and series that are not scored.
        since: what opened or started before that day is not scored, nor its years counted.
    """
    by_series: dict[SeriesKey, list[Episode]] = {}
    for episode in episodes:
        by_series.setdefault(episode.series, []).append(episode)
    watched = sorted(watched, key=lambda w: w.key)
    meant = _meant(labels, watched)
    left_out = [
        LeftOut(label, None, _unscored(label) or "no series of it is in the data")
        for label in labels
        if not meant[label] or not label.counts
    ]
    pairs: list[Pair] = []
    judged: list[Judged] = []
    years = 0.0
    for series in watched:
        begins = max(series.period(series.first).start, since or date.min)
        spans = [x for x in exemptions if x.covers(series.key)]
        its = [label for label in labels if series.key in meant[label]]
        bench = _Bench(series, begins, spans, [label for label in its if label.counts])
        found = joined(series, by_series.get(series.key, ()))
        pairs += bench.pairs(found)
        left_out += bench.left_out
        unscored = [label for label in its if not label.counts and label.kind is Kind.positive]
        judged += [j for e in found if (j := bench.judged(e, unscored)) is not None]
        if series.judged and not series.told:
            span = series.period(series.last).end - begins
            years += max((span.days + 1) / DAYS_IN_YEAR, 0.0)
    return Score(
        series=sum(w.judged and not w.told for w in watched),
        series_years=years,
        pairs=tuple(sorted(pairs, key=lambda p: (p.label.start, p.label.id, p.series))),
        episodes=tuple(sorted(judged, key=lambda j: (j.episode.opened, j.episode.series))),
        left_out=tuple(sorted(left_out, key=lambda o: (o.label.start, o.label.id, o.series or ()))),
        exempted=tuple((x, w.key) for x in exemptions for w in watched if x.covers(w.key)),
    )


def _meant(
    labels: Sequence[Label], watched: Sequence[Watched]
) -> Mapping[Label, frozenset[SeriesKey]]:
    """The series each label speaks of: the one it names or, where there is none, all it fits."""
    keys = {w.key for w in watched}
    found: dict[Label, frozenset[SeriesKey]] = {}
    for label in labels:
        named = SeriesKey(label.sector, label.indicator, label.good, label.place)
        found[label] = (
            frozenset({named}) if named in keys else frozenset(k for k in keys if label.is_about(k))
        )
    return found


def _unscored(label: Label) -> str:
    return "" if label.counts else f"visible is {label.visible!r}, not yes or partial"


@dataclass(slots=True)
class _Bench:
    """One series with the labels that count on it; ``left_out`` is filled by ``pairs``."""

    series: Watched
    begins: date
    exemptions: Sequence[Exemption]
    labels: Sequence[Label]
    left_out: list[LeftOut] = field(default_factory=list)

    def pairs(self, episodes: Sequence[Episode]) -> list[Pair]:
        """What became of each positive label."""
        scored: list[Label] = []
        for label in self.labels:
            if label.kind is not Kind.positive:
                continue
            if why := self._reason_to_leave_out(label):
                self.left_out.append(LeftOut(label, self.series.key, why))
            else:
                scored.append(label)
        positive = [label for label in self.labels if label.kind is Kind.positive]
        opened_in = {x: [e for e in episodes if self._hits(e, x)] for x in positive}
        true = {e for found in opened_in.values() for e in found}
        return [self._pair(label, opened_in[label], true, episodes) for label in scored]

    def _pair(
        self,
        label: Label,
        openings: Sequence[Episode],
        true: set[Episode],
        episodes: Sequence[Episode],
    ) -> Pair:
        on = [e for e in episodes if self._is_on(e, label.start)]
        covering = [e for e in on if e in true]
        if not openings and not covering:
            why = "a false episode was already on" if on else "nothing fired"
            if not self.series.judged:
                why = "no rule asks this series"
            return Pair(label, self.series.key, Outcome.miss, on[0] if on else None, why=why)
        episode = (openings or covering)[0]
        lead = _days(label.start, episode.known_at)
        return Pair(
            label,
            self.series.key,
            Outcome.hit if openings else Outcome.covered,
            episode,
            lead,
            None if label.announced is None else _days(label.announced, episode.known_at),
            timely=lead >= -TIMELY_DAYS[self.series.cadence],
        )

    def _reason_to_leave_out(self, label: Label) -> str:
        if label.end is not None and label.end < self.begins:
            return "it was over before the series begins"
        if label.start <= self.begins:
            return "it was under way when the series begins"
        if label.window[0] > self.series.period(self.series.last).end:
            return "it starts after the series ends"
        for exemption in self.exemptions:
            if exemption.start <= label.start <= exemption.end:
                return f"exempt: {exemption.title}"
        return ""

    def _opens_in(self, episode: Episode, begin: date, end: date) -> bool:
        period = self.series.period(episode.opened)
        return period.end >= begin and period.start <= end

    def _hits(self, episode: Episode, label: Label) -> bool:
        """Whether it opens in a positive window, and in no negative control."""
        return self._opens_in(episode, *label.window) and self._control(episode) is None

    def _control(self, episode: Episode) -> Label | None:
        return next(
            (
                label
                for label in self.labels
                if label.kind is Kind.negative_control and self._opens_in(episode, *label.window)
            ),
            None,
        )

    def _is_on(self, episode: Episode, day: date) -> bool:
        """Whether the newest observation that speaks of a day left the episode on."""
        if self.series.period(episode.opened).start > day:
            return False
        return episode.resolved is None or self.series.period(episode.resolved).start > day

    def judged(self, episode: Episode, unscored: Sequence[Label]) -> Judged | None:
        """What an episode was; None where it opened before anything is scored."""
        if self.series.period(episode.opened).end < self.begins:
            return None
        if (control := self._control(episode)) is not None:
            return Judged(episode, Verdict.false, control.id)
        within = [x for x in self.labels if self._opens_in(episode, *x.window)]
        left_out = {o.label for o in self.left_out}
        positive = [x for x in within if x.kind is Kind.positive]
        for label in positive:
            if label not in left_out:
                return Judged(episode, Verdict.hit, label.id)
        if any(self._opens_in(episode, x.start, x.end) for x in self.exemptions):
            return Judged(episode, Verdict.exempt)
        if positive:
            return Judged(episode, Verdict.left_out, positive[0].id)
        if within:
            return Judged(episode, Verdict(within[0].kind.value), within[0].id)
        if self.series.told:
            return Judged(episode, Verdict.told)
        near = next((x.id for x in unscored if self._opens_in(episode, *x.window)), None)
        return Judged(episode, Verdict.false, unscored=near)


def _days(day: date, known_at: datetime) -> float:
    """Days from an instant to the beginning of a day; negative when the instant is later."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return round((start - known_at) / timedelta(days=1), 2)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _leads(days: Iterable[float | None]) -> Leads | None:
    found = sorted(d for d in days if d is not None)
    if not found:
        return None
    return Leads(len(found), found[0], median(found), fmean(found), found[-1])
