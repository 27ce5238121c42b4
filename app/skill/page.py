"""What was found, for people: the page ``docs/skill.md``; and as a document for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from alerts.signals import SeriesKey
from alerts.skill import DECLARED, Kind, Outcome, Pair, Score, Verdict
from app.backtest import report
from app.backtest.reading import series_name
from app.skill import Found, choosing, made_up, methods, recorded
from app.skill.choosing import Choice, tally
from app.skill.plays import Played

SHORTAGE = "SEMI-2020-SHORTAGE"

COMMAND = "forewarn skill --write docs/skill.md"
DASH = "\N{EN DASH}"

SUEZ = SeriesKey("shipping", "chokepoint_transits", "", "suez")
BAB_EL_MANDEB = SeriesKey("shipping", "chokepoint_transits", "", "bab_el_mandeb")
INVENTORY = SeriesKey("semiconductors", "inventory", "cars", "US")

NAMES = {
    SUEZ: "ships at Suez",
    BAB_EL_MANDEB: "ships at Bab el-Mandeb",
    SeriesKey("shipping", "chokepoint_transits", "", "malacca"): "ships at Malacca",
    SeriesKey("all_sectors", "gscpi", "", ""): "GSCPI",
    INVENTORY: "US car inventories",
    SeriesKey(
        "semiconductors", "inventory_sales_ratio", "cars", "US"
    ): "US car inventories / sales",
    SeriesKey("semiconductors", "industrial_production", "", "US"): "US semiconductor output",
    SeriesKey(
        "critical_minerals", "export_volume", "hs_811292", "CN"
    ): "China's exports, HS 811292",
}
"""The recorded series in words."""

_INTRODUCTION = """\
Written by `{command}`; `make skill` writes it anew. Do not edit. The same data and the same rules
give the same bytes.

How good are the early warnings of the profile `{profile}` (version {version}), unchanged, on what
really happened? The data, and where they come from, stand in
[`app/skill/{data}`](../app/skill/{data}/README.md). To replay the same:

```
forewarn backtest --profile {profile} --data app/skill/{data} --labels app/skill/labels.csv
```"""

_SCORED = """\
A *pair* is a disruption on a series on which it can be seen. It is *hit* when an episode opens in its
window: from 30 days before the start (or the announcement where that is earlier, at most 60 days)
to its end, compared by the period the observation speaks of. It is *covered*, which counts as a hit,
when the episode of another disruption is still on at its start. It is a *miss* otherwise, also when
a false episode was already on. An episode is a time in which any rule's finding on the series fires;
those nearer than 14 days, 3 weeks or 3 months are one. It is *false* when it opens in no window of
a disruption, a near miss or an ambiguous label, and always in a negative control. *Public on* is when
the opening observation was published; leads are counted from that day, negative is late. *Timely*
is within 14 days of the start for daily series and 75 for monthly ones. Not scored are {exempt}.
Labels whose disruption these data cannot show are listed at the end, not scored; they excuse no
false episode either.

