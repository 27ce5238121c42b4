"""``forewarn rules test``: the shipped scenarios hold, a wrong expectation fails on its line, and a
file that is none of scenarios is refused with the line.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from app import documents, timetable
from app.cli import rules, saying
from app.timetable import instants
from app.timetable import written as written_shapes
from app.timetable.instants import Span, Unreadable

HEAD = """\
profile: ttc-semiconductors
partners: { aurora: EU, dorado: US, cygnus: "" }
series:
  lead time: { sector: semiconductors, indicator: lead_time, good: neon }
  volume: { sector: semiconductors, indicator: export_volume, good: neon, place: UA }
  outage: { sector: semiconductors, event: site_outage, good: neon }
scenarios:
"""
FIRST_LINE = HEAD.count("\n") + 1
"""The line on which the scenarios of ``written`` begin."""

SENTENCE = (
    "Lead time of neon and other rare gases stood at 15 weeks on 1 January 2025, above the limit of "
    "14 weeks for minor."
)

MINOR = """\
- name: lead times lengthen
  steps:
    - at: 0d
      report: [{ series: lead time, value: 15 }]
      expect:
        - { type: opened, severity: minor }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def written(file: Path, scenarios: str, head: str = HEAD) -> Path:
    file.write_text(head + textwrap.indent(textwrap.dedent(scenarios), "  "), encoding="utf-8")
    return file


def played(file: Path) -> list[timetable.Played]:
    catalogue = documents.load_catalogue()
    return list(timetable.play(timetable.read(file, catalogue), catalogue))


def failures(file: Path, scenarios: str) -> list[tuple[int, str]]:
    """The lines, counted from the first of the scenarios, and what is said of them."""
    found = played(written(file, scenarios))
    return [(f.line - FIRST_LINE + 1, f.detail) for one in found for f in one.failures]


def faults(file: Path, scenarios: str, head: str = HEAD) -> list[tuple[int, str]]:
    """The lines, counted from the first of the file, and what is wrong with them."""
    with pytest.raises(documents.DocumentFaulty) as refused:
        timetable.read(written(file, scenarios, head), documents.load_catalogue())
    return [(f.line, f.detail) for f in refused.value.faults]


def run(*arguments: str | Path) -> int | str | None:
    """The exit code of ``forewarn rules test``."""
    with pytest.raises(SystemExit) as over, saying.sentences():
        rules.app(["test", *map(str, arguments)])
    return over.value.code


# ---- the shipped scenarios ---------------------------------------------------------------------


@pytest.mark.parametrize("shipped", timetable.shipped(), ids=lambda path: path.stem)
def test_the_shipped_scenarios_hold(shipped: Path) -> None:
    found = played(shipped)
    assert found
    assert not timetable.failed(found), timetable.text(found)


def test_the_shipped_scenarios_fail_when_what_they_expect_is_left_out() -> None:
    catalogue = documents.load_catalogue()
    for shipped in timetable.shipped():
        table = timetable.read(shipped, catalogue)
        expecting = [s for s in table.scenarios if any(stage.moves for stage in s.stages)]
        without = [
            replace(s, stages=tuple(replace(stage, moves=()) for stage in s.stages))
            for s in expecting
        ]
        found = list(timetable.play(replace(table, scenarios=tuple(without)), catalogue))
        assert timetable.failed(found) == len(expecting)


# ---- what an expectation catches ---------------------------------------------------------------


def test_what_is_expected_and_happens_passes(file: Path) -> None:
    assert failures(file, MINOR) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{ type: escalated }", "another type on 2025-01-01"),
        ("{ type: opened, severity: severe }", "another severity on 2025-01-01"),
        ("{ type: opened, level: disruption }", "another level on 2025-01-01"),
        ("{ type: opened, recommends: disruption }", "another recommends on 2025-01-01"),
        ("{ type: opened, at: 2025-01-02 }", "another at on 2025-01-01"),
        ("{ type: opened, recorded: 2d }", "another recorded on 2025-01-01"),
        ("{ type: opened, series: volume, reason: 16 weeks }", "another reason on 2025-01-01"),
        ("{ type: opened, severity: severe, at: 1d }", "another severity and at on 2025-01-01"),
    ],
)
def test_a_wrong_expectation_fails_on_its_line(file: Path, wrong: str, said: str) -> None:
    scenarios = MINOR.replace("{ type: opened, severity: minor }", wrong)
    assert failures(file, scenarios) == [(6, said)]


