"""Seals: secrets are unreadable at rest, and several processes agree on one key."""

from __future__ import annotations

import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from app import seals
from app.seals import KeyFileUnusable, SealBroken, Seals
from app.settings import Settings

NOW = datetime(2026, 3, 7, 12, 0, tzinfo=UTC)
ONE = Seals("the key of one deployment, long enough")
OTHER = Seals("the key of another deployment, as long")


def test_what_was_sealed_opens_and_cannot_be_read_before() -> None:
    sealed = ONE.seal("webhook secret", b"a signing key", NOW)
    assert b"signing" not in sealed
    assert ONE.unseal("webhook secret", sealed, NOW + timedelta(days=9_999)) == b"a signing key"
    assert ONE.seal("webhook secret", b"a signing key", NOW) != sealed


@pytest.mark.parametrize(
    ("sealed", "reason"),
    [
        (OTHER.seal("webhook secret", b"x", NOW), "sealed under another key"),
        (ONE.seal("dashboard cookie", b"x", NOW), "sealed for another purpose"),
        (ONE.seal("webhook secret", b"x", NOW)[:-8], "cut short"),
        (b"", "nothing"),
        (b"\xff\x00 not text", "no seal at all"),
    ],
    ids=["other key", "other purpose", "cut", "empty", "no seal"],  # sealed bytes differ every time
)
def test_what_was_not_sealed_here_for_this_does_not_open(sealed: bytes, reason: str) -> None:
    with pytest.raises(SealBroken, match="does not open"):
        ONE.unseal("webhook secret", sealed, NOW)


def test_a_cookie_ends_by_itself() -> None:
    cookie = ONE.seal("dashboard cookie", b"operator", NOW)
    lasts = timedelta(hours=12)
    assert ONE.unseal("dashboard cookie", cookie, NOW + lasts, lasts=lasts) == b"operator"
    with pytest.raises(SealBroken):
        ONE.unseal("dashboard cookie", cookie, NOW + lasts + timedelta(seconds=1), lasts=lasts)


def test_the_setting_is_the_key_and_no_file_is_made(tmp_path: Path) -> None:
    key = "the key of one deployment, long enough"
    found = seals.from_settings(Settings(data_dir=tmp_path, secret_key=SecretStr(key)))
    assert found.unseal("webhook secret", ONE.seal("webhook secret", b"x", NOW), NOW) == b"x"
    assert list(tmp_path.iterdir()) == []


def test_the_first_start_makes_a_key_that_only_its_owner_reads_and_the_next_finds_it(
    tmp_path: Path,
) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    sealed = seals.from_settings(settings).seal("webhook secret", b"x", NOW)
    path = tmp_path / "new" / seals.KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [seals.KEY_FILE]
    assert seals.from_settings(settings).unseal("webhook secret", sealed, NOW) == b"x"


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    code = (
        "import sys; from datetime import *; from pathlib import Path; from app import seals; "
        "from app.settings import Settings; "
        "made = seals.from_settings(Settings(data_dir=Path(sys.argv[1]))); "
        "sys.stdout.buffer.write(made.seal('webhook secret', b'x', datetime.now(UTC)))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    sealed = [process.communicate()[0] for process in started]
    here = seals.from_settings(Settings(data_dir=tmp_path))
    assert [here.unseal("webhook secret", one, NOW) for one in sealed] == [b"x"] * 4


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"short\n", "shorter than 32 characters"),
        (b"", "shorter than 32 characters"),  # an empty file is no key
        (b"\xff" * 64, "it is not text"),
    ],
)
def test_a_key_file_that_is_no_key_is_one_clear_sentence(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / seals.KEY_FILE).write_bytes(content)
    with pytest.raises(KeyFileUnusable, match=why):
        seals.from_settings(Settings(data_dir=tmp_path))


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        KeyFileUnusable, match=r"secret\.key cannot be used \(.*FOREWARN_SECRET_KEY"
    ):
        seals.from_settings(Settings(data_dir=tmp_path / "file" / "data"))