The {pairs} pairs are those labelled visible `yes` or `partial`: the shortage of chips counts on three
series (US car inventories, their ratio to sales, GSCPI), {singles} other labels on one each. A covered
pair was warned of by an alert that had stood since another disruption: nobody was told anything new,
unless its severity rose."""

_AS_OF = """\
Every value counts from the day it was published, and every later vintage corrects it when it came
out; the engine judges again what a correction touches. Vintages: {vintages}; ships have one. Before
the first vintage that was kept the values are those of that vintage, on the day each period was first
published: what the first prints of earlier years looked like is not in these data, so this is less
severe than it sounds."""

_FALSE = """\
{last} by the last vintage ({last_rate} a series-year), {as_of} as of ({as_of_rate}). No label speaks of
them. What else happened then is said where we know of something; they are not fitted away, and count."""

_UNSEEN = """\
Disruptions and near misses that nothing here shows, because the series that would was not to be had
or is too coarse (`no`), moves too little (`weak`), or because they lie within a greater one
(`confounded`). They are neither hits nor misses: a profile judged only by what could be collected is
judged mildly."""

BESIDES = (
    (date(2001, 9, 11), date(2001, 12, 31), "interest-free car sales after 11 September 2001"),
    (date(2008, 9, 15), date(2009, 6, 30), "the slump after the failure of Lehman Brothers"),
    (date(2009, 7, 1), date(2009, 8, 31), "the US scrappage scheme for cars"),
)
"""What is known to have happened that is no disruption of supply: from, until, what."""

_LEFT_OUT = """\
Nothing in the profile belongs to one series, so there is nothing to fit to one. What can flatter is
that the constants were chosen in sight of all series. So they are chosen again without each one:
from a grid of {points} (`ratio` as shipped or 0.25 less or more, `quantile` 0.97, 0.98 or 0.99, `need`
as shipped or one view less or more), by what they do on all other recorded series that are observed
as often and on {learnt} made-up ones ({kinds}; none of them in the table of made-up series below). Of
the points with at most {budget} false episodes a series-year there, the one with the most hits is
taken; of equals the one with fewest false episodes, then the one nearest to the shipped constants.
It is scored on the series left out. The grid lies around the shipped constants, and the views
themselves (which levels, which changes) are not chosen again: it flatters still, but less. GSCPI is
judged by a fixed band in its own standard deviations, so nothing is chosen for it."""

_OTHERS = """\
The same questions by textbook methods with the constants of their sources, none of them tuned, all
one-sided in the direction of harm, on raw values. Everything else is equal: the same hold (down to
six tenths of the limit) and wait before clearing, baselines kept as they were at the onset where
the method has one, the same scoring. Of GSCPI, which passes through zero, there is no percentage: the
25 % rule does not ask it, and its pairs are missed. A method whose baseline is kept as it was at the
onset can stay on for years where the new level lasts, and then misses what follows; that is how the
service would run it. Of each group of series: hits · false episodes."""

_NOISE = """\
These data are few and easy: {pairs} pairs of {events} disruptions, most of them enormous, and five
pairs on one index. **A difference of a few pairs is noise.** At the straits almost any method finds
the four; what tells methods apart is what they say the rest of the time, and on other series."""

_MADE_UP = """\
**These series are made up**, {each} of each kind, by a recipe in `app/skill/made_up.py`: weekly and
yearly seasons, a dip around the lunar new year, drift, noise that remembers or random walks, booms
that end, strikes of one to three observations, jumps of coverage, gaps, small counts. Each has two
disruptions: a stop, a slow fall, a third less, or half, upwards where up is harm. The numbers come
from arithmetic seeds, and no constant was chosen by these series; but those of the profile were tried
on made-up series of similar kinds by another recipe, the textbook ones on none. Real series are
worse: read it as a comparison of methods, not as a promise. Hits of {pairs} pairs a kind · false
episodes a series-year."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be so, what is aimed at, and what was measured."""

    title: str
    wanted: str
    aim: str
    measured: str
    met: bool
    aimed: bool


def checks(found: Found) -> list[Check]:
    """Everything asked of the profile by name."""
    made: list[Check] = []
    for basis, score in (("last vintage", found.final.score), ("as of", found.as_of.score)):
        rate = score.false_per_series_year or 0.0
        alarms = _on_control(score)
        made += [
            Check(
                f"Pairs hit, {basis}",
                f"10 of {len(score.pairs)}",
                "all",
                f"{score.hits}, {score.count(Outcome.covered)} of them covered",
                score.hits >= 10,
                score.misses == 0,
            ),
            Check(
                f"False episodes a series-year, {basis}",
                "at most 0.05",
                "0.02",
                f"{rate:.3f}",
                rate <= 0.05,
                rate <= 0.02,
            ),
            Check(
                f"Negative control (Malacca, November 2021), {basis}",
                "no alarm",
                "",
                f"{alarms} alarms" if alarms else "no alarm",
                not alarms,
                not alarms,
            ),
            _by("Ever Given at Suez", score, SUEZ, "SHIP-2021-EVERGIVEN", basis, date(2021, 3, 25)),
            _by("Red Sea at Bab el-Mandeb", score, BAB_EL_MANDEB, "SHIP-2023-REDSEA", basis,
                date(2024, 1, 1), date(2023, 12, 22)),
            _by("Red Sea at Suez", score, SUEZ, "SHIP-2023-REDSEA-SUEZ", basis,
                date(2024, 1, 12), date(2023, 12, 28)),
        ]  # fmt: skip
    shortages = [(f"vintage {name}", p.score) for name, p in found.vintages.items()]
    for basis, score in [("as of", found.as_of.score), *shortages]:
        made.append(
            _by("Chip shortage on US car inventories", score, INVENTORY, SHORTAGE,
                basis, date(2021, 3, 1))
        )  # fmt: skip
    return made


def _by(
    title: str,
    score: Score,
    series: SeriesKey,
    label: str,
    basis: str,
    latest: date,
    aim: date | None = None,
) -> Check:
    pair = next(p for p in score.pairs if p.series == series and p.label.id == label)
    opened = _opened(pair)
    return Check(
        f"{title}, {basis}",
        f"observed by {latest}",
        str(aim or ""),
        str(opened or "never"),
        opened is not None and opened <= latest,
        opened is not None and opened <= (aim or latest),
    )


