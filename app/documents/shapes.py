"""Plain values -> the dataclasses of ``alerts``, finding everything that is wrong on the way.

The dataclasses are the only description of the format: their fields are the keys, a field without
a default is required, any other key is refused. Enumerations are written by name, unions are told
apart by ``kind`` so that only the branch meant is spoken of, and one word stands for a list of
one. A generic validator would read ``IntEnum`` by number and blame every branch of a union.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import sys
import types
import typing
from collections.abc import Mapping
from datetime import date

from alerts.catalogue import did_you_mean, nearest
from app.documents.marks import step


@dataclasses.dataclass(frozen=True, slots=True)
class Misfit:
    """One thing that does not fit: where, what, what would do; ``of_key`` blames the key itself."""

    pointer: str
    detail: str
    allowed: tuple[str, ...] = ()
    of_key: bool = False


class DoesNotFit(Exception):
    """Raised after the whole value has been looked at, with everything that does not fit."""

    def __init__(self, misfits: list[Misfit]) -> None:
        super().__init__("; ".join(m.detail for m in misfits))
        self.misfits = misfits


T = typing.TypeVar("T")

_LARGEST = int(sys.float_info.max)


def read(shape: type[T], content: object) -> T:
    """The value of that shape.

    Args:
        shape: a dataclass of ``alerts``.
        content: what was written, of dict, list, str, int, float, bool and None.

    Raises:
        DoesNotFit: with every misfit, in the order of the dataclass's fields.
    """
    misfits: list[Misfit] = []
    value = _read(shape, content, "", misfits)
    if misfits:
        raise DoesNotFit(misfits)
    return typing.cast(T, value)


def plain(value: object) -> object:
    """The value as JSON can carry it; ``read`` of its own shape gives the same value back.

    Every field is written, with defaults; enumerations by name or word, dates as ISO 8601.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    match value:
        case enum.IntEnum():
            return value.name
        case enum.StrEnum():
            return value.value
        case date():
            return value.isoformat()
        case Mapping():
            return {key: plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case frozenset():
            return sorted(str(plain(inner)) for inner in value)
        case _:
            return value


def _read(shape: object, content: object, pointer: str, misfits: list[Misfit]) -> object:
    """Reads one value; after a misfit the returned value means nothing."""
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments, content, pointer, misfits)
    if origin is tuple:
        return tuple(_read_each(arguments[0], content, pointer, misfits))
    if shape == frozenset[str]:
        return frozenset(_read_each(str, content, pointer, misfits))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _read_mapping(arguments[1], content, pointer, misfits)
    if origin is typing.Literal:
        return _read_word({str(a): a for a in arguments}, content, pointer, misfits)
    if isinstance(shape, type):
        if dataclasses.is_dataclass(shape):
            return _read_dataclass(shape, content, pointer, misfits)
        if issubclass(shape, enum.IntEnum):
            return _read_word({m.name: m for m in shape}, content, pointer, misfits)
        if issubclass(shape, enum.StrEnum):
            return _read_word({m.value: m for m in shape}, content, pointer, misfits)
        return _read_scalar(shape, content, pointer, misfits)
    raise TypeError(f"no way to read {shape!r}")


def _read_dataclass(shape: type, content: object, pointer: str, misfits: list[Misfit]) -> object:
    if not isinstance(content, dict):
        wanted = f"a mapping with {_listed(_required(shape))}"
        misfits.append(
            Misfit(pointer, f"{_named(pointer)} must be {wanted}, not {_said(content)}.")
        )
        return None
    shapes = _shapes_of(shape)
    for key in content:
        if key not in shapes:
            detail = f"{key!r} is not a key of {_named(pointer)}.{did_you_mean(key, shapes)}"
            misfits.append(Misfit(step(pointer, key), detail, nearest(key, shapes), of_key=True))
    lacking = (key for key in _required(shape) if key not in content)
    misfits.extend(Misfit(pointer, f"{_named(pointer)} needs {key!r}.") for key in lacking)
    before = len(misfits)
    given = {
        key: _read(wanted, content[key], step(pointer, key), misfits)
        for key, wanted in shapes.items()
        if key in content
    }
    if len(misfits) > before or not set(_required(shape)) <= set(given):
        return None
    return shape(**given)


