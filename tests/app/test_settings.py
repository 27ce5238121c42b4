"""Settings: read from the environment, refused in words."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from app import settings
from app.settings import Settings, SettingsFaulty


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREWARN_WEBHOOK_ALLOW", "127.0.0.0/8, fd00::/8,")
    monkeypatch.setenv("FOREWARN_RETRY_SCHEDULE", "1,2.5")
    found = settings.from_environment()
    assert found.webhook_allow == (ip_network("127.0.0.0/8"), ip_network("fd00::/8"))
    assert found.retry_schedule == (1, 2.5)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://forewarn.example/", "https://forewarn.example"),
        ("https://forewarn.example/eu/", "https://forewarn.example/eu"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_public_address_is_kept_without_the_slash_at_its_end(
    monkeypatch: pytest.MonkeyPatch, written: str, kept: str
) -> None:
    monkeypatch.setenv("FOREWARN_PUBLIC_URL", written)
    assert settings.from_environment().public_url == kept


def test_an_empty_list_of_networks_allows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREWARN_WEBHOOK_ALLOW", "")
    assert settings.from_environment().webhook_allow == ()


def test_the_default_schedule_makes_twelve_attempts_over_70_7_hours() -> None:
    schedule = Settings().retry_schedule
    assert len(schedule) + 1 == 12
    assert round(sum(schedule) / 3600, 1) == 70.7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://root@host/db"),
        ("SECRET_KEY", "short"),
        ("WEBHOOK_ALLOW", "10.0.0.0/99"),
        ("WEBHOOK_ALLOW", "everything"),
        ("WEBHOOK_ALLOW_HTTP", "perhaps"),
        ("RETRY_SCHEDULE", ""),
        ("RETRY_SCHEDULE", "5,soon"),
        ("RETRY_SCHEDULE", "5,-1"),
        ("RETRY_SCHEDULE", "inf"),
        ("WEBHOOK_TIMEOUT_SECONDS", "0"),
        ("INGEST_LANES", "3"),
        ("LOG_LEVEL", "shout"),
        ("PROFILES_DIR", "/no/such/folder"),
        ("PUBLIC_URL", "forewarn.example"),
        ("PUBLIC_URL", "ftp://forewarn.example"),
        ("PUBLIC_URL", "https://user@forewarn.example"),
        ("PUBLIC_URL", "https://forewarn.example/?x=1"),
        ("PUBLIC_URL", "https://forewarn.example/a b"),
        ("PUBLIC_URL", "https://"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FOREWARN_{name}", value)
    with pytest.raises(SettingsFaulty, match=f"FOREWARN_{name}: .*docs/settings.md"):
        settings.from_environment()


def test_a_faulty_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREWARN_SECRET_KEY", "hunter2")
    with pytest.raises(SettingsFaulty) as raised:
        settings.from_environment()
    assert "hunter2" not in str(raised.value)


def test_a_secret_is_not_printed_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "forty characters that nobody may ever see"
    monkeypatch.setenv("FOREWARN_SECRET_KEY", secret)
    assert secret not in repr(settings.from_environment())
