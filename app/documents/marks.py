"""YAML text -> plain values, and where in the text each of them stands.

A small YAML: mappings with text keys, lists, text, numbers, true, false, null. Words such as
``no`` and ``on`` are text (``NO`` is Norway), and so are dates; anchors, aliases and tags are
refused, which leaves no way to write a document that grows when it is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

SIZE_LIMIT_BYTES = 2**20
DEPTH_LIMIT = 32

# The loader in C is ten times faster; PyYAML has it wherever its wheel came with libyaml.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# The core schema of YAML 1.2.2, section 10.3.2, without octal and hexadecimal numbers.
_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_WHOLE = re.compile(r"[-+]?[0-9]{1,300}")
_NUMBER = re.compile(r"[-+]?(\.[0-9]{1,300}|[0-9]{1,300}(\.[0-9]{0,300})?)([eE][-+]?[0-9]{1,5})?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

Plain = dict[str, "Plain"] | list["Plain"] | str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in a text; the first line and the first column are 1."""

    line: int
    column: int


class TextFaulty(Exception):
    """The text cannot be read as a document."""

    def __init__(self, detail: str, mark: Mark, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.mark = mark
        self.pointer = pointer


@dataclass(frozen=True, slots=True)
class Marked:
    """A document with the mark of every value and of every key, by JSON pointer."""

    content: Plain
    values: dict[str, Mark] = field(default_factory=dict)
    keys: dict[str, Mark] = field(default_factory=dict)

    def mark_of(self, pointer: str, *, of_key: bool = False) -> Mark:
        """Where the value or key stands, or else the nearest thing around it."""
        if of_key and pointer in self.keys:
            return self.keys[pointer]
        while pointer not in self.values and pointer:
            pointer = pointer.rpartition("/")[0]
        return self.values.get(pointer, Mark(1, 1))


def read(text: bytes) -> Marked:
    """Reads one document.

    Raises:
        TextFaulty: at the first thing that cannot be read.
    """
    if len(text) > SIZE_LIMIT_BYTES:
        detail = f"The file is larger than {SIZE_LIMIT_BYTES // 1024} KiB; no document is."
        raise TextFaulty(detail, Mark(1, 1))
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = text[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        detail = "This byte is not UTF-8; save the file as UTF-8."
        raise TextFaulty(detail, Mark(line, column)) from None
    tab = re.search(r"^ *\t", decoded, re.MULTILINE)
    if tab is not None:
        line = decoded.count("\n", 0, tab.end()) + 1
        raise TextFaulty(
            "Indent with spaces; YAML does not allow tabs here.",
            Mark(line, tab.end() - tab.start()),
        )
    try:
        return _compose(yaml.parse(decoded, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        position = error.problem_mark or error.context_mark
        mark = Mark(1, 1) if position is None else Mark(position.line + 1, position.column + 1)
        context = f"{error.context}: " if error.context else ""
        raise TextFaulty(f"Not valid YAML: {context}{error.problem}.", mark) from None
    except yaml.YAMLError as error:
        detail = f"Not valid YAML: {' '.join(str(error).split())}."
        raise TextFaulty(detail, Mark(1, 1)) from None


def step(pointer: str, token: str | int) -> str:
    """The JSON pointer (RFC 6901) one step further in."""
    return f"{pointer}/{str(token).replace('~', '~0').replace('/', '~1')}"


@dataclass(slots=True)
class _Open:
    """A mapping or list that has begun and not ended; ``key`` waits for its value."""

    pointer: str
    content: dict[str, Plain] | list[Plain]
    key: str | None = None


_Value = yaml.ScalarEvent | yaml.CollectionStartEvent


def _mark_of(event: yaml.Event) -> Mark:
    """Where an event begins; those of a parsed text always know."""
    found = event.start_mark
    return Mark(1, 1) if found is None else Mark(found.line + 1, found.column + 1)


def _compose(events: Iterator[yaml.Event]) -> Marked:
    """Builds the document without recursion, so that depth is a fault and not a crash."""
    marked = Marked(None)
    nothing = object()
    root: object = nothing
    stack: list[_Open] = []
    for event in events:
        mark = _mark_of(event)
        match event:
            case yaml.DocumentStartEvent() if root is not nothing:
                raise TextFaulty("One file holds one document; this begins a second.", mark)
            case yaml.AliasEvent():
                raise TextFaulty("Aliases (*name) are not read here; write it out.", mark)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                stack.pop()
                continue
            case yaml.ScalarEvent() | yaml.CollectionStartEvent():
                pass
            case _:
                continue
        if event.anchor is not None:
            raise TextFaulty("Anchors (&name) are not read here; write it out.", mark)
        if event.tag not in (None, "!"):
            raise TextFaulty(f"Tags ({event.tag}) are not read here; leave it out.", mark)
        if stack and isinstance(stack[-1].content, dict) and stack[-1].key is None:
            stack[-1].key = _key(event, stack[-1], mark, marked)
            continue
        pointer = _place_of_next(stack)
        if len(stack) >= DEPTH_LIMIT:
            raise TextFaulty(f"Nested more than {DEPTH_LIMIT} deep.", mark, pointer)
        value = _value(event, mark, pointer)
        marked.values[pointer] = mark
        if stack:
            _put(stack[-1], value)
        else:
            root = value
        if isinstance(value, dict | list):
            stack.append(_Open(pointer, value))
    if root is nothing:
        raise TextFaulty("The file is empty; a mapping is expected.", Mark(1, 1))
    return Marked(root, marked.values, marked.keys)  # type: ignore[arg-type]


def _key(event: _Value, owner: _Open, mark: Mark, marked: Marked) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise TextFaulty("A key is a word, not a list or a mapping.", mark, owner.pointer)
    key: str = event.value
    pointer = step(owner.pointer, key)
    if key in owner.content:
        first = marked.keys[pointer].line
        raise TextFaulty(f"{key!r} is written twice; first in line {first}.", mark, pointer)
    marked.keys[pointer] = mark
    return key


def _place_of_next(stack: list[_Open]) -> str:
    if not stack:
        return ""
    owner = stack[-1]
    return step(owner.pointer, len(owner.content) if owner.key is None else owner.key)


def _put(owner: _Open, value: Plain) -> None:
    if isinstance(owner.content, list):
        owner.content.append(value)
    elif owner.key is not None:
        owner.content[owner.key] = value
        owner.key = None


def _value(event: _Value, mark: Mark, pointer: str) -> Plain:
    match event:
        case yaml.ScalarEvent():
            text = str(event.value)
            return _scalar(text, mark, pointer) if event.implicit[0] else text
        case yaml.SequenceStartEvent():
            return []
        case _:
            return {}


def _scalar(text: str, mark: Mark, pointer: str) -> Plain:
    """What a plain (unquoted) scalar means."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NOT_FINITE.fullmatch(text):
        raise TextFaulty(f"{text} is not a number that can be compared.", mark, pointer)
    if _NUMBER.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise TextFaulty(f"{text} is too large a number.", mark, pointer)
        return number
    return text