def _read_union(
    branches: tuple[object, ...], content: object, pointer: str, misfits: list[Misfit]
) -> object:
    if content is None and type(None) in branches:
        return None
    shapes = [b for b in branches if b is not type(None)]
    if len(shapes) == 1:
        return _read(shapes[0], content, pointer, misfits)
    kinds = {typing.get_args(_shapes_of(b)["kind"])[0]: b for b in shapes if isinstance(b, type)}
    if not isinstance(content, dict) or "kind" not in content:
        detail = f"{_named(pointer)} must be a mapping with a 'kind'."
        misfits.append(Misfit(pointer, detail, tuple(sorted(kinds))))
        return None
    before = len(misfits)
    branch = _read_word(kinds, content["kind"], step(pointer, "kind"), misfits)
    return None if len(misfits) > before else _read(branch, content, pointer, misfits)


def _read_each(shape: object, content: object, pointer: str, misfits: list[Misfit]) -> list[object]:
    if isinstance(content, str) and isinstance(shape, type) and issubclass(shape, str):
        content = [content]
    if not isinstance(content, list | tuple):
        detail = f"{_named(pointer)} must be a list, not {_said(content)}."
        misfits.append(Misfit(pointer, detail))
        return []
    return [_read(shape, inner, step(pointer, i), misfits) for i, inner in enumerate(content)]


def _read_mapping(
    shape: object, content: object, pointer: str, misfits: list[Misfit]
) -> dict[str, object]:
    if not isinstance(content, dict):
        detail = f"{_named(pointer)} must be a mapping, not {_said(content)}."
        misfits.append(Misfit(pointer, detail))
        return {}
    return {k: _read(shape, inner, step(pointer, k), misfits) for k, inner in content.items()}


def _read_word(
    known: Mapping[str, object], content: object, pointer: str, misfits: list[Misfit]
) -> object:
    if isinstance(content, str) and content in known:
        return known[content]
    if isinstance(content, str):
        detail = f"{_named(pointer)} cannot be {content!r}.{did_you_mean(content, known)}"
        misfits.append(Misfit(pointer, detail, nearest(content, known)))
    else:
        detail = f"{_named(pointer)} must be one of its words, not {_said(content)}."
        misfits.append(Misfit(pointer, detail, tuple(known)))
    return None


def _read_scalar(shape: type, content: object, pointer: str, misfits: list[Misfit]) -> object:
    wanted = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if shape is float and isinstance(content, int) and not isinstance(content, bool):
        # An integer of JSON may have more digits than any number can be compared with.
        content = float(content) if abs(content) <= _LARGEST else math.inf
    if shape is date and isinstance(content, str):
        try:
            return date.fromisoformat(content)
        except ValueError:
            pass
    if type(content) is shape and not (isinstance(content, float) and not math.isfinite(content)):
        return content
    kind = wanted.get(shape, "a date such as 2027-04-05")
    quote = (
        " Put it in quotes if it is meant as text." if shape is str and content is not None else ""
    )
    detail = f"{_named(pointer)} must be {kind}, not {_said(content)}.{quote}"
    misfits.append(Misfit(pointer, detail))
    return None


@functools.cache
def _shapes_of(shape: type) -> dict[str, object]:
    """The type of every field, forward references resolved."""
    hints = typing.get_type_hints(shape)
    return {f.name: hints[f.name] for f in dataclasses.fields(shape)}


@functools.cache
def _required(shape: type) -> tuple[str, ...]:
    missing = dataclasses.MISSING
    return tuple(
        f.name
        for f in dataclasses.fields(shape)
        if f.default is missing and f.default_factory is missing
    )


def _named(pointer: str) -> str:
    """What a sentence calls the place a pointer leads to: its last word, and of what."""
    if not pointer:
        return "the document"
    *_, last = pointer.split("/")
    if last.isdigit():
        owner = pointer.split("/")[-2]
        return f"number {int(last) + 1} of {owner!r}" if owner else "the list"
    return repr(last.replace("~1", "/").replace("~0", "~"))


def _said(content: object) -> str:
    """What was written, in words that fit a sentence."""
    match content:
        case None:
            return "nothing"
        case bool():
            return "true" if content else "false"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case str():
            return f"the text {content[:64]!r}"
        case _:
            return str(content)[:64]


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(repr(w) for w in words) or "keys"
