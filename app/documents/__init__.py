"""The documents that ship as YAML, the catalogue and the profiles, read with line-precise faults."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import alerts.catalogue
import alerts.mechanisms
from alerts.catalogue import Catalogue, Event, Fault, Good, Indicator, Place, Sector
from alerts.mechanisms import Profile, soundness
from alerts.rules import Rule
from app.documents import marks, shapes
from app.settings import Unusable

CATALOGUE_DIR = Path(alerts.catalogue.__file__).parent
T = TypeVar("T")

PROFILES_DIR = Path(alerts.mechanisms.__file__).parent


@dataclass(frozen=True, slots=True)
class LineFault:
    """One thing wrong with a file: where a person finds it, what, and what would do."""

    file: str
    line: int
    column: int
    pointer: str
    detail: str
    allowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``file:line:column: sentence``, with the allowed words where there are some."""
        allowed = f" Allowed: {', '.join(self.allowed)}." if self.allowed else ""
        return f"{self.file}:{self.line}:{self.column}: {self.detail}{allowed}"


class DocumentFaulty(Unusable):
    """The document cannot be used; ``faults`` says why, in the order of the file."""

    def __init__(self, faults: Sequence[LineFault]) -> None:
        super().__init__("\n".join(str(f) for f in faults))
        self.faults = list(faults)


class RuleFaulty(Exception):
    """What was sent is no rule; ``faults`` point into it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f.detail for f in faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class ProfileDocument:
    """A profile with the document it was read from, as kept in the database.

    ``content`` is what was written, without comments and order; ``sha256`` is of its canonical
    JSON, so neither comments nor layout nor new defaults of the format change it.
    """

    profile: Profile
    content: Mapping[str, object]
    sha256: bytes


@dataclass(frozen=True, slots=True)
class CatalogueFile:
    """One file of the catalogue; a code may stand in one file only."""

    sectors: tuple[Sector, ...] = ()
    goods: tuple[Good, ...] = ()
    indicators: tuple[Indicator, ...] = ()
    events: tuple[Event, ...] = ()
    places: tuple[Place, ...] = ()
    countries: Mapping[str, str] = field(default_factory=dict)


def plain(value: object) -> object:
    """A value of ``alerts`` as JSON can carry it, enumerations by name, every default written."""
    return shapes.plain(value)


def canonical_sha256(content: Mapping[str, object]) -> bytes:
    """The SHA-256 of a document's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def shipped_profiles() -> list[Path]:
    """The profiles that come with the product, by name."""
    return sorted(PROFILES_DIR.glob("*.yaml"))


@functools.cache
def load_catalogue(folder: Path = CATALOGUE_DIR) -> Catalogue:
    """The catalogue of all ``*.yaml`` files of a folder; read once a process.

    Raises:
        DocumentFaulty: with the faults of every file.
    """
    catalogue, faults = read_catalogue(sorted(folder.glob("*.yaml")))
    if faults:
        raise DocumentFaulty(faults)
    return catalogue


def read_catalogue(files: Sequence[Path]) -> tuple[Catalogue, list[LineFault]]:
    """The catalogue the files make together, and everything wrong with them."""
    faults: list[LineFault] = []
    kinds = ("sectors", "goods", "indicators", "events", "places")
    known: dict[str, dict[str, object]] = {kind: {} for kind in kinds}
    where: dict[str, tuple[str, marks.Mark]] = {}
    countries: dict[str, str] = {}
    for file in files:
        marked, part = _read(CatalogueFile, file.read_bytes(), file.name, faults)
        if marked is None or part is None:
            continue
        countries |= part.countries
        for kind in kinds:
            for number, entry in enumerate(getattr(part, kind)):
                place = f"{kind}/{entry.code}"
                mark = marked.mark_of(f"/{kind}/{number}/code")
                if place in where:
                    first, earlier = where[place]
                    detail = f"{entry.code!r} is there twice; first in {first}:{earlier.line}."
                    faults.append(LineFault(file.name, mark.line, mark.column, f"/{place}", detail))
                where[place] = (file.name, mark)
                known[kind][entry.code] = entry
    catalogue = Catalogue(**known, countries=countries)  # type: ignore[arg-type]
    for fault in alerts.catalogue.catalogue_faults(catalogue):
        kind, code = fault.pointer.split("/")[1:3]
        name, mark = where[f"{kind}/{code}"]
        faults.append(
            LineFault(name, mark.line, mark.column, fault.pointer, fault.detail, fault.allowed)
        )
    return catalogue, faults


def load_profile(source: Path | str, catalogue: Catalogue | None = None) -> Profile:
    """The profile in a file, or in a text of YAML.

    Raises:
        DocumentFaulty: with every fault that could be found.
    """
    return read_profile(source, catalogue).profile


def read_profile(source: Path | str, catalogue: Catalogue | None = None) -> ProfileDocument:
    """A profile with its document, checked against the catalogue (the shipped one by default).

    Raises:
        DocumentFaulty: with every fault that could be found; also when the file cannot be read.
    """
    name = str(source) if isinstance(source, Path) else "<text>"
    if isinstance(source, Path):
        try:
            text = source.read_bytes()
        except OSError as error:
            detail = f"The file cannot be read: {error.strerror}."
            raise DocumentFaulty([LineFault(name, 1, 1, "", detail)]) from None
    else:
        text = source.encode()
    return _remembered(text, name) if catalogue is None else _document(text, name, catalogue)