def test_a_transition_of_another_good_is_another_series(file: Path) -> None:
    gallium = "  gallium: { sector: semiconductors, indicator: lead_time, good: gallium }\n"
    head = HEAD.replace("scenarios:", f"{gallium}scenarios:")
    found = played(written(file, MINOR.replace("severity: minor", "series: gallium"), head))
    (failure,) = found[0].failures
    assert failure.detail == "another series on 2025-01-01"
    assert "series 'Neon and other rare gases (semiconductors)'" in failure.happened


def test_a_failure_says_what_was_expected_what_happened_and_why(file: Path) -> None:
    found = played(written(file, MINOR.replace("minor", "severe")))
    said = timetable.text(found).splitlines()
    assert said == [
        f"{file}:{FIRST_LINE + 5}: lead times lengthen: another severity on 2025-01-01",
        "    expected  opened, severity severe",
        "    happened  opened, severity minor",
        f"    {SENTENCE}",
        "1 scenario, 1 failed.",
    ]


def test_a_step_without_expectations_expects_nothing(file: Path) -> None:
    scenarios = MINOR[: MINOR.index("      expect:")]
    assert failures(file, scenarios) == [(3, "a transition on 2025-01-01 that nothing expects")]


def test_what_time_alone_brings_between_two_steps_must_be_expected_too(file: Path) -> None:
    scenarios = MINOR + "    - at: 31d\n"
    assert failures(file, scenarios) == [(7, "a transition on 2025-01-31 that nothing expects")]


def test_what_does_not_happen_fails_where_it_is_expected(file: Path) -> None:
    scenarios = MINOR + "        - { type: updated }\n"
    assert failures(file, scenarios) == [(7, "no such transition by 2025-01-01")]


def test_a_profile_out_of_force_is_named_as_the_reason_for_silence(file: Path) -> None:
    found = played(written(file, MINOR.replace("  steps:", "  start: 2020-01-01\n  steps:")))
    (failure,) = found[0].failures
    assert (failure.happened, failure.sentence) == ("nothing", "the profile was not in force")


@pytest.mark.parametrize(
    ("stands", "fails"),
    [
        ("{ series: lead time, state: firing, severity: minor, value: 15 }", False),
        ("{ series: lead time, rule: lead-time, compared: 15.0 }", False),
        ("{ series: lead time, reason: above the limit }", False),
        ("{ series: volume, state: ok, severity: none }", False),
        ("{ series: lead time, state: pending }", True),
        ("{ series: lead time, severity: none }", True),
        ("{ series: lead time, value: 15.4 }", True),
        ("{ series: lead time, baseline: 12 }", True),
        ("{ series: lead time, reason: below }", True),
        ("{ series: volume, value: 15 }", True),
    ],
)
def test_findings_are_compared(file: Path, stands: str, fails: bool) -> None:
    found = failures(file, f"{MINOR}      findings:\n        - {stands}\n")
    assert [line for line, _ in found] == ([8] if fails else [])


@pytest.mark.parametrize(
    ("open_ones", "line"),
    [
        ("[{ series: lead time, severity: minor, level: early_warning }]", None),
        ("[{ series: volume, recommends: none, why: 15 weeks }]", None),
        ("[{ series: lead time, severity: severe }]", 7),
        ("[{ series: lead time, why: germanium }]", 7),
        ("[{ series: lead time }, { series: lead time }]", 7),
        ("[]", 3),
    ],
)
def test_open_alerts_are_compared_all_of_them(file: Path, open_ones: str, line: int | None) -> None:
    found = failures(file, f"{MINOR}      alerts: {open_ones}\n")
    assert [at for at, _ in found] == ([] if line is None else [line])


