"""An event as a few lines that a person reads in the night: how bad, what, why, what changed, where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from alerts.mechanisms import Tlp
from alerts.payloads.messages import TEST, VERIFY, Message, is_cancel, is_end, parts
from alerts.payloads.words import line, link, link_of, spoken

Quote = Callable[[str], str]
"""Makes a text from elsewhere harmless where the lines are shown."""

_LONGEST_TITLE = 200
_LONGEST_SENTENCE = 600
_LONGEST_WORD = 100
_CODE = re.compile(r"[A-Za-z0-9_-]{1,100}")


def lines(message: Message, origin: str, quote: Quote = str, code: Quote = str) -> list[str]:
    """The lines, the most important first; none is empty, none holds a line break.

    Each begins with a word of ours, so that no text from elsewhere begins a line.

    Args:
        message: the event, as it may be sent.
        origin: for links; without one there are none.
        quote: applied to every text that is not ours.
        code: applied to what people copy letter by letter.
    """

    def say(text: object, most: int = _LONGEST_SENTENCE) -> str:
        return quote(line(text or "", most))

    alert, transition = parts(message)
    if alert.get("tlp") == Tlp.red.value:
        return _red(alert, origin, say)
    if alert:
        return _of_alert(message, alert, transition, origin, say)
    data = json.loads(message.data)
    if message.type == VERIFY:
        return _question(message, data, origin, say, code)
    if message.type == TEST:
        return [f"TEST: {say(data.get('message'))}", f"Subscription: {say(message.subscription)}"]
    if isinstance(endpoint := data.get("endpoint"), dict):
        return _of_endpoint(message, endpoint, origin, say)
    return [f"Event: {say(message.type)}"]


def _of_alert(
    message: Message,
    alert: Mapping[str, Any],
    transition: Mapping[str, Any],
    origin: str,
    say: Callable[..., str],
) -> list[str]:
    drill = f"EXERCISE {say(alert['exercise'], _LONGEST_WORD)}, " if alert.get("exercise") else ""
    ended = is_end(message) or is_cancel(message, transition)
    mark = (
        "CANCELLED"
        if is_cancel(message, transition)
        else "OVER"
        if ended
        else say(alert.get("severity"), _LONGEST_WORD).upper()
    )
    ref, tlp = say(alert.get("ref"), _LONGEST_WORD), say(alert.get("tlp"), _LONGEST_WORD)
    told = [
        f"{drill}{mark}: {say(alert.get('title'), _LONGEST_TITLE)}",
        "" if ended else f"Why: {say(alert.get('why'))}",
        f"Changed: {_change(transition, say)} {say(transition.get('reason'))}",
        "" if ended else f"Level: {_level(alert, say)}.",
        f"Reference: {ref}, TLP:{tlp}, recorded {_minute(transition.get('recorded_at'))}",
        _page(alert, origin, "page"),
    ]
    return [one for one in told if one]


def _change(transition: Mapping[str, Any], say: Callable[..., str]) -> str:
    def of(name: str) -> str:
        return say(spoken(str(transition.get(name) or "")), _LONGEST_WORD)

    level_from, level_to = of("from"), of("to")
    if transition.get("type") == "alert.opened":
        return f"opened as {level_to}."
    moves = [
        f"{what} from {was} to {now}"
        for what, was, now in (
            ("level", level_from, level_to),
            ("severity", of("severity_from"), of("severity_to")),
        )
        if was != now
    ]
    return f"{', '.join(moves)}." if moves else "news, at the same level and severity."


def _level(alert: Mapping[str, Any], say: Callable[..., str]) -> str:
    validated = "" if alert.get("validated") else ", not validated by a person"
    advice = (alert.get("recommendation") or {}).get("level")
    recommended = f"; {say(spoken(str(advice)), _LONGEST_WORD)} is recommended" if advice else ""
    return f"{say(spoken(str(alert.get('level') or '')), _LONGEST_WORD)}{validated}{recommended}"


def _red(alert: Mapping[str, Any], origin: str, say: Callable[..., str]) -> list[str]:
    ref = say(alert.get("ref"), _LONGEST_WORD)
    drill = "EXERCISE, " if alert.get("exercise") else ""
    told = [
        f"{drill}TLP:RED: there is an item, {ref}, for named recipients. Its content is not sent.",
        _page(alert, origin, "page"),
    ]
    return [one for one in told if one]


def _question(
    message: Message,
    data: Mapping[str, Any],
    origin: str,
    say: Callable[..., str],
    code: Quote,
) -> list[str]:
    """Asks people, because what shows these lines cannot answer."""
    challenge = str(data.get("challenge") or "")
    shown = code(challenge) if _CODE.fullmatch(challenge) else say(challenge)
    path = f"/v1/subscriptions/{message.subscription}/confirm"
    where = code(link(origin, path) or path)
    return [
        f"Forewarn asks whether alerts may be sent here. If you want them, confirm with the code {shown}",
        f"Confirm: POST it as the member challenge of a JSON object to {where}",
        "Otherwise: do nothing, and nothing is sent.",
    ]


def _of_endpoint(
    message: Message, endpoint: Mapping[str, Any], origin: str, say: Callable[..., str]
) -> list[str]:
    news = message.type.partition(".")[2].upper()
    percent = endpoint.get("notice_percent")
    owed = endpoint.get("owed")
    told = [
        f"ENDPOINT {say(news, _LONGEST_WORD)}: {say(endpoint.get('url'), _LONGEST_TITLE)}",
        f"Why: {say(endpoint['reason'])}" if endpoint.get("reason") else "",
        f"Status: {say(endpoint.get('status'), _LONGEST_WORD)} "
        f"since {_minute(endpoint.get('since'))}"
        + (f", {percent} % of the way to being suspended" if percent in {50, 70, 90} else ""),
        f"Last error: {say(endpoint['last_error'])}, failed attempts: "
        f"{say(endpoint.get('failed_attempts'), 20) or 0}"
        if endpoint.get("last_error")
        else "",
        f"Owed: {owed}; nothing of it is lost" if isinstance(owed, int) and owed else "",
        f"Subscription: {say(endpoint.get('subscription'), _LONGEST_WORD)}",
        _page(endpoint, origin, "self"),
    ]
    return [one for one in told if one]


def _page(shown: Mapping[str, Any], origin: str, name: str) -> str:
    address = link_of(origin, shown, name)
    return f"More: {address}" if address else ""


def _minute(said: object) -> str:
    """An instant as people read it, in UTC."""
    if not isinstance(said, str):
        return "an unknown time"
    return f"{datetime.fromisoformat(said):%Y-%m-%d %H:%M} UTC"