def _on_control(score: Score) -> int:
    controls = {x.id for x in recorded.labels() if x.kind is Kind.negative_control}
    return sum(j.label in controls and j.verdict is Verdict.false for j in score.episodes)


def _opened(pair: Pair) -> date | None:
    if pair.outcome is Outcome.miss or pair.episode is None:
        return None
    return pair.episode.opened.date()


def markdown(found: Found) -> str:
    """The whole page."""
    final, as_of = found.final.score, found.as_of.score
    profile = found.profile
    exempt = "; ".join(f"the car series from {x.start} to {x.end} ({x.title})" for x in DECLARED)
    said = [
        "# Skill on recorded history",
        "",
        _INTRODUCTION.format(
            command=COMMAND, profile=profile.id, version=profile.version, data=recorded.FOLDER.name
        ),
        "",
        *_summary(found),
        "",
        "## How it is scored",
        "",
        _SCORED.format(
            exempt=exempt,
            pairs=len(final.pairs),
            singles=len(final.pairs) - sum(p.label.id == SHORTAGE for p in final.pairs),
        ),
        "",
        "## What must be so",
        "",
        *_table(
            ("check", "wanted", "aim", "measured", "met", "aim met"),
            "llllll",
            (
                (c.title, c.wanted, c.aim, c.measured, _yes(c.met), _yes(c.aimed) if c.aim else "")
                for c in checks(found)
            ),
        ),
        "",
        "## By the last vintage",
        "",
        "Every value as it stands today, in the order of observation.",
        "",
        *pairs(final),
        "",
        totals(final),
        "",
        "## As of: every vintage when it came out",
        "",
        _AS_OF.format(vintages=_vintages()),
        "",
        *pairs(as_of),
        "",
        totals(as_of),
        "",
        "## False episodes",
        "",
        *false(final, as_of),
        "",
        "## One series left out",
        "",
        _LEFT_OUT.format(
            points=len(methods.GRID),
            learnt=len(made_up.learnt_from()),
            kinds=", ".join(dict.fromkeys(s.kind.title for s in made_up.learnt_from())),
            budget=choosing.BUDGET,
        ),
        "",
        *_choices(found),
        "",
        "## Other methods on the same data",
        "",
        _OTHERS,
        "",
        *(f"- **{name}**: {constants}" for name, (_, constants) in methods.METHODS.items()),
        "",
        *_others(found),
        "",
        *_each(found),
        "",
        _NOISE.format(pairs=len(final.pairs), events=len(final.events)),
        "",
        "## Made-up series",
        "",
        _MADE_UP.format(each=len(made_up.SCORED), pairs=2 * len(made_up.SCORED)),
        "",
        *_made_up(found),
        "",
        "## What these data cannot see",
        "",
        *unseen(),
    ]
    return "\n".join(said) + "\n"


def _vintages() -> str:
    return "; ".join(
        f"{NAMES[key]} {', '.join(names)}" for key, names in recorded.vintages().items()
    )


def _summary(found: Found) -> list[str]:
    columns = {"last vintage": found.final.score, "as of": found.as_of.score}
    left_out = tally(c.score for c in found.choices)

    def row(name: str, cells: Iterable[str], other: str) -> tuple[str, ...]:
        return (name, *cells, other)

    scores = list(columns.values())
    return _table(
        ("", *columns, "one series left out"),
        "lrrr",
        [
            row(
                "pairs hit",
                (f"{s.hits} of {len(s.pairs)}" for s in scores),
                f"{left_out.hits} of {left_out.pairs}",
            ),
            row("of them covered", (str(s.count(Outcome.covered)) for s in scores), ""),
            row("public in time", (str(s.timely) for s in scores), ""),
            row("false episodes", (str(s.false_episodes) for s in scores), str(left_out.false)),
            row(
                "series-years",
                (f"{s.series_years:.1f}" for s in scores),
                f"{left_out.years:.1f}",
            ),
            row(
                "false a series-year",
                (_number(s.false_per_series_year) for s in scores),
                _number(left_out.false / left_out.years),
            ),
            row("POD, FAR, CSI", (_rates(s) for s in scores), ""),
        ],
    )


def _rates(score: Score) -> str:
    return ", ".join(_number(x, 2) for x in (score.pod, score.far, score.csi))


