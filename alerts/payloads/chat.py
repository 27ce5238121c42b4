"""Format ``chat``: ``{"text": …}`` for incoming webhooks as Slack, Mattermost and Google Chat have them.

The three read different markup, and none documents an escape that the others show as it was meant
(Slack's ``&lt;`` is shown letter by letter elsewhere). So what could begin markup in any of them is
replaced by a character that looks alike and means nothing, and what would become a link or a mention
is parted by a character that nobody sees. Only our own link and our own code stay as they are.
"""

from __future__ import annotations

import json
import re

from alerts.payloads import plain, telling
from alerts.payloads.messages import Message, Written

_LOOKALIKES = str.maketrans(
    {
        "<": "\u2039",  # Slack and Google Chat: <!channel>, <@user>, <users/all>, <address|text>
        ">": "\u203a",
        "&": "\uff06",  # Slack: &lt; would be read back
        "@": "\uff20",  # Mattermost: @channel, @all, @here
        "#": "\uff03",  # Mattermost: headings and tags
        "*": "\u2217",  # bold
        "_": "\uff3f",  # italic
        "~": "\u223c",  # struck through; Mattermost: ~channel
        "`": "\u02cb",  # code
        "|": "\u2223",  # tables
        "[": "\uff3b",  # Markdown: [text](address), ![picture](address)
        "]": "\uff3d",
        "\\": "\uff3c",  # an escape of whatever follows
        "$": "\uff04",  # Mattermost: formulas
    }
)
# WORD JOINER after the colon of http:x and :smile:, the stop of evil.com, both slashes of //x.
_JOINED = re.compile(r"(?<=\S)[:.](?=\S)|(?<![0-9])[:/](?=\S)")
_JOINER = "\u2060"


def write(message: Message, origin: str) -> Written:
    """The message as one text in which nothing from elsewhere mentions, links or formats."""
    said = "\n".join(telling.lines(message, origin, quote=disarmed, code=_as_code))
    body = json.dumps({"text": said}, ensure_ascii=False, separators=(",", ":"))
    return Written(plain.CONTENT_TYPE, body=body.encode())


def disarmed(text: str) -> str:
    """A line from elsewhere that reads the same and means nothing to a chat."""
    return _JOINED.sub(_part, text.translate(_LOOKALIKES))


def _part(found: re.Match[str]) -> str:
    """Numbers stay whole: 4.5 and 09:30 link nowhere."""
    start, end = found.span()
    around = found.string[start - 1 : start], found.string[end : end + 1]
    return found[0] if all(one.isdecimal() for one in around) else f"{found[0]}{_JOINER}"


def _as_code(code: str) -> str:
    return f"`{code}`"
