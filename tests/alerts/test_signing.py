"""Signing: the bytes Standard Webhooks prescribes, and nothing ever unsigned."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from alerts import signing

AT = datetime.fromtimestamp(1614265330, UTC)
KEY = hashlib.sha256(b"baltica").digest()
OLD_KEY = hashlib.sha256(b"baltica, last year").digest()


def test_the_headers_are_those_of_the_standards_own_example() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    assert signing.secret_of(key) == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = signing.headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", AT, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_receiver_may_hold_the_old_or_the_new_secret_while_it_is_rotated() -> None:
    now = datetime.now(UTC)
    headers = signing.headers([KEY, OLD_KEY], "msg_1_1", now, b"{}")
    assert len(headers["webhook-signature"].split(" ")) == 2
    for key in (KEY, OLD_KEY):
        Webhook(signing.secret_of(key)).verify(b"{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(signing.secret_of(b"c" * 32)).verify(b"{}", headers)


@given(
    key=st.binary(min_size=24, max_size=64),
    text=st.text(),
    webhook_id=st.from_regex(r"msg_[a-z0-9]{1,30}_[0-9]{1,9}", fullmatch=True),
)
def test_what_we_sign_verifies_and_nothing_else_does(
    key: bytes, text: str, webhook_id: str
) -> None:
    body = text.encode("utf-8", "replace")
    headers = signing.headers([key], webhook_id, datetime.now(UTC), body)
    reference = Webhook(signing.secret_of(key))
    reference.verify(body, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        reference.verify(body + b" ", headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        reference.verify(body, {**headers, "webhook-id": f"{webhook_id}0"}, json_parse=False)


def test_the_instant_is_of_the_attempt_so_that_a_late_retry_is_still_fresh() -> None:
    first = signing.headers([KEY], "msg_1_1", AT, b"{}")
    second = signing.headers([KEY], "msg_1_1", AT + timedelta(days=3), b"{}")
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_is_its_key_in_base64_behind_the_standards_prefix(key: bytes) -> None:
    prefix, text = signing.secret_of(key)[:6], signing.secret_of(key)[6:]
    assert (prefix, base64.b64decode(text, validate=True)) == ("whsec_", key)


def test_without_a_key_nothing_is_signed() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        signing.headers([], "msg_1_1", AT, b"{}")