@pytest.mark.parametrize(
    ("number", "fits"),
    [
        ("compared: -0.546", True),
        ("compared: -0.55", True),
        ("compared: -0.5", True),
        ("compared: -0.54", False),
        ("compared: -0.5460001", False),
        ("compared: -1", False),
        ("value: 45.4", True),
        ("value: 45", False),
        ("baseline: 100.0", True),
        ("baseline: 100.4", False),
    ],
)
def test_numbers_are_equal_to_the_decimals_written(file: Path, number: str, fits: bool) -> None:
    scenarios = f"""\
    - name: a volume falls
      start: 2024-01-31
      steps:
        - at: 0d
          report: [{{ series: volume, value: 100 }}]
        - at: 1y
          report: [{{ series: volume, value: 45.4 }}]
          expect: [{{ type: opened }}]
          findings: [{{ series: volume, {number} }}]
    """
    assert [line for line, _ in failures(file, scenarios)] == ([] if fits else [9])


# ---- what a scenario can tell ------------------------------------------------------------------


def test_each_value_of_a_row_is_a_transaction_of_its_own(file: Path) -> None:
    scenarios = """\
    - name: a row
      steps:
        - at: 2025-01-31
          report: [{ series: lead time, values: [13, null, 15, 17], every: 1mo }]
          expect:
            - { type: opened, at: 2025-03-31, recorded: 2025-03-31 }
            - { type: escalated, at: 2025-04-30, recorded: 2025-04-30 }
    """
    assert failures(file, scenarios) == []


def test_what_was_observed_before_it_comes_keeps_its_own_time(file: Path) -> None:
    scenarios = """\
    - name: published three weeks later
      steps:
        - at: 2025-02-20
          report: [{ series: lead time, observed: 2025-01-31, value: 15 }]
          expect: [{ type: opened, at: 2025-01-31, recorded: 2025-02-20 }]
    """
    assert failures(file, scenarios) == []


def test_a_profile_of_ones_own_is_found_beside_the_file(file: Path) -> None:
    shipped = (documents.PROFILES_DIR / "ttc-semiconductors.yaml").read_text(encoding="utf-8")
    shipped = shipped.replace("raise_at: 14, clear_at: 13", "raise_at: 15.5, clear_at: 13")
    (file.parent / "ours.yaml").write_text(shipped, encoding="utf-8")
    head = HEAD.replace("profile: ttc-semiconductors", "profile: ours.yaml")
    (one,) = played(written(file, MINOR, head))
    assert [f.detail for f in one.failures] == ["no such transition by 2025-01-01"]


def test_a_changed_profile_can_be_put_in_place_of_the_one_that_ships(file: Path) -> None:
    shipped = (documents.PROFILES_DIR / "ttc-semiconductors.yaml").read_text(encoding="utf-8")
    ours = file.parent / "changed.yaml"
    ours.write_text(shipped.replace("raise_at: 14,", "raise_at: 15.5,"), encoding="utf-8")
    assert run(written(file, MINOR)) == 0
    assert run(file, "--profile", ours) == 1


EVERY = f"""\
profile: {Path(__file__).with_name("every-detector.yaml")}
partners: {{ aurora: EU, dorado: US }}
series:
  lead time: {{ sector: semiconductors, indicator: lead_time, good: neon }}
  from CN: {{ sector: semiconductors, indicator: import_share, good: gallium, place: CN }}
  from US: {{ sector: semiconductors, indicator: import_share, good: gallium, place: US }}
scenarios:
"""


def test_a_rule_may_ask_who_says_so(file: Path) -> None:
    scenarios = """\
    - name: the second party makes it count
      steps:
        - at: 0d
          report:
            - { series: lead time, value: 15, partner: aurora, reliability: A1, origin: market, ref: a }
          findings: [{ series: lead time, rule: lead-time, state: pending, severity: none }]
        - at: 1d
          report:
            - { series: lead time, observed: 0d, value: 16, partner: dorado, reliability: A1, ref: b }
          expect: [{ type: opened, severity: minor, at: 0d }]
    """
    (one,) = played(written(file, scenarios, EVERY))
    assert one.failures == ()


def test_a_rule_may_read_several_series_together(file: Path) -> None:
    scenarios = """\
    - name: one country holds nine tenths, two years of three
      steps:
        - at: 0d
          report: [{ series: from CN, value: 0.9 }, { series: from US, value: 0.1 }]
          findings: [{ series: from US, rule: concentrated, state: not_evaluable }]
        - at: 1y
          report: [{ series: from CN, value: 0.9 }, { series: from US, value: 0.1 }]
          expect: [{ type: opened, severity: minor, series: from CN }]
          findings: [{ series: from US, rule: concentrated, state: firing, compared: 0.82 }]
    """
    (one,) = played(written(file, scenarios, EVERY))
    assert one.failures == ()


