"""What holds for every format, whatever stands in an alert: hostile text is text, and nothing more."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alerts import payloads
from alerts.payloads import Format, Message, cap, chat, words
from tests.golden.test_format_bytes import CAP, CLOUDEVENT, EARLIER, ORIGIN, REF, messages

SPACE = {"cap": cap.NAMESPACE}
HARD_LIMIT = 64 * 1024

HOSTILE = st.one_of(
    st.text(max_size=80),
    st.text(st.characters(), max_size=40),  # halves of characters and controls among them
    st.sampled_from(
        [
            "]]><script>alert(1)</script>",
            "<!channel> <!here> <@U1> <https://evil.example|click> @everyone @all",
            "&lt;!channel&gt; &amp; \x00\x0b\x1b[31m\u202eevil\u2066",
            "[x](javascript:alert(1)) ![y](//evil.example/z) http://evil.example www.evil.example",
            "a\r\nTo: b\n\n# heading\n---\n* point\n> quoted\n| t |\n`c` **b** _i_ ~s~ $x$ :smile:",
            "\ud800 \udfff \ufffe \uffff \U000e0041",
            "," * 40,
        ]
    ),
)
LEVELS = st.sampled_from(["monitoring", "early_warning", "disruption", "crisis"])
SEVERITIES = st.sampled_from(["none", "minor", "moderate", "severe", "extreme"])
LABELS = st.sampled_from(["RED", "AMBER+STRICT", "AMBER", "GREEN", "CLEAR"])
KINDS = st.sampled_from([f"alert.{k}" for k in ("opened", "updated", "eased", "resolved")])


@st.composite
def hostile_messages(draw: st.DrawFn) -> Message:
    """An alert's message in which every text that comes from elsewhere is hostile."""
    one = messages()["escalated"]
    data: dict[str, Any] = json.loads(one.data)
    alert, transition = data["alert"], data["transition"]
    for name in ("mechanism", "sector", "good", "place", "title", "why"):
        alert[name] = draw(HOSTILE)
    alert["exercise"] = draw(st.one_of(st.none(), HOSTILE))
    alert |= {"severity": draw(SEVERITIES), "tlp": draw(LABELS), "validated": draw(st.booleans())}
    alert["recommendation"] = draw(
        st.one_of(st.none(), st.just({"level": "crisis", "reasons": [draw(HOSTILE)]}))
    )
    alert["links"]["page"] = f"/alerts/{draw(HOSTILE)}"
    transition |= {"from": draw(LEVELS), "to": draw(LEVELS), "reason": draw(HOSTILE)}
    transition["explanation"] = {
        "findings": [
            {"rule": draw(HOSTILE), "state": "firing", "sentence": said}
            for said in draw(st.lists(HOSTILE, max_size=4))
        ]
    }
    if draw(st.booleans()):
        transition["explanation"]["taken_back"] = True
    count = draw(st.integers(0, 70))
    at = datetime(2026, 3, 1, tzinfo=UTC)
    return replace(
        one,
        type=draw(KINDS),
        data=json.dumps(data, separators=(",", ":")),
        earlier=tuple((f"{REF}/{n + 1}", at + timedelta(hours=n)) for n in range(count)),
    )


LAW = settings(max_examples=40, deadline=None, derandomize=True)
ORIGINS = st.sampled_from(["", ORIGIN, "http://[::1]:8000/eu/forewarn"])


@LAW
@given(hostile_messages(), ORIGINS)
def test_cap_is_valid_whatever_stands_in_an_alert(message: Message, origin: str) -> None:
    body = payloads.write(Format.cap, 1, message, origin).body
    CAP.validate(body.decode())
    assert len(body) <= 20_000
    root = ElementTree.fromstring(body)

    def said(path: str) -> str:
        return root.findtext(path, "", SPACE)

    for name in ("identifier", "sender"):
        assert re.fullmatch(r"[^\s,<&]+", said(f"cap:{name}"))
    assert said("cap:sent") == "2026-03-07T09:30:00-00:00"
    data = json.loads(message.data)
    label = data["alert"]["tlp"]
    assert bool(said("cap:restriction")) == (said("cap:scope") == "Restricted")
    assert bool(said("cap:addresses")) == (said("cap:scope") == "Private") == (label == "RED")
    assert (said("cap:scope") == "Public") == (label == "CLEAR")
    for reference in said("cap:references").split():
        assert len(reference.split(",")) == 3
    assert len(said("cap:info/cap:headline")) <= 160


