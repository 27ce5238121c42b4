"""Who is calling, and what that key may do.

A key reads ``fw_<id>_<secret>``. The secret is random and long, so a plain SHA-256 of it is kept;
it is shown once, when the key is made. A partner may have two live keys, to change from one to the
other without a gap.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from alerts.signals import PartnerId
from app.database import Connection, Database
from app.quotas import Quotas
from app.settings import Unusable
from app.store import partners

SCOPES = (
    "signals:write",
    "signals:read",
    "alerts:read",
    "alerts:write",
    "subscriptions:write",
    "rules:write",
    "dashboard:read",
    "admin",
)

# What a key may do when nothing else is said at its making. ``admin`` opens every door.
ROLES: dict[str, frozenset[str]] = {
    "admin": frozenset(SCOPES),
    "operator": frozenset(SCOPES) - {"admin", "signals:write"},
    "partner": frozenset(
        {"signals:write", "signals:read", "alerts:read", "alerts:write", "subscriptions:write"}
    ),
    "subscriber": frozenset({"alerts:read", "subscriptions:write"}),
}

LIVE_KEYS_PER_PARTNER = 2
LONGEST_NAME = 200

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REMEMBER_SECONDS = 10.0
_REMEMBER_AT_MOST = 10_000
_NOTE_USE_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, as their key says."""

    partner_id: PartnerId
    partner: str
    party: str
    key_id: str
    role: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Whether the key opens doors of that scope."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. ``token`` is the whole of it and is never to be had again."""

    id: str
    token: str
    partner: str
    party: str
    role: str
    scopes: tuple[str, ...]
    expires_at: datetime | None


class KeyRefused(Unusable):
    """A key cannot be made as asked; the message says why and what to do."""


class Unauthenticated(Exception):
    """The request shows no key that is live."""


class NotAllowed(Exception):
    """The key is live, but not for this."""


async def issue_key(
    connection: Connection,
    *,
    name: str,
    role: str,
    now: datetime,
    party: str = "",
    scopes: Iterable[str] = (),
    expires_at: datetime | None = None,
) -> IssuedKey:
    """Makes a key for the partner ``name``, and the partner if there is none of that name.

    Args:
        connection: an open transaction; does not commit.
        name: the partner.
        role: decides the scopes when none are given.
        now: the key's beginning.
        party: for whom the partner acts; empty leaves an existing partner's as it is.
        scopes: fewer or more than the role's.
        expires_at: when the key dies by itself; None for never.

    Raises:
        KeyRefused: an unknown role or scope, another party, or two live keys already.
    """
    if not name.strip():
        raise KeyRefused("A key needs the name of a partner.")
    if len(name) > LONGEST_NAME or not name.strip().isprintable():
        raise KeyRefused(
            f"A partner's name is one line of at most {LONGEST_NAME} printable characters."
        )
    if role not in ROLES:
        raise KeyRefused(f"There is no role {role!r}; the roles are {', '.join(ROLES)}.")
    chosen = frozenset(scopes) or ROLES[role]
    if unknown := sorted(chosen.difference(SCOPES)):
        raise KeyRefused(
            f"There is no scope {', '.join(unknown)}; the scopes are {', '.join(SCOPES)}."
        )
    partner = await partners.keep(connection, name.strip(), party, now)
    if party and partner.party != party:
        acts_for = f"party {partner.party}" if partner.party else "no party"
        raise KeyRefused(f"Partner {partner.name} acts for {acts_for}, not for {party}.")
    live = [key.id for key in await partners.keys_of(connection, partner.id) if key.is_live(now)]
    if len(live) >= LIVE_KEYS_PER_PARTNER:
        raise KeyRefused(
            f"Partner {partner.name} has {len(live)} live keys, {' and '.join(live)}. "
            "Revoke one first: `forewarn keys revoke ID`."
        )
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    await partners.add_key(
        connection, key_id, partner.id, role, chosen, _digest(secret), now, expires_at
    )
    return IssuedKey(
        id=key_id,
        token=f"fw_{key_id}_{secret}",
        partner=partner.name,
        party=partner.party,
        role=role,
        scopes=tuple(sorted(chosen)),
        expires_at=expires_at,
    )