# ---- files that are refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenarios", "line", "said"),
    [
        ("- name: a\n  stepz: []\n", 9, "'stepz' is not a key of number 1 of 'scenarios'. Did you"),
        ("- name: a\n  steps: []\n", 9, "A scenario has at least one step."),
        (MINOR.replace("at: 0d", "at: soon"), 10, "'soon' is neither a span"),
        (MINOR.replace("at: 0d", "at: 9999999y"), 10, "neither a span"),
        (MINOR.replace("at: 0d", "at: 99999y"), 10, "That leads beyond the year 2200."),
        (MINOR.replace("at: 0d", "at: 9999-12-31"), 10, "is not between 1900 and 2200"),
        (MINOR.replace("at: 0d", "at: 2024-12-31"), 10, "2024-12-31 is before what came last"),
        (MINOR.replace("value: 15", "value: yes"), 11, "'value' must be a number"),
        (MINOR.replace("value: 15", "value: .inf"), 11, "not a number that can be compared"),
        (MINOR.replace("value: 15", "value: -1"), 11, "-1 weeks is impossible for lead_time"),
        (MINOR.replace("value: 15", "severity: severe"), 11, "An indicator has a value and no severity"),
        (MINOR.replace("value: 15", "repeat: 2"), 11, "Give either a value or values."),
        (MINOR.replace("value: 15", "value: 15, values: [1], every: 1d"), 11, "Give either"),
        (MINOR.replace("value: 15", "value: 15, repeat: 2"), 11, "Say with 'every'"),
        (MINOR.replace("value: 15", "value: 15, repeat: 0, every: 1d"), 11, "Repeat it at least once"),
        (MINOR.replace("value: 15", f"value: 15, repeat: {9 * 10**99}, every: 1d"), 11, "at most 20000"),
        (MINOR.replace("value: 15", "value: 15, repeat: 9000, every: 1y"), 11, "beyond the year"),
        (MINOR.replace("value: 15", "value: 15, every: 0d"), 11, "A span of nothing never ends."),
        (MINOR.replace("value: 15", "value: 15, observed: 1d"), 11, "observed after it comes"),
        (MINOR.replace("value: 15", "value: 15, partner: eris"), 11, "No partner of this file is called"),
        (MINOR.replace("series: lead time,", "series: lead tim,"), 11, "Did you mean lead time?"),
        (MINOR.replace("lead time, value: 15", "outage, value: 3"), 11, "An event has a severity"),
        (MINOR.replace("lead time, value: 15", "outage, severity: none"), 11, "retract it instead"),
        (MINOR.replace("report:", "revise:"), 11, "Nothing was reported for 2025-01-01 that"),
        (MINOR.replace("type: opened", "type: open"), 13, "'type' cannot be 'open'. Did you"),
        (MINOR.replace("minor", "mild"), 13, "'severity' cannot be 'mild'"),
        (MINOR + "      retract: [{ series: lead time, observed: 3d }]\n", 14, "Nothing was reported for"),
        (MINOR + "      findings: [{ series: outage, rule: outage }]\n", 14, "asks no rule 'outage' of"),
        (MINOR + "    - at: 0d\n      report: [{ series: lead time, value: 15 }]\n", 15, "revise it"),
        (MINOR + MINOR, 14, "The name 'lead times lengthen' is taken; see line 8."),
        (MINOR + "  shadow: [lead-times]\n", 14, "has no rule 'lead-times'. Did you mean lead-time?"),
        (MINOR + "  sweep_every: 0d\n", 14, "A span of nothing never ends."),
        (MINOR + "    - at: 2030-01-01\n  sweep_every: 1min\n", 8, "at most 20000 times"),
        (MINOR + "  about: *other\n", 14, "Aliases (*name) are not read here"),
        (MINOR + "  about: !!python/object:os.system {}\n", 14, "Tags ("),
        (MINOR + f"  about: {'[' * 40}{']' * 40}\n", 14, "Nested more than 32 deep."),
    ],
)  # fmt: skip
def test_what_cannot_be_played_is_refused_with_its_line(
    file: Path, scenarios: str, line: int, said: str
) -> None:
    found = faults(file, scenarios)
    assert line in {at for at, _ in found}, found
    assert any(said in detail for at, detail in found if at == line), found