@LAW
@given(hostile_messages(), ORIGINS)
def test_text_is_a_few_lines_without_control_characters(message: Message, origin: str) -> None:
    said = payloads.write(Format.text, 1, message, origin).body.decode()
    *lines, rest = said.split("\n")
    assert (rest, len(lines) <= 6) == ("", True)
    for one in lines:
        assert re.match(r"[A-Z][A-Za-z]+[ :,]", one) or one.startswith("TLP:RED: ")
        assert one.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e]", one)
    assert len(said) <= 3_000


@LAW
@given(hostile_messages())
def test_nothing_from_elsewhere_mentions_links_or_formats_in_a_chat(message: Message) -> None:
    body = payloads.write(Format.chat, 1, message, ORIGIN).body
    said = json.loads(body)
    assert list(said) == ["text"]
    *lines, last = said["text"].split("\n")
    assert last.startswith(f"More: {ORIGIN}/alerts/")
    assert not re.search(r"[\s<>@|`*]", last.removeprefix("More: "))
    for one in lines:
        assert not set(one) & set("<>&@#*_~`|[]\\$")
        assert not re.search(r"[A-Za-z]+:[A-Za-z0-9/]", one.replace("TLP:", ""))
        assert not re.search(r"\.[a-z]", one), "a domain"


@LAW
@given(hostile_messages(), ORIGINS, st.sampled_from([*Format]))
def test_the_same_is_written_on_every_try_and_it_is_never_long(
    message: Message, origin: str, format: Format
) -> None:
    written = payloads.write(format, 1, message, origin)
    assert written == payloads.write(format, 1, message, origin)
    if format in {Format.cap, Format.text, Format.chat}:
        assert len(written.body) <= 20_000
    elif len(message.data) <= payloads.LONGEST_DATA:
        assert len(written.body) <= HARD_LIMIT
    for name, value in written.headers.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert re.fullmatch(r"[\x21-\x7e]*", value)


@LAW
@given(hostile_messages(), ORIGINS)
def test_cloudevents_are_valid_and_their_headers_read_back(message: Message, origin: str) -> None:
    event = json.loads(payloads.write(Format.cloudevents, 1, message, origin).body)
    CLOUDEVENT.validate(event)
    assert (event["id"], event["type"]) == (message.id, message.type)
    written = payloads.write(Format.cloudevents_binary, 1, message, origin)
    assert json.loads(written.body) == event.pop("data")
    assert written.content_type == event.pop("datacontenttype")
    headers = {
        name.removeprefix("ce-"): unquote(value)
        for name, value in written.headers.items()
        if name.startswith("ce-")
    }
    assert headers == event


@pytest.mark.parametrize("letter", ["<", "&", "é", "\U0001f600", "\x00"])
def test_however_long_its_texts_are_what_can_be_cut_is_short(letter: str) -> None:
    one = messages()["escalated"]
    data = json.loads(one.data)
    long = letter * 30_000
    data["alert"] |= dict.fromkeys(("title", "why", "mechanism", "sector", "place", "ref"), long)
    data["alert"]["links"]["page"] = f"/alerts/{letter * 100}"
    data["transition"]["reason"] = long
    data["transition"]["explanation"]["findings"] = [{"sentence": f"{n} {long}"} for n in range(50)]
    many = tuple((f"{letter * 150}/{n}", one.created_at) for n in range(120))
    stretched = replace(one, data=json.dumps(data), earlier=many)
    for format in (Format.cap, Format.text, Format.chat):
        body = payloads.write(format, 1, stretched, ORIGIN).body
        assert len(body) <= 20_000
    CAP.validate(payloads.write(Format.cap, 1, stretched, ORIGIN).body.decode())


