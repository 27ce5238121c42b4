"""The backtest from files to files: faults by line, the same bytes on any number of cores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner, Result

from alerts.mechanisms import Dimension
from alerts.rules import Combination, Direction
from alerts.signals import SeriesKey
from alerts.skill import Kind, Outcome, Verdict
from app import backtest, documents
from app.backtest import judging, pages, reading, spool, variants
from app.backtest.reading import NOT_GIVEN, DataFaulty, Row, microseconds
from app.backtest.report import Report
from app.cli import backtest as command
from app.settings import Unusable

HEADER = "sector,indicator,good,place,observed_at,value"
LABELS = "id,sector,indicator,good,place,start,end,label"
WATCH = Path(__file__).with_name("house-watch.yaml")
SUEZ = "shipping,chokepoint_transits,,suez"

PROFILE = documents.load_profile(WATCH)


def strait(place: str, falls: Iterable[tuple[int, int]] = (), length: int = 400) -> Iterator[str]:
    """Rows of a strait from 2021 on: sixty ships a day, ten in the falls (first day, days)."""
    closed = {day for first, days in falls for day in range(first, first + days)}
    for n in range(length):
        day = date(2021, 1, 1) + timedelta(n)
        ships = 10 if n in closed else 58 + n * 7 % 5
        yield f"shipping,chokepoint_transits,,{place},{day},{ships}"


def write(folder: Path, name: str, header: str, lines: Iterable[str]) -> Path:
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Suez closes once as labelled; Malacca falls once unlabelled, Panama nothing is seen of."""
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, "a.csv", HEADER, [*strait("suez", [(150, 20)]), *strait("malacca", [(250, 20)])])
    write(folder, "b.csv", HEADER, strait("panama"))
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    rows = [
        "CLOSED,shipping,chokepoint_transits,,suez,2021-05-31,2021-06-20,positive",
        "UNSEEN,shipping,chokepoint_transits,,panama,2021-08-01,2021-08-20,positive",
    ]
    return write(tmp_path, "labels.csv", LABELS, rows)


def run(data: Path, labels: Path | None = None, **plan: Any) -> Report:
    told = tuple(reading.read_labels(labels)) if labels else ()
    return backtest.run(PROFILE, data, backtest.Plan(labels=told, **{"workers": 1, **plan}))


def test_hits_misses_and_false_episodes_are_found_in_files(data: Path, labels: Path) -> None:
    score = run(data, labels).score
    assert [(p.label.id, p.outcome) for p in score.pairs] == [
        ("CLOSED", Outcome.hit),
        ("UNSEEN", Outcome.miss),
    ]
    assert [(j.episode.series.place, j.verdict) for j in score.episodes] == [
        ("suez", Verdict.hit),
        ("malacca", Verdict.false),
    ]
    (hit, _) = score.pairs
    # The mean of a week is a quarter down on the third day; the figures come out on Tuesdays.
    assert hit.episode is not None
    assert f"{hit.episode.opened:%Y-%m-%d}" == "2021-06-02"
    assert f"{hit.episode.known_at:%Y-%m-%d %a}" == "2021-06-08 Tue"
    assert hit.lead_days == -8


