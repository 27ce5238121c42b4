"""What came of scenarios: for people, as JUnit XML, and as data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from app.timetable.playing import Failure, Played, failed

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, in whatever form (section 2.2), and a terminal had better not see."""


def text(played: Sequence[Played]) -> str:
    """A paragraph for each failure with its file and line, and a line that counts."""
    lines: list[str] = []
    for one in played:
        for failure in one.failures:
            lines += [
                f"{one.file}:{failure.line}: {one.scenario}: {failure.detail}",
                _body(failure),
            ]
    count = f"{len(played)} scenario{'' if len(played) == 1 else 's'}"
    return _clean("\n".join([*lines, f"{count}, {failed(played) or 'none'} failed."]))


def data(played: Sequence[Played]) -> dict[str, object]:
    """The same as plain data."""
    scenarios = [
        {
            "file": one.file,
            "line": one.line,
            "scenario": one.scenario,
            "mechanism": one.mechanism,
            "passed": not one.failures,
            "seconds": round(one.seconds, 6),
            "failures": [dataclasses.asdict(f) for f in one.failures],
        }
        for one in played
    ]
    return {"scenarios": scenarios, "count": len(played), "failed": failed(played)}


def junit(played: Sequence[Played], at: datetime, host: str = "localhost") -> bytes:
    """JUnit XML: a suite for each file, a case for each scenario; both common schemas accept it.

    Args:
        played: what came of the scenarios, those of one file together.
        at: when they were played.
        host: where.
    """
    root = Element("testsuites")
    for number, (file, together) in enumerate(groupby(played, key=attrgetter("file"))):
        cases = list(together)
        suite = SubElement(
            root,
            "testsuite",
            id=str(number),
            name=_clean(file),
            package="forewarn.rules",
            timestamp=f"{at:%Y-%m-%dT%H:%M:%S}",
            hostname=_clean(host),
            tests=str(len(cases)),
            failures=str(failed(cases)),
            errors="0",
            time=f"{sum(c.seconds for c in cases):.3f}",
        )
        SubElement(suite, "properties")
        for one in cases:
            case = SubElement(
                suite,
                "testcase",
                name=_clean(one.scenario),
                classname=_clean(one.mechanism),
                time=f"{one.seconds:.3f}",
            )
            if one.failures:
                first = one.failures[0]
                told = SubElement(case, "failure", type="expectation", message=_clean(first.detail))
                told.text = _clean(
                    "\n".join(f"{one.file}:{f.line}: {f.detail}\n{_body(f)}" for f in one.failures)
                )
        SubElement(suite, "system-out")
        SubElement(suite, "system-err")
    indent(root)
    found: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return found + b"\n"


def _body(failure: Failure) -> str:
    said = [f"    expected  {failure.expected}", f"    happened  {failure.happened}"]
    return "\n".join([*said, *([f"    {failure.sentence}"] if failure.sentence else [])])


def _clean(said: str) -> str:
    return _NOT_XML.sub("�", said)