class KeyRing:
    """Looks keys up, and remembers those that were good for ten seconds: a revoked key may open for
    that long where it was just used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._remembered: dict[bytes, tuple[float, Caller]] = {}
        self._asked: dict[bytes, asyncio.Task[Caller | None]] = {}

    async def caller(self, token: str, now: datetime) -> Caller | None:
        """Whose key that is; None when it is no key of ours, revoked or expired."""
        digest = _digest(token)
        until, caller = self._remembered.get(digest, (0.0, None))
        if caller is not None and monotonic() < until:
            return caller
        # One asks for all who show the same key meanwhile: it is forgotten under load, and hundreds would.
        asked = self._asked.get(digest)
        if asked is None:
            asked = self._asked[digest] = asyncio.create_task(self._ask(digest, token, now))
        return await asyncio.shield(asked)

    async def _ask(self, digest: bytes, token: str, now: datetime) -> Caller | None:
        self._remembered.pop(digest, None)
        try:
            caller = await self._look_up(token, now)
        finally:
            del self._asked[digest]
        if caller is not None:
            if len(self._remembered) >= _REMEMBER_AT_MOST:
                self._remembered.clear()
            self._remembered[digest] = (monotonic() + _REMEMBER_SECONDS, caller)
        return caller

    async def _look_up(self, token: str, now: datetime) -> Caller | None:
        mark, _, rest = token.partition("_")
        key_id, _, secret = rest.partition("_")
        if mark != "fw" or not (key_id.isascii() and key_id.isalnum()) or not secret:
            return None
        async with self._database.brief() as connection:
            key = await partners.key(connection, key_id)
            if key is None or not hmac.compare_digest(key.secret_sha256, _digest(secret)):
                return None
            if not key.is_live(now):
                return None
            if key.last_used_at is None or now - key.last_used_at >= _NOTE_USE_EVERY:
                await partners.touch(connection, key.id, now)
        return Caller(
            partner_id=key.partner.id,
            partner=key.partner.name,
            party=key.partner.party,
            key_id=key.id,
            role=key.role,
            scopes=key.scopes,
        )


KEY_SCHEME = "key"
"""What the description of the service calls the way keys are shown."""

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name=KEY_SCHEME,
    description="A key made with `forewarn keys create`: `Authorization: Bearer fw_<id>_<secret>`.",
)


def needs(scope: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets in only callers whose key has ``scope``, and says who they are.

    ``caller: Annotated[Caller, Depends(access.needs("alerts:read"))]``. The exceptions become the
    problems ``unauthenticated`` (401) and ``not-allowed`` (403).
    """
    if scope not in SCOPES:
        raise LookupError(f"no such scope: {scope}")

    async def allowed(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller:
        return await _let_in(request, credentials.credentials if credentials else "", scope)

    return allowed


async def let_in(request: Request, scope: str) -> Caller:
    """As the dependency ``needs(scope)``, asked by a route itself: where a request is so short that
    finding its dependencies would be the greatest part of it.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return await _let_in(request, token.strip() if scheme.lower() == "bearer" else "", scope)


async def _let_in(request: Request, token: str, scope: str) -> Caller:
    if not token:
        raise Unauthenticated("Send your key: `Authorization: Bearer fw_...`.")
    caller = await _shown(request, token)
    if not caller.may(scope):
        raise NotAllowed(f"This needs a key with the scope {scope}; yours has not.")
    return caller


def may_have(scope: str) -> Callable[..., Awaitable[Caller | None]]:
    """A dependency for what everyone may see, and a caller whose key has ``scope`` more of.

    None is everyone else, a live key without the scope included. A key that is shown and is not
    live is still refused (401): whoever sends one wants to be known.
    """
    if scope not in SCOPES:
        raise LookupError(f"no such scope: {scope}")

    async def known(
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> Caller | None:
        if credentials is None:
            return None
        caller = await _shown(request, credentials.credentials)
        return caller if caller.may(scope) else None

    return known


async def _shown(request: Request, token: str) -> Caller:
    """Whose key is shown; noted for the request's line in the log."""
    ring: KeyRing = request.app.state.key_ring
    caller = await ring.caller(token, datetime.now(UTC))
    if caller is None:
        raise Unauthenticated("This key is unknown, revoked or expired.")
    request.state.caller = caller
    if request.method not in _SAFE:
        _charge(request, caller)
    return caller


def _charge(request: Request, caller: Caller) -> None:
    """Takes a writing request from the key's quota.

    How many signals there are is seen later; here only whether the key has used up all it may send, so
    that no body of one that has is read.
    """
    quotas: Quotas = request.app.state.house.quotas
    of_signals = request.scope["path"].startswith("/v1/signals")
    quota = quotas.signals if of_signals else quotas.writes
    if quota is not None:
        request.state.quota = quota.take(caller.key_id, 0 if of_signals else 1, monotonic())


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
