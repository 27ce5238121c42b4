"""Text from elsewhere as one harmless line, and addresses that no text can break."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters, line breaks among them
    "\u2028\u2029"  # line and paragraph separators
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of reading
    "\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff"  # marks and what is no character
    "\ud800-\udfff"  # halves of characters
    "\U000e0000-\U000e007f]"  # tags: letters that nobody sees
)
_LINK_KEPT = re.compile(r"[^A-Za-z0-9/._~:-]")


def line(text: object, most: int) -> str:
    """A text as one line of at most that many characters, without any that cannot be seen."""
    words = " ".join(_UNPRINTABLE.sub(" ", str(text)).split())
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"


def percent(text: str, unsafe: re.Pattern[str]) -> str:
    """A text in which every unsafe character is written as the bytes of its UTF-8, %XX each."""
    return unsafe.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "replace")), text
    )


def link(origin: str, path: str) -> str:
    """An absolute address; empty without an origin, because nobody could follow it."""
    return f"{origin}{percent(path, _LINK_KEPT)}" if origin else ""


def link_of(origin: str, shown: Mapping[str, Any], name: str) -> str:
    """One of the addresses that a document shows under ``links``, made absolute; else empty."""
    path = (shown.get("links") or {}).get(name)
    return link(origin, path) if isinstance(path, str) else ""


def spoken(code: str) -> str:
    """A code of ours as people say it: "early warning"."""
    return code.replace("_", " ")
