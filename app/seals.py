"""Seals what must not be readable in the database or in a browser: secrets and small tokens.

One key per deployment; each purpose has a key of its own derived from it, so that what was sealed
for one purpose never opens for another.
"""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.settings import Settings, Unusable

KEY_FILE = "secret.key"
_KEY_CHARACTERS = 32

Purpose = Literal["webhook secret", "dashboard cookie"]


class SealBroken(Exception):
    """What was sealed does not open: another key, another purpose, changed bytes, or too old."""


class KeyFileUnusable(Unusable):
    """The file with the local secret key cannot be made or read; the message says what to do."""


class Seals:
    """Seals and opens under one deployment's key, of at least 32 characters."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._fernets: dict[Purpose, Fernet] = {}

    def seal(self, purpose: Purpose, plain: bytes, now: datetime) -> bytes:
        """Text-safe bytes that only ``unseal`` with the same purpose opens; ``now`` is written in."""
        return self._fernet(purpose).encrypt_at_time(plain, int(now.timestamp()))

    def unseal(
        self, purpose: Purpose, sealed: bytes, now: datetime, *, lasts: timedelta | None = None
    ) -> bytes:
        """What was sealed.

        Args:
            purpose: as at the sealing.
            sealed: what ``seal`` gave.
            now: the instant of opening; only matters with ``lasts``.
            lasts: how long after the sealing it may be opened; None for ever.

        Raises:
            SealBroken: it does not open.
        """
        fernet = self._fernet(purpose)
        try:
            if lasts is None:
                return fernet.decrypt(sealed)
            return fernet.decrypt_at_time(sealed, int(lasts.total_seconds()), int(now.timestamp()))
        except InvalidToken:
            raise SealBroken(f"This {purpose} does not open with the key in use here.") from None

    def _fernet(self, purpose: Purpose) -> Fernet:
        if purpose not in self._fernets:
            derived = HKDF(SHA256(), 32, salt=None, info=f"forewarn {purpose}".encode())
            self._fernets[purpose] = Fernet(base64.urlsafe_b64encode(derived.derive(self._key)))
        return self._fernets[purpose]


def from_settings(settings: Settings) -> Seals:
    """The seals of this deployment: by the setting, else by the key file in the data folder.

    The file is made at the first start, readable by its owner alone. Processes that start at once
    agree on one key.

    Raises:
        KeyFileUnusable: the file cannot be made or read.
    """
    if settings.secret_key is not None:
        return Seals(settings.secret_key.get_secret_value())
    return Seals(_key_from(settings.data_dir.expanduser().absolute() / KEY_FILE))


def copy_key(settings: Settings, folder: Path) -> bool:
    """Copies the key file beside a copy of the database; False where the key is a setting.

    Raises:
        KeyFileUnusable: it cannot be read or written.
    """
    if settings.secret_key is not None:
        return False
    key = _key_from(settings.data_dir.expanduser().absolute() / KEY_FILE)
    path = folder / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{key}\n")
    except OSError as error:
        raise KeyFileUnusable(
            f"The secret key cannot be copied to {path} ({error.strerror})."
        ) from error
    return True


def _key_from(path: Path) -> str:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _make_once(path)
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "it is not text"
        raise KeyFileUnusable(
            f"The secret key in {path} cannot be used ({words}). Mend the file, or set FOREWARN_SECRET_KEY."
        ) from error
    if len(key) < _KEY_CHARACTERS:
        raise KeyFileUnusable(
            f"The secret key in {path} is shorter than {_KEY_CHARACTERS} characters. Put the one back that "
            "was there, or remove the file and give every subscription a new secret."
        )
    return key


def _make_once(path: Path) -> None:
    """Makes the file whole or not at all; of several that try at once, the first one's stays."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(48)}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