def pairs(score: Score) -> list[str]:
    """Each pair and what became of it, as a table."""
    return _table(
        (
            "disruption", "series", "start", "announced", "outcome", "opened", "public on",
            "lead on start", "on announced", "timely",
        ),
        "lllllllrrl",
        (
            (
                pair.label.id,
                NAMES[pair.series],
                str(pair.label.start),
                str(pair.label.announced or ""),
                pair.outcome.value + (f": {pair.why}" if pair.why else ""),
                str(_opened(pair) or ""),
                str(pair.episode.known_at.date()) if pair.episode and _opened(pair) else "",
                _days(pair.lead_days),
                _days(pair.lead_on_announced_days),
                _yes(pair.timely),
            )
            for pair in score.pairs
        ),
    )  # fmt: skip


def totals(score: Score) -> str:
    """All pairs in two sentences."""
    leads = score.leads
    said = (
        f"{len(score.pairs)} pairs of {len(score.events)} disruptions: {score.hits} hit "
        f"({score.count(Outcome.covered)} covered), {score.misses} missed, {score.timely} "
        "timely (covered ones among them)."
    )
    if leads is not None:
        said += (
            f" Lead on the start of those hit and not covered: median {_days(leads.median)} days, "
            f"{_days(leads.lowest)} to {_days(leads.highest)}."
        )
    return said


def false(final: Score, as_of: Score) -> list[str]:
    """The false episodes, by the last and by every vintage."""

    def those(score: Score) -> dict[tuple[SeriesKey, date], str]:
        return {
            (j.episode.series, j.episode.opened.date()): str(
                j.episode.resolved.date() if j.episode.resolved else "lasts"
            )
            for j in score.episodes
            if j.verdict is Verdict.false
        }

    last, every = those(final), those(as_of)
    keys = sorted({*last, *every}, key=lambda k: (k[1], k[0]))
    said = _FALSE.format(
        last=len(last),
        last_rate=_number(final.false_per_series_year),
        as_of=len(every),
        as_of_rate=_number(as_of.false_per_series_year),
    )
    control = f"On the negative control at Malacca: {_on_control(final) or 'none'}"
    return [
        said,
        "",
        *_table(
            ("series", "opened", "until, last vintage", "until, as of", "what else happened then"),
            "lllll",
            (
                (
                    NAMES[key],
                    str(opened),
                    last.get((key, opened), "not raised"),
                    every.get((key, opened), "not raised"),
                    next((what for a, b, what in BESIDES if a <= opened <= b), ""),
                )
                for key, opened in keys
            ),
        ),
        "",
        f"{control}; as of {_on_control(as_of) or 'none'}.",
    ]


def _choices(found: Found) -> list[str]:
    plain = found.final.by_series
    rows = [
        (
            NAMES[c.series],
            _point(c),
            str(c.allowed) if c.point else "",
            _of(plain[c.series]),
            _of(c.score),
            str(plain[c.series].false_episodes),
            str(c.score.false_episodes),
        )
        for c in found.choices
    ]
    before, after = tally(plain.values()), tally(c.score for c in found.choices)
    rows.append(
        (
            "**all**", "", "", f"{before.hits} of {before.pairs}", f"{after.hits} of {after.pairs}",
            str(before.false), str(after.false),
        )
    )  # fmt: skip
    return _table(
        (
            "left out", "chosen without it", "points within the budget", "hits, shipped",
            "hits, left out", "false, shipped", "false, left out",
        ),
        "llrrrrr",
        rows,
    )  # fmt: skip


def _of(score: Score) -> str:
    return f"{score.hits} of {len(score.pairs)}" if score.pairs else DASH


def _point(choice: Choice) -> str:
    point = choice.point
    if point is None:
        return "nothing to choose"
    if point == methods.SHIPPED:
        return "as shipped"
    ratio = f"ratio {point.ratio:+g}" if point.ratio else "ratio as shipped"
    need = f"need {point.need:+d}" if point.need else "need as shipped"
    return f"{ratio}, quantile {point.quantile:g}, {need}"


GROUPS = {
    "straits": ("chokepoint_transits",),
    "cars, output": ("inventory", "inventory_sales_ratio", "industrial_production"),
    "GSCPI": ("gscpi",),
}
"""The series of the pairs, by what they have in common."""


def compared_row(name: str, played: Played) -> list[str]:
    """One method beside the others."""
    score = played.score
    parts = [
        tally(s for key, s in played.by_series.items() if key.indicator in indicators)
        for indicators in GROUPS.values()
    ]
    return [
        name,
        f"{score.hits} of {len(score.pairs)}",
        str(score.count(Outcome.covered)),
        *(f"{part.hits} of {part.pairs} · {part.false}" for part in parts),
        str(score.timely),
        _days(score.leads.median) if score.leads else DASH,
        str(score.false_episodes),
        _number(score.false_per_series_year),
        "alarm" if _on_control(score) else "none",
    ]