@functools.lru_cache(maxsize=16)
def _remembered(text: bytes, name: str) -> ProfileDocument:
    """As it was read before: the demo needs those that ship for each process that it starts."""
    return _document(text, name, load_catalogue())


def _document(text: bytes, name: str, catalogue: Catalogue) -> ProfileDocument:
    faults: list[LineFault] = []
    marked, profile = _read(Profile, text, name, faults)
    if marked is None or not isinstance(marked.content, dict):
        raise DocumentFaulty(faults)
    misfits = {fault.pointer for fault in faults}
    found = [f for f in soundness.unsourced(marked.content) if f.pointer not in misfits]
    if profile is not None:
        found += soundness.check(profile, catalogue)
    faults += (_at(marked, name, fault) for fault in found)
    if profile is None or faults:
        raise DocumentFaulty(_in_order(faults))
    return ProfileDocument(profile, marked.content, canonical_sha256(marked.content))


def profile_from_document(content: Mapping[str, object]) -> Profile:
    """The profile of a document that the database gives back; it was checked when it was kept.

    Raises:
        DocumentFaulty: when it was kept by a newer version that knows more keys.
    """
    try:
        return shapes.read(Profile, dict(content))
    except shapes.DoesNotFit as error:
        name = f"profile {content.get('id')} version {content.get('version')}"
        raise DocumentFaulty(
            [LineFault(name, 1, 1, m.pointer, m.detail, m.allowed) for m in error.misfits]
        ) from None


def rule_from_document(content: Mapping[str, object]) -> Rule:
    """One rule as JSON has it; whether it can be meant depends on the profile around it.

    Raises:
        RuleFaulty: with everything that does not fit, and every number without a source.
    """
    unfit = _unfit(content)
    if unfit is not None:
        raise RuleFaulty([unfit])
    rule: Rule | None = None
    misfits: list[Fault] = []
    try:
        rule = shapes.read(Rule, dict(content))
    except shapes.DoesNotFit as error:
        misfits = [Fault(m.pointer, _sentence(m.detail), m.allowed) for m in error.misfits]
    known = {fault.pointer for fault in misfits}
    at = len("/rules/0")
    for fault in soundness.unsourced({"rules": [content]}):
        if fault.pointer[at:] not in known:
            misfits.append(Fault(fault.pointer[at:], fault.detail, fault.allowed))
    if rule is None or misfits:
        raise RuleFaulty(misfits)
    return rule


def _unfit(content: object) -> Fault | None:
    """What no document may be, whatever it says: too deep, or with text that cannot be kept.

    YAML is held to the same by ``marks``. Without recursion, so that depth is a fault and no crash.
    """
    waiting: list[tuple[str, int, object]] = [("", 0, content)]
    while waiting:
        pointer, depth, value = waiting.pop()
        if depth > marks.DEPTH_LIMIT:
            return Fault(pointer, f"Nested more than {marks.DEPTH_LIMIT} deep.")
        if isinstance(value, str) and not _is_text(value):
            return Fault(pointer, "A text holds U+0000 or half a character.")
        if isinstance(value, Mapping):
            if not all(_is_text(key) for key in value):
                return Fault(pointer, "A key holds U+0000 or half a character.")
            waiting += ((marks.step(pointer, k), depth + 1, v) for k, v in value.items())
        elif isinstance(value, list):
            waiting += ((marks.step(pointer, i), depth + 1, v) for i, v in enumerate(value))
    return None


def _is_text(value: str) -> bool:
    return "\x00" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def check_files(paths: Iterable[Path]) -> list[LineFault]:
    """Everything wrong with profile files, file by file; two may not be of the same mechanism."""
    faults: list[LineFault] = []
    first: dict[str, Path] = {}
    for path in paths:
        try:
            profile = load_profile(path)
        except DocumentFaulty as error:
            faults += error.faults
            continue
        if profile.id in first:
            detail = f"The mechanism {profile.id!r} is also in {first[profile.id]}."
            faults.append(LineFault(str(path), 1, 1, "/id", detail))
        first.setdefault(profile.id, path)
    return faults


def _read(
    shape: type[T], text: bytes, name: str, faults: list[LineFault]
) -> tuple[marks.Marked | None, T | None]:
    """Reads one text as one shape; what is wrong is added to ``faults``."""
    try:
        marked = marks.read(text)
    except marks.TextFaulty as error:
        mark = error.mark
        faults.append(LineFault(name, mark.line, mark.column, error.pointer, error.detail))
        return None, None
    try:
        return marked, shapes.read(shape, marked.content)
    except shapes.DoesNotFit as error:
        faults.extend(_at(marked, name, misfit) for misfit in error.misfits)
        return marked, None


def _at(marked: marks.Marked, name: str, fault: Fault | shapes.Misfit) -> LineFault:
    of_key = isinstance(fault, shapes.Misfit) and fault.of_key
    mark = marked.mark_of(fault.pointer, of_key=of_key)
    detail = _sentence(fault.detail)
    return LineFault(name, mark.line, mark.column, fault.pointer, detail, fault.allowed)


def _sentence(detail: str) -> str:
    return detail[:1].upper() + detail[1:]


def _in_order(faults: Iterable[LineFault]) -> list[LineFault]:
    return sorted(faults, key=lambda f: (f.line, f.column))