@pytest.mark.parametrize(
    ("header", "line", "said"),
    [
        (HEADER, f"{SUEZ},2021-13-01,60", "The observed_at '2021-13-01' is not a date"),
        (HEADER, f"{SUEZ},,60", "The observed_at '' is not a date"),
        (HEADER, f"{SUEZ},2021-01-01,sixty", "The value 'sixty' is not a number"),
        (HEADER, f"{SUEZ},2021-01-01,nan", "The value 'nan' is not a finite number"),
        (HEADER, f"{SUEZ},2021-01-01,1e999", "The value '1e999' is not a finite number"),
        (HEADER, f"{SUEZ},2021-01-01", "It has 5 cells and the header 6"),
        (HEADER, f"{SUEZ},2021-01-01,60,70", "It has 7 cells and the header 6"),
        (HEADER, "shipping,,,suez,2021-01-01,60", "names either an indicator or an event"),
        (HEADER, ",chokepoint_transits,,suez,2021-01-01,60", "A row needs a sector"),
        (f"{HEADER},unit", f"{SUEZ},2021-01-01,60,weeks", "in transits/day, not in 'weeks'"),
        (f"{HEADER},available_at", f"{SUEZ},2021-01-01,60,soon", "The available_at 'soon' is not"),
        (
            "sector,event,observed_at,severity",
            "shipping,port_closure,2021-01-01,awful",
            "The severity 'awful' is none of",
        ),
        (
            "sector,event,observed_at,origin",
            "shipping,port_closure,2021-01-01,gossip",
            "The origin 'gossip' is none of",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, header: str, line: str, said: str
) -> None:
    padding = [] if "event" in header else [f"{SUEZ},2020-12-31,60" + "," * (header.count(",") - 5)]
    write(tmp_path, "bad.csv", header, [*padding, line])
    with pytest.raises(DataFaulty) as refused:
        run(tmp_path)
    (fault,) = refused.value.faults
    assert (fault.file, fault.line) == ("bad.csv", 2 + len(padding))
    assert said in fault.said


def test_every_fault_is_told_in_the_order_of_the_files(tmp_path: Path) -> None:
    write(tmp_path, "b.csv", HEADER, [f"{SUEZ},2021-01-01,x"])
    write(
        tmp_path, "a.csv", HEADER, [f"{SUEZ},2021-01-01,x", f"{SUEZ},2021-01-02,60", f"{SUEZ},2,60"]
    )
    with pytest.raises(DataFaulty) as refused:
        run(tmp_path)
    assert [(f.file, f.line) for f in refused.value.faults] == [
        ("a.csv", 2),
        ("a.csv", 4),
        ("b.csv", 2),
    ]
    assert str(refused.value).startswith("a.csv:2: The value 'x'")


def test_a_file_cut_into_parts_still_knows_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "PART_BYTES", 1_000)
    rows = [*strait("suez", length=100), f"{SUEZ},2021-06-01,x"]
    write(tmp_path, "a.csv", HEADER, rows)
    assert len(spool.parts([tmp_path / "a.csv"])) > 3
    with pytest.raises(DataFaulty) as refused:
        run(tmp_path)
    assert [f.line for f in refused.value.faults] == [102]


@pytest.mark.parametrize(
    ("header", "lacking"),
    [
        ("sector,indicator,value", "observed_at"),
        ("indicator,observed_at,value", "sector"),
        ("sector,observed_at,value", "indicator"),
        ("sector,indicator,observed_at", "value"),
    ],
)
def test_a_file_without_a_needed_column_is_refused(
    tmp_path: Path, header: str, lacking: str
) -> None:
    write(tmp_path, "a.csv", header, [])
    with pytest.raises(DataFaulty, match=f"There is no column {lacking}"):
        run(tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        f"{HEADER}\n{SUEZ},2021-01-01,60\n\xff\xfe\n".encode("latin-1")
    )
    with pytest.raises(DataFaulty, match=r"a\.csv:3: It is not UTF-8"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere", "is not there"),
        (lambda folder: folder, "There is no .csv file"),
    ],
)
def test_a_folder_without_files_is_refused(tmp_path: Path, make: Any, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        run(make(tmp_path))


def test_files_without_rows_are_nothing_to_replay(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", HEADER, [])
    with pytest.raises(Unusable, match="nothing to replay"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            "E,shipping,t,,suez,2021-13-01,2021-06-20,positive",
            "The start '2021-13-01' is not a date",
        ),
        ("E,shipping,t,,suez,,2021-06-20,positive", "A label needs a start"),
        (",shipping,t,,suez,2021-05-31,2021-06-20,positive", "A label needs an id"),
        ("E,shipping,t,,suez,2021-05-31,2021-06-20,true", "'true' is not a label; use positive"),
        (
            "E,shipping,t,,suez,2021-05-31,2021-05-20,positive",
            "ends on 2021-05-20, before it starts",
        ),
        ("E,shipping,t,,suez,2021-05-31,2021-06-20,positive,x", "more cells than the header"),
    ],
)
def test_a_label_that_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, row: str, said: str
) -> None:
    good = "G,shipping,t,,suez,2021-05-31,,near_miss"
    with pytest.raises(DataFaulty) as refused:
        reading.read_labels(write(tmp_path, "labels.csv", LABELS, [good, row]))
    (fault,) = refused.value.faults
    assert (fault.file, fault.line) == ("labels.csv", 3)
    assert said in fault.said