SECRET = "gallium for Cygnus"


@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize("origin", ["", ORIGIN])
def test_of_a_red_item_it_is_said_that_there_is_one_and_where_and_nothing_else(
    format: Format, origin: str
) -> None:
    one = messages()["red"]
    data = json.loads(one.data)
    data["alert"] |= dict.fromkeys(("mechanism", "sector", "good", "title", "why"), SECRET)
    data["transition"] |= {"reason": SECRET, "explanation": {"findings": [{"sentence": SECRET}]}}
    data["alert"]["findings"] = [{"rule": SECRET}]
    hidden = replace(one, data=json.dumps(data, separators=(",", ":")))
    written = payloads.write(format, 1, hidden, origin)
    everything = written.body.decode() + repr(dict(written.headers))
    assert SECRET not in unquote(everything)
    assert "severe" not in everything.lower()
    assert REF in everything
    assert "RED" in everything


def test_a_title_that_looks_like_a_red_label_hides_nothing() -> None:
    one = messages()["escalated"]
    data = json.loads(one.data)
    data["alert"]["title"] = '"tlp":"RED"'
    text = json.dumps(data, separators=(",", ":"))
    assert payloads.write(Format.json, 1, replace(one, data=text), "").body.endswith(
        f"{text}}}".encode()
    )


LATER = datetime(2026, 3, 7, 9, 30, 0, 999_999, tzinfo=UTC)

MAPPED: list[tuple[str, str, bool, str, tuple[str, str, str]]] = [
    ("early_warning", "moderate", False, "price", ("Future", "Moderate", "Possible")),
    ("early_warning", "moderate", True, "price", ("Future", "Moderate", "Likely")),
    ("early_warning", "severe", True, "price", ("Expected", "Severe", "Likely")),
    ("early_warning", "severe", False, "event", ("Expected", "Severe", "Observed")),
    ("disruption", "moderate", True, "price", ("Expected", "Moderate", "Observed")),
    ("disruption", "severe", True, "price", ("Immediate", "Severe", "Observed")),
    ("crisis", "minor", True, "price", ("Immediate", "Minor", "Observed")),
    ("crisis", "extreme", True, "price", ("Immediate", "Extreme", "Observed")),
]


def info_of(message: Message) -> dict[str, str]:
    root = ElementTree.fromstring(payloads.write(Format.cap, 1, message, ORIGIN).body)
    return {
        one.tag.partition("}")[2]: one.text or ""
        for one in [*root, *root.findall("cap:info/*", SPACE)]
    }


@pytest.mark.parametrize(("level", "severity", "validated", "rests_on", "expected"), MAPPED)
def test_levels_and_severities_are_said_in_the_words_of_cap(
    level: str, severity: str, validated: bool, rests_on: str, expected: tuple[str, str, str]
) -> None:
    one = messages()["escalated"]
    data = json.loads(one.data)
    data["alert"] |= {"level": level, "severity": severity, "validated": validated}
    data["transition"] |= {"from": level, "to": level}
    band = None if rests_on == "event" else {"severity": "minor"}
    data["transition"]["explanation"]["findings"][0]["band"] = band
    told = info_of(replace(one, data=json.dumps(data)))
    assert (told["urgency"], told["severity"], told["certainty"]) == expected


@pytest.mark.parametrize(
    ("name", "status", "kind", "response"),
    [
        ("opened", "Actual", "Alert", "Monitor"),
        ("escalated", "Actual", "Update", "Monitor"),
        ("resolved", "Actual", "Update", "AllClear"),
        ("cancelled", "Actual", "Cancel", "AllClear"),
        ("exercise", "Exercise", "Update", "Monitor"),
        ("test", "Test", "Alert", "None"),
        ("suspended", "System", "Alert", "Assess"),
    ],
)
def test_a_message_says_what_kind_it_is(name: str, status: str, kind: str, response: str) -> None:
    told = info_of(messages()[name])
    assert (told["status"], told["msgType"], told["responseType"]) == (status, kind, response)