@pytest.mark.parametrize(
    ("head", "line", "said"),
    [
        (HEAD.replace("ttc-semi", "tcc-semi"), 1, "Did you mean ttc-semiconductors?"),
        (HEAD.replace("ttc-semiconductors", "nowhere.yaml"), 1, "The file cannot be read"),
        (HEAD.replace("aurora: EU", "aurora: FR"), 2, "'FR' is not a party of ttc-semiconductors"),
        (HEAD.replace("indicator: lead_time", "indicator: leadtime"), 4, "Did you mean lead_time?"),
        (HEAD.replace("indicator: lead_time, ", ""), 4, "either an indicator or an event"),
        (HEAD.replace("place: UA", "place: UAX"), 5, "'UAX' is not a place"),
    ],
)
def test_what_the_file_names_must_exist(file: Path, head: str, line: int, said: str) -> None:
    (first, *_) = faults(file, MINOR, head)
    assert first[0] == line
    assert said in first[1]


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"profile: [", b"- a\n", b"\tprofile: x\n", b"a: " * 100_000]
)
def test_whatever_the_bytes_are_it_is_a_sentence_with_a_line(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    with pytest.raises(documents.DocumentFaulty) as refused:
        timetable.read(file, documents.load_catalogue())
    assert all(fault.line >= 1 and fault.detail for fault in refused.value.faults)


# ---- what is told ------------------------------------------------------------------------------


def test_the_command_tells_and_exits_by_what_came_of_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(written(file, MINOR)) == 0
    assert capsys.readouterr().out == "1 scenario, none failed.\n"
    assert run(written(file, MINOR.replace("minor", "severe"))) == 1
    assert f"{file}:{FIRST_LINE + 5}: lead times lengthen" in capsys.readouterr().out


def test_without_a_file_the_shipped_scenarios_are_played(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == 0
    assert {Path(one["file"]) for one in found["scenarios"]} == set(timetable.shipped())


def test_faults_of_all_files_are_told_together(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(file, MINOR.replace("minor", "mild"))
    other = written(file.with_name("other.yaml"), MINOR.replace("at: 0d", "at: soon"))
    assert run(file, other) == 1
    said = capsys.readouterr().err
    assert f"{file}:13:" in said
    assert f"{other}:10:" in said


def test_the_data_hold_every_failure(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(written(file, MINOR.replace("minor", "severe")), "--json") == 1
    found = json.loads(capsys.readouterr().out)
    (one,) = found["scenarios"]
    assert (found["count"], found["failed"], one["passed"]) == (1, 1, False)
    assert one["failures"] == [
        {
            "line": FIRST_LINE + 5,
            "detail": "another severity on 2025-01-01",
            "expected": "opened, severity severe",
            "happened": "opened, severity minor",
            "sentence": SENTENCE,
        }
    ]


def test_junit_xml_counts_and_holds_what_failed_whatever_the_name(file: Path) -> None:
    odd = MINOR.replace("lead times lengthen", '"a\\x07 <b> & ]]> \\u2028 \\ufffe"')
    table = played(written(file, MINOR + odd.replace("minor", "severe")))
    report = timetable.junit(table, datetime(2026, 11, 23, 4, 5, 6, 7, UTC))
    root = ElementTree.fromstring(report)
    assert root.tag == "testsuites"
    (suite,) = root
    assert suite.attrib == {
        "id": "0",
        "name": str(file),
        "package": "forewarn.rules",
        "timestamp": "2026-11-23T04:05:06",
        "hostname": "localhost",
        "tests": "2",
        "failures": "1",
        "errors": "0",
        "time": suite.attrib["time"],
    }
    # The order that the schema of Apache Ant asks for.
    assert [e.tag for e in suite] == ["properties", *["testcase"] * 2, "system-out", "system-err"]
    fine, bad = suite.findall("testcase")
    assert (fine.attrib["name"], len(fine)) == ("lead times lengthen", 0)
    assert "\x07" not in bad.attrib["name"]
    assert bad.attrib["classname"] == "ttc-semiconductors"
    (failure,) = bad
    assert failure.attrib == {"type": "expectation", "message": "another severity on 2025-01-01"}
    assert "expected  opened, severity severe" in (failure.text or "")


def test_junit_is_written_beside_the_text(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = file.with_name("report.xml")
    assert run(written(file, MINOR), "--junit", to) == 0
    assert ElementTree.parse(to).getroot()[0].attrib["tests"] == "1"
    assert run(file, "--junit", file.parent / "nowhere" / "report.xml") == 1
    assert "cannot be written" in capsys.readouterr().err


# ---- the page ----------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "rule-tests.md"


def test_the_example_of_the_page_holds_and_fails_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example, told, *_ = (block.partition("\n")[2] for block in PAGE.read_text().split("```")[1::2])
    monkeypatch.chdir(tmp_path)
    file = Path("my-scenarios.yaml")
    file.write_text(example, encoding="utf-8")
    assert not timetable.failed(played(file))
    file.write_text(example.replace("severity: moderate", "severity: severe", 1), encoding="utf-8")
    command, _, output = told.partition("\n")
    assert command == f"forewarn rules test {file}"
    assert f"{timetable.text(played(file))}\n" == output


@pytest.mark.parametrize(
    "shape",
    [
        getattr(written_shapes, name)
        for name in (
            "File",
            "Scenario",
            "Step",
            "Named",
            "Told",
            "TakenBack",
            "Move",
            "Stands",
            "Open",
        )
    ],
)
def test_every_key_is_on_the_page(shape: type) -> None:
    page = PAGE.read_text()
    assert [f.name for f in fields(shape) if f"`{f.name}`" not in page] == []


# ---- instants and spans ------------------------------------------------------------------------

START, BEFORE = datetime(2025, 1, 31, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("0d", "2025-01-31T00:00"),
        ("90min", "2025-01-31T01:30"),
        ("6h", "2025-01-31T06:00"),
        ("2w", "2025-02-14T00:00"),
        ("1mo", "2025-02-28T00:00"),
        ("2mo", "2025-03-31T00:00"),
        ("1y", "2026-01-31T00:00"),
        ("+1d", "2025-03-02T00:00"),
        ("2025-04-01", "2025-04-01T00:00"),
        ("2025-04-01T08:30Z", "2025-04-01T08:30"),
        ("2025-04-01T08:30+02:00", "2025-04-01T06:30"),
    ],
)
def test_instants_are_read_from_the_start_from_before_or_as_days(text: str, instant: str) -> None:
    expected = datetime.fromisoformat(instant).replace(tzinfo=UTC)
    assert instants.instant(text, START, BEFORE) == expected


@pytest.mark.parametrize(
    "text", ["", "1", "d", "-1d", "1.5d", "1mon", "+2025-01-01", "²d", "2025-13-01"]
)
def test_what_is_no_instant_is_said_to_be_none(text: str) -> None:
    with pytest.raises(Unreadable):
        instants.instant(text, START, BEFORE)


@pytest.mark.parametrize(
    ("first", "months", "then", "reason"),
    [
        ("2025-01-31", 1, "2025-02-28", "February has no 31st"),
        ("2025-02-28", 1, "2025-03-31", "from a month's end to a month's end"),
        ("2024-02-28", 1, "2024-03-28", "not the end of a leap year's February"),
        ("2025-01-30", 1, "2025-02-28", "February has no 30th"),
        ("2025-11-15", 3, "2026-02-15", "across a year"),
    ],
)
def test_months_keep_the_day_and_month_ends_stay_month_ends(
    first: str, months: int, then: str, reason: str
) -> None:
    assert Span(months).after(instants.day(first)) == instants.day(then), reason


def test_a_span_times_n_does_not_drift() -> None:
    assert Span(1).after(START, 2) == datetime(2025, 3, 31, tzinfo=UTC)
    assert Span(exact=timedelta(days=1)).after(START, 3) == datetime(2025, 2, 3, tzinfo=UTC)
