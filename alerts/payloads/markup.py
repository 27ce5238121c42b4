"""XML that no text can break: every text is cleaned of what XML 1.0 cannot hold, then escaped.

Source: Extensible Markup Language 1.0 (fifth edition), production 2, Char.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_NOT_CHARS = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"})


@dataclass(frozen=True, slots=True)
class Element:
    """One element: a text, or elements in their order."""

    name: str
    content: str | tuple[Element, ...] = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


def element(name: str, *inside: Element | None, **attributes: str) -> Element:
    """An element of elements; what is None is left out."""
    return Element(name, tuple(one for one in inside if one is not None), attributes)


def text(name: str, content: str) -> Element | None:
    """An element of a text; None when there is nothing to say."""
    return Element(name, content) if content else None


def document(root: Element) -> bytes:
    """A whole document in UTF-8."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{"".join(_written(root, 0))}'.encode()


def escaped(content: str) -> str:
    """A text as it may stand in an element or an attribute."""
    return _NOT_CHARS.sub("", content).translate(_ENTITIES)


def _written(one: Element, depth: int) -> Iterable[str]:
    """Pieces of text, each element of elements on lines of its own."""
    margin = "  " * depth
    told = "".join(f' {name}="{escaped(value)}"' for name, value in one.attributes.items())
    if isinstance(one.content, str):
        inside = escaped(one.content)
        yield (
            f"{margin}<{one.name}{told}>{inside}</{one.name}>\n"
            if inside
            else (f"{margin}<{one.name}{told}/>\n")
        )
        return
    if not one.content:
        yield f"{margin}<{one.name}{told}/>\n"
        return
    yield f"{margin}<{one.name}{told}>\n"
    for child in one.content:
        yield from _written(child, depth + 1)
    yield f"{margin}</{one.name}>\n"