def test_a_cap_message_is_named_the_same_for_every_subscription() -> None:
    one = messages()["escalated"]
    other = replace(one, id="msg_other_9", subscription="sub_other", created_at=LATER)
    mine, theirs = info_of(one), info_of(other)
    for name in ("identifier", "sender", "sent", "references"):
        assert mine[name] == theirs[name]
    assert mine["identifier"] == f"{REF}.2"


def test_references_name_the_opening_and_the_newest_others() -> None:
    at = EARLIER[0][1]
    many = tuple((f"{REF}/{n}", at) for n in range(1, 121))
    told = info_of(replace(messages()["escalated"], earlier=many))["references"].split()
    numbers = [int(one.split(",")[1].rpartition(".")[2]) for one in told]
    assert numbers == [1, *range(72, 121)]


def test_an_exercise_names_itself_in_every_format() -> None:
    for format in Format:
        written = payloads.write(format, 1, messages()["exercise"], ORIGIN)
        assert b"spring-drill" in written.body
    assert info_of(messages()["exercise"])["note"] == "Exercise spring-drill: this is a drill."


@pytest.mark.parametrize("format", [Format.json, Format.cloudevents, Format.cloudevents_binary])
def test_a_machine_is_asked_with_a_challenge_as_data(format: Format) -> None:
    body = json.loads(payloads.write(format, 1, messages()["verify"], ORIGIN).body)
    assert body.get("data", body) == {"challenge": "jJ6rF0yTz0Bz6nUq"}


def test_cap_has_no_question_so_an_endpoint_is_asked_in_json() -> None:
    asked = payloads.write(Format.cap, 1, messages()["verify"], ORIGIN)
    assert asked == payloads.write(Format.json, 1, messages()["verify"], ORIGIN)
    assert asked.headers["webhook-format"] == "json/1"


def test_people_are_asked_with_a_code_they_can_copy_and_where_it_goes() -> None:
    asked = payloads.write(Format.text, 1, messages()["verify"], ORIGIN).body.decode()
    where = f"{ORIGIN}/v1/subscriptions/sub_0a1b2c3d4e5f60718293/confirm"
    assert "code jJ6rF0yTz0Bz6nUq\n" in asked
    assert f"to {where}\n" in asked
    chatted = json.loads(payloads.write(Format.chat, 1, messages()["verify"], ORIGIN).body)["text"]
    assert "code `jJ6rF0yTz0Bz6nUq`\n" in chatted
    assert f"to `{where}`\n" in chatted


def test_a_version_that_is_not_written_is_refused() -> None:
    with pytest.raises(LookupError, match="Format chat has no version 2"):
        payloads.write(Format.chat, 2, messages()["opened"], ORIGIN)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("4.5 USD/kg at 09:30", "4.5 USD/\u2060kg at 09:30"),
        ("see evil.com", "see evil.\u2060com"),
        ("http://evil.com", "http:\u2060/\u2060/\u2060evil.\u2060com"),
        ("<!channel>", "\u2039!channel\u203a"),
        ("@all", "\uff20all"),
        ("*b* _i_ `c` ~s~", "\u2217b\u2217 \uff3fi\uff3f \u02cbc\u02cb \u223cs\u223c"),
    ],
)
def test_a_chat_shows_the_same_and_does_nothing(text: str, shown: str) -> None:
    assert chat.disarmed(text) == shown


def test_a_line_is_one_line_and_says_where_it_was_cut() -> None:
    assert words.line(" a\r\n\tb\u2028c ", 10) == "a b c"
    assert words.line("abcdefgh", 5) == "abcd…"