def test_labels_may_say_when_it_was_announced_and_whether_it_shows(tmp_path: Path) -> None:
    rows = ["E,shipping,t,,suez,2021-05-31T08:00:00Z,,positive,2021-05-01,partial,ships"]
    path = write(tmp_path, "labels.csv", f"{LABELS},announced,visible,note", rows)
    (label,) = reading.read_labels(path)
    assert (label.start, label.end, label.kind) == (date(2021, 5, 31), None, Kind.positive)
    assert (label.announced, label.visible) == (date(2021, 5, 1), "partial")


def test_codes_the_catalogue_does_not_know_are_judged_and_said_once(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", HEADER, strait("strait_of_nowhere", [(150, 20)]))
    write(tmp_path, "b.csv", HEADER, ["shipping,phase_of_moon,,suez,2021-01-01,0.5"])
    report = run(tmp_path)
    assert [j.episode.series.place for j in report.score.episodes] == ["strait_of_nowhere"]
    document = report.document()
    assert document["unknown_codes"] == {
        "indicator": ["phase_of_moon"],
        "place": ["strait_of_nowhere"],
    }
    assert document["not_judged"] == ["shipping/phase_of_moon//suez"]
    assert len(report.warnings()) == 3


def test_impossible_values_are_left_out_and_blank_ones_are_missing(tmp_path: Path) -> None:
    rows = [*strait("suez"), f"{SUEZ},2022-06-01,-5", f"{SUEZ},2022-06-02,", f"{SUEZ},2022-06-03, "]
    write(tmp_path, "a.csv", HEADER, rows)
    report = run(tmp_path)
    assert report.played.samples == 400
    assert report.document()["impossible_values"] == {"shipping/chokepoint_transits//suez": 1}
    assert report.noted.blank == 2


def test_several_partners_on_one_series_count_as_their_median(tmp_path: Path) -> None:
    rows = [f"{row},aurora" for row in strait("suez")]
    rows += [f"{row},baltica" for row in strait("suez")]
    rows += [f"{row},cygnus" for row in strait("suez", [(150, 20)])]
    write(tmp_path, "a.csv", f"{HEADER},partner", rows)
    assert run(tmp_path).score.episodes == ()  # One of three cannot raise alone.
    assert run(tmp_path, as_of=True).score.episodes == ()


TRUST = "    trust: { combine: highest, parties: 2, source: our_design }\n    detector:\n      kind: bands\n"


def test_a_rule_that_asks_who_says_so_hears_every_partner(tmp_path: Path) -> None:
    text = WATCH.read_text().replace("    detector:\n      kind: bands\n", TRUST, 1)
    profile = documents.load_profile(text)
    said = {"aurora,EU": (0.1, 1.4), "baltica,US": (0.1, 0.2), "cygnus,JP": (0.1, 1.4)}
    for count, episodes in ((2, 0), (3, 1)):  # One party alone cannot raise; two that agree can.
        rows = [
            f"all_sectors,gscpi,,,2020-0{month}-01,{value},{who}"
            for who, values in list(said.items())[:count]
            for month, value in enumerate(values, start=1)
        ]
        write(tmp_path, "a.csv", f"{HEADER},partner,party", rows)
        for as_of in (False, True):
            plan = backtest.Plan(workers=1, as_of=as_of)
            found = backtest.run(profile, tmp_path, plan).score.episodes
            assert len(found) == episodes, (count, as_of)


def vintages(folder: Path) -> Path:
    """Monthly pressure whose 1.4 of February was first published as 0.2, and revised in June."""
    header = f"{HEADER},available_at"
    months = ["0.1,2020-02-05", "0.2,2020-03-05", "0.3,2020-04-05", "0.2,2020-05-05"]
    rows = [f"all_sectors,gscpi,,,2020-0{n}-01,{said}" for n, said in enumerate(months, start=1)]
    rows.append("all_sectors,gscpi,,,2020-02-01,1.4,2020-06-05")
    write(folder, "v.csv", header, rows)
    return folder


def test_as_of_knows_at_each_instant_only_what_was_known(tmp_path: Path) -> None:
    data = vintages(tmp_path)
    final, as_of = run(data), run(data, as_of=True)
    (opened,) = [m for m in final.played.moved if m.type.value == "alert.opened"]
    assert f"{opened.at:%Y-%m}" == "2020-02"
    # In earnest the month had passed calm; when it was revised, it was over already.
    assert [m.type.value for m in as_of.played.moved] != [m.type.value for m in final.played.moved]
    assert all(m.told_at >= datetime(2020, 6, 5, tzinfo=UTC) for m in as_of.played.moved)
    assert as_of.document() != final.document()


def test_the_last_vintage_counts_and_was_first_known_with_the_first(tmp_path: Path) -> None:
    (judged,) = run(vintages(tmp_path)).score.episodes
    assert f"{judged.episode.known_at:%Y-%m-%d}" == "2020-03-05"


def test_reported_events_open_alerts_and_are_not_called_false(tmp_path: Path) -> None:
    header = "sector,event,good,place,observed_at,severity,partner,party,origin,effective_at"
    row = "semiconductors,export_control,gallium,CN,2023-07-03,severe,a,EU,government,2023-08-01"
    write(tmp_path, "e.csv", header, [row])
    profile = documents.load_profile(documents.PROFILES_DIR / "ttc-semiconductors.yaml")
    for as_of in (False, True):
        plan = backtest.Plan(workers=1, as_of=as_of)
        report = backtest.run(profile, tmp_path, plan)
        assert [m.type.value for m in report.played.moved][:1] == ["alert.opened"]
        assert [j.verdict for j in report.score.episodes] == [Verdict.told]


def test_a_limit_on_time_reads_no_further_and_scores_no_earlier(data: Path, labels: Path) -> None:
    later = run(data, labels, since=date(2021, 7, 1))
    assert [p.label.id for p in later.score.pairs] == ["UNSEEN"]
    assert [j.episode.series.place for j in later.score.episodes] == ["malacca"]
    earlier = run(data, labels, until=date(2021, 6, 30))
    assert [p.label.id for p in earlier.score.pairs] == ["CLOSED"]
    assert earlier.played.samples == 3 * 181


def test_rows_from_anywhere_give_what_files_give(data: Path, labels: Path) -> None:
    def rows() -> Iterator[Row]:
        for path in sorted(data.glob("*.csv")):
            for line in path.read_text().splitlines()[1:]:
                *key, day, value = line.split(",")
                at = microseconds(datetime.fromisoformat(day).replace(tzinfo=UTC))
                yield Row(SeriesKey(*key), at, NOT_GIVEN, "", float(value))

    told = tuple(reading.read_labels(labels))
    report = backtest.run(PROFILE, rows(), backtest.Plan(labels=told, workers=1))
    assert report.document() == run(data, labels).document()


def test_a_profile_with_joint_rules_keeps_each_sector_in_one_shard() -> None:
    both = Combination("combination", Direction.up, ("chokepoint-transits", "x"), ())
    together = replace(PROFILE, rules=(replace(PROFILE.rules[0], id="both", detector=both),))
    assert spool.dimensions_of([PROFILE]) == {Dimension.place}
    assert spool.dimensions_of([PROFILE, together]) == set()


def test_the_order_of_files_and_rows_does_not_matter(
    data: Path, labels: Path, tmp_path: Path
) -> None:
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    lines = [row for path in data.glob("*.csv") for row in path.read_text().splitlines()[1:]]
    write(shuffled, "z.csv", HEADER, sorted(lines, key=lambda row: row[::-1]))
    assert run(shuffled, labels).document() == run(data, labels).document()


def test_runs_that_do_not_fit_into_memory_are_merged(
    data: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(data, labels).document()
    for name, size in {"PART_BYTES": 5_000, "HELD": 50, "SORTED_AT_ONCE": 10}.items():
        monkeypatch.setattr(spool, name, size)
    monkeypatch.setattr(judging, "JUDGED_AT_ONCE", 37)
    assert run(data, labels).document() == plain
    assert run(data, labels, as_of=True).document()["hits"] == 1


@pytest.mark.parametrize("as_of", [False, True])
def test_the_same_input_gives_the_same_bytes_on_any_number_of_cores(
    data: Path, labels: Path, monkeypatch: pytest.MonkeyPatch, as_of: bool
) -> None:
    monkeypatch.setattr(judging, "WORTH_A_POOL", 0)
    told = tuple(reading.read_labels(labels))
    found = []
    for workers in (1, 2):
        plan = backtest.Plan(labels=told, as_of=as_of, workers=workers)
        with backtest.recording(plan, data, [PROFILE]) as recorded:
            report = recorded.report(PROFILE)
            outcome = variants.Outcome(report)
            found.append(pages.files(outcome, recorded.pictures(report)))
    assert found[0] == found[1]
    assert set(found[0]) == {"report.json", "report.html", "miss-001.svg", "false-002.svg"}


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(command.backtest)
    return CliRunner().invoke(app, [str(word) for word in arguments])


def asked(data: Path, labels: Path, *more: object) -> dict[str, Any]:
    done = invoke("--profile", str(WATCH), "--data", data, "--labels", labels, "--json", *more)
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_the_command_prints_one_line_of_the_promised_shape(data: Path, labels: Path) -> None:
    found = asked(data, labels)
    promised = {
        "profile": "house-watch",
        "series": 3,
        "hits": 1,
        "misses": 1,
        "false_episodes": 1,
        "pod": 0.5,
        "far": 0.5,
        "csi": round(1 / 3, 6),
    }
    assert {name: found[name] for name in promised} == promised
    assert found["lead_days"]["median"] == -8
    first = found["episodes"][0]
    assert first["series"] == "shipping/chokepoint_transits//suez"
    assert first["opened"] == "2021-06-02T00:00:00Z"
    assert (first["peak_severity"], first["label"]) == ("severe", "CLOSED")
    assert first["resolved"] > first["opened"]
    assert found["notifications"] == sum(found["notifications_by_month"].values())
    assert found["notifications_per_month"] == pytest.approx(found["notifications"] / 14, abs=1e-6)
    assert [a["place"] for a in found["alerts"]] == ["suez", "malacca"]


def test_the_table_and_the_rate_are_for_people(data: Path, labels: Path) -> None:
    done = invoke("--profile", WATCH, "--data", data, "--labels", labels)
    assert done.exit_code == 0
    assert "false episodes" in done.stdout
    assert "CLOSED" in done.stdout
    assert re.search(r"1,200 samples in .* a second on \d+ process", done.stderr)


def test_a_sweep_draws_lead_time_against_false_alarms(
    data: Path, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = asked(data, labels, "--sweep", "band=0.5:1.9:0.7", "--out", out)
    points = found["sweep"]["points"]
    assert [p["value"] for p in points] == [0.5, 1.2, 1.9]
    assert [p["hits"] for p in points] == [1, 1, 1]
    medians = [p["lead_days"]["median"] for p in points]
    assert medians == sorted(medians, reverse=True)  # The more is asked for, the later it is known.
    drawn = ElementTree.parse(out / "sweep.svg").getroot()
    assert drawn.find("{http://www.w3.org/2000/svg}desc") is not None
    page = (out / "report.html").read_text()
    assert "Sweep of band" in page


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("chokepoint-transits.detector.bands.0.raise_at=-0.1:-0.3:-0.1", "-0.1 is unsound: "),
        ("chokepoint-transits.detector.mean_of=0.5:1:0.5", "0.5 is unsound: "),
        ("ratio=1:2:0.5", "No rule of the profile is an agreement"),
        ("moon=1:2:1", "There is nothing to sweep at 'moon'; use one of band, ratio"),
        ("chokepoint-transits.detector.moon=1:2:1", "There is no detector.moon"),
        ("chokepoint-transits.detector.bands.7.raise_at=1:2:1", "There is no detector.bands.7"),
        ("chokepoint-transits.title=1:2:1", "is 'Ships passing', not a number"),
        ("band=1:2", "is not written NAME=FIRST:LAST:STEP"),
        ("band=one:2:1", "not a number"),
        ("band=1:inf:1", "not a finite number"),
        ("band=1:2:0", "never reaches its last value"),
        ("band=1:2:-1", "never reaches its last value"),
        ("band=1:2:0.001", "has 1001 points; at most 100"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(sweep: str, said: str) -> None:
    document = documents.read_profile(WATCH)
    with pytest.raises(Unusable) as refused:
        variants.points(document, sweep, documents.load_catalogue())
    assert said in str(refused.value)


def test_a_swept_number_changes_alone() -> None:
    document = documents.read_profile(WATCH)
    points = variants.points(
        document, "chokepoint-transits.clear_after=10:20:5", documents.load_catalogue()
    )
    assert [p.profile.rules[0].clear_after for p in points] == [10, 15, 20]
    scaled = variants.points(document, "band=0.9:0.9:1", documents.load_catalogue())
    bands = [b for r in scaled[0].profile.rules for b in r.detector.bands]  # type: ignore[union-attr]
    assert [b.raise_at for b in bands] == pytest.approx([-0.225, -0.45, 0.9, 1.8, 2.7])


def test_two_profiles_stand_side_by_side(data: Path, labels: Path, tmp_path: Path) -> None:
    text = WATCH.read_text().replace("version: 1", "version: 2", 1)
    blunt = text.replace("raise_at: -0.25, clear_at: -0.15", "raise_at: -0.9, clear_at: -0.8")
    blunt = blunt.replace("raise_at: -0.50, clear_at: -0.40", "raise_at: -0.95, clear_at: -0.9")
    other = tmp_path / "blunt.yaml"
    other.write_text(blunt)
    found = asked(data, labels, "--compare", str(WATCH), other, "--out", tmp_path / "out")
    assert [(p["profile_version"], p["hits"]) for p in found["compare"]] == [(1, 1), (2, 0)]
    assert "Side by side" in (tmp_path / "out" / "report.html").read_text()
    alone = invoke("--compare", WATCH, other, "--data", data, "--labels", labels)
    assert alone.exit_code == 0
    assert "Compared" in alone.stdout


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v for name, v in attrs if name in {"src", "href"} and v]


def test_the_page_needs_nothing_else_and_shows_each_miss_and_each_false_episode(
    data: Path, labels: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = asked(data, labels, "--out", out)
    assert json.loads((out / "report.json").read_text()) == found
    page = _Page()
    text = (out / "report.html").read_text()
    page.feed(text)
    assert "script" not in page.tags
    assert page.addresses == []
    assert page.tags.count("svg") == page.tags.count("figure") == 2
    assert page.tags.count("caption") == page.tags.count("table")
    assert "Missed: UNSEEN" in text
    assert "prefers-color-scheme" in text
    for name in ("miss-001.svg", "false-002.svg"):
        root = ElementTree.parse(out / name).getroot()
        classes = [part.get("class") for part in root]
        assert {"value", "baseline"} <= set(classes)
        assert ("opening" in classes) == name.startswith("false")


def test_hostile_words_in_the_data_are_text_on_the_page(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    hostile = '"<script>alert(1)</script>"'
    write(data, "a.csv", HEADER, strait(hostile, [(150, 20)]))
    done = invoke("--profile", str(WATCH), "--data", data, "--out", tmp_path / "out")
    assert done.exit_code == 0
    for path in (tmp_path / "out").iterdir():
        if path.suffix != ".json":
            assert "<script>alert" not in path.read_text(), path.name


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--profile", "nobody-knows"), 1),
        (("--profile", "supply-watch@7"), 1),
        ((), 2),
    ],
)
def test_a_profile_that_is_not_there_is_said(
    data: Path, arguments: tuple[str, ...], code: int
) -> None:
    assert invoke(*arguments, "--data", data).exit_code == code


@pytest.mark.parametrize(
    ("header", "line", "said"),
    [
        (
            HEADER,
            "shipping,chokepoint_transits,,suez,9999-12-31,50",
            "from 1900 to 2200",
        ),
        (
            HEADER,
            "shipping,chokepoint_transits,,suez,0001-01-01,50",
            "from 1900 to 2200",
        ),
        (f"{HEADER},value", "shipping,chokepoint_transits,,suez,2020-01-01,50,9", "is there twice"),
    ],
)
def test_what_no_one_can_mean_is_refused(tmp_path: Path, header: str, line: str, said: str) -> None:
    write(tmp_path, "bad.csv", header, [line])
    with pytest.raises(DataFaulty) as refused:
        run(tmp_path)
    assert said in str(refused.value)


def test_lines_that_end_in_returns_alone_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mac.csv").write_bytes(f"{HEADER}\rshipping,x,,suez,2020-01-01,5\r".encode())
    done = invoke("--profile", str(WATCH), "--data", tmp_path)
    assert done.exit_code == 1
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--from", "2021-01-01", "--to", "2019-01-01"), 2),
        (("--to", "9999-12-31"), 0),
        (("--sweep", "band=0:1e999999:1"), 1),
        (("--sweep", "band=0:1e200:1e-200"), 1),
    ],
)
def test_options_at_their_ends_are_sentences(
    data: Path, arguments: tuple[str, ...], code: int
) -> None:
    done = invoke("--profile", str(WATCH), "--data", data, *arguments)
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit | Unusable)


def test_nothing_is_known_before_it_is_observed(tmp_path: Path) -> None:
    lines = [f"{row},2000-01-01" for row in strait("suez", [(150, 20)])]
    write(tmp_path, "a.csv", f"{HEADER},available_at", lines)
    for episode in run(tmp_path).document()["episodes"]:
        assert episode["known"] >= episode["opened"]