def _others(found: Found) -> list[str]:
    title = f"**{found.profile.title}**"
    return _table(
        (
            "method", "hits", "covered", *GROUPS, "timely", "median lead", "false",
            "false a series-year", "on the control",
        ),
        "lrrrrrrrrrl",
        (compared_row(n, played) for n, played in {title: found.final, **found.others}.items()),
    )  # fmt: skip


def _each(found: Found) -> list[str]:
    """What became of each pair under each method."""
    names = list(found.others)
    became = [{(p.label.id, p.series): p for p in found.others[name].score.pairs} for name in names]

    def cell(pair: Pair | None) -> str:
        if pair is None:
            return DASH
        opened = _opened(pair)
        if opened is None:
            return "miss"
        return f"{opened}, covered" if pair.outcome is Outcome.covered else str(opened)

    return _table(
        ("disruption", "series", found.profile.title, *names),
        "ll" + "l" * (len(names) + 1),
        (
            (
                pair.label.id,
                NAMES[pair.series],
                cell(pair),
                *(cell(its.get((pair.label.id, pair.series))) for its in became),
            )
            for pair in found.final.score.pairs
        ),
    )


def _made_up(found: Found) -> list[str]:
    names = list(found.made_up)

    def cell(name: str, indicators: set[str]) -> str:
        own = tally(
            s for k, s in found.made_up[name].by_series.items() if k.indicator in indicators
        )
        return f"{own.hits} · {_number(own.false / own.years if own.years else None, 2)}"

    kinds = [(kind.title, {kind.indicator}) for kind in made_up.KINDS]
    everything = {kind.indicator for kind in made_up.KINDS}
    every = sum(len(p.by_series) for p in list(found.made_up.values())[:1])
    rows = [
        *((title, *(cell(name, own) for name in names)) for title, own in kinds),
        (f"**all**, of {2 * every}", *(cell(name, everything) for name in names)),
    ]
    return _table(("kind", *(names)), "l" + "r" * len(names), rows)


def unseen() -> list[str]:
    """The labels that are not scored."""
    listed = sorted(
        (label for label in recorded.labels() if not label.counts), key=lambda x: (x.start, x.id)
    )
    return [
        _UNSEEN,
        "",
        *_table(
            ("label", "what", "when", "would show in", "visible"),
            "lllll",
            (
                (
                    x.id + (" (near miss)" if x.kind is Kind.near_miss else ""),
                    x.title,
                    f"{x.start} to {x.end}" if x.end else f"from {x.start}",
                    f"`{x.sector}/{x.indicator}/{x.good}/{x.place}`",
                    x.visible,
                )
                for x in listed
            ),
        ),
    ]


def document(found: Found) -> dict[str, Any]:
    """What was found as plain values, for scripts."""

    def summed(score: Score) -> dict[str, Any]:
        return {
            "pairs": len(score.pairs),
            "hits": score.hits,
            "covered": score.count(Outcome.covered),
            "misses": score.misses,
            "timely": score.timely,
            "false_episodes": score.false_episodes,
            "series_years": round(score.series_years, 6),
            "false_per_series_year": round(score.false_per_series_year or 0.0, 6),
            "negative_control_alarms": _on_control(score),
        }

    def whole(score: Score) -> dict[str, Any]:
        return {
            **summed(score),
            "outcomes": [report.pair_document(pair) for pair in score.pairs],
            "episodes": [report.episode_document(judged) for judged in score.episodes],
        }

    return {
        "profile": found.profile.id,
        "profile_version": found.profile.version,
        "checks": [
            {
                "check": c.title, "wanted": c.wanted, "aim": c.aim or None,
                "measured": c.measured, "met": c.met, "aim_met": c.aimed,
            }
            for c in checks(found)
        ],
        "final": whole(found.final.score),
        "as_of": whole(found.as_of.score),
        "left_out": [
            {
                "series": series_name(c.series),
                "chosen": c.point._asdict() if c.point else None,
                "points_within_budget": c.allowed,
                **summed(c.score),
            }
            for c in found.choices
        ],
        "methods": {name: summed(played.score) for name, played in found.others.items()},
        "made_up": {name: summed(played.score) for name, played in found.made_up.items()},
    }  # fmt: skip


def _table(columns: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown; ``sides`` has l or r for each column."""
    rules = " | ".join("---:" if side == "r" else "---" for side in sides)
    return [
        f"| {' | '.join(columns)} |",
        f"| {rules} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _number(value: float | None, digits: int = 3) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _days(value: float | None) -> str:
    return "" if value is None else f"{value:+.0f}"
