"""Every setting of the service: one class, read from the environment once, by the command line."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote_to_bytes

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from alerts.retention import Keep

PREFIX = "FOREWARN_"

_PUBLIC_URL = re.compile(
    r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?"
)

Network = IPv4Network | IPv6Network


def _split(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _networks(text: Any) -> Any:
    return [ip_network(part) if isinstance(part, str) else part for part in _split(text)]


_PROXY = re.compile(
    r"http://((?P<who>[^\s/?#@]*)@)?(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\]):(?P<port>[0-9]{1,5})/?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy through which requests leave; ``credentials`` is what ``Proxy-Authorization`` says."""

    host: str
    port: int
    credentials: str = field(default="", repr=False)

    @classmethod
    def read(cls, text: str) -> Self:
        """Reads ``http://host:port`` or ``http://user:password@host:port``.

        User and password are percent-decoded and sent as Basic credentials (RFC 7617).

        Raises:
            ValueError: it has another form; the message does not repeat it, for it may hold a
                password.
        """
        found = _PROXY.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 65_536:
            raise ValueError(
                "a proxy is written http://host:port or http://user:password@host:port"
            )
        credentials = ""
        if who := found["who"]:
            user, _, password = who.partition(":")
            credentials = f"Basic {b64encode(unquote_to_bytes(f'{user}:{password}')).decode()}"
        return cls(found["host"].strip("[]"), int(found["port"]), credentials)


def _proxy(text: Any) -> Any:
    return Proxy.read(text) if isinstance(text, str) and text != "environment" else text


Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
ProxySetting = Annotated[Proxy | Literal["environment"] | None, NoDecode, BeforeValidator(_proxy)]
SecondsList = Annotated[tuple[Seconds, ...], NoDecode, BeforeValidator(_split)]


def _keeps(text: Any) -> Any:
    return [Keep.read(part) if isinstance(part, str) else part for part in _split(text)]


Keeps = Annotated[tuple[Keep, ...], NoDecode, BeforeValidator(_keeps)]


class Settings(BaseSettings):
    """What an operator may change. ``docs/settings.md`` shows the same list; a test holds them together."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    data_dir: Path = Field(
        default=Path(".forewarn"),
        description="Folder of the embedded PostgreSQL and of the local secret key.",
    )
    database_url: str | None = Field(
        default=None,
        pattern=r"^postgres(ql)?://",
        description="Your PostgreSQL (15 or later) instead of the embedded one: "
        "`postgresql://user:password@host/database`; several hosts may be listed, "
        "`postgresql://host1,host2/database`, and the one that accepts writes is used.",
    )
    database_silence_seconds: float = Field(
        default=10,
        ge=1,
        le=600,
        description="How long PostgreSQL may leave a question unanswered before its connections are cut off "
        "and its hosts are asked anew. A machine that loses power or its network says no more than that.",
    )
    secret_key: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Seals the secrets of subscriptions in the database; at least 32 characters, the same "
        "for every process on one database. Default: made at the first start and kept in `secret.key` in the "
        "data folder. Losing it means that every subscription needs a new secret.",
    )
    profiles_dir: Path | None = Field(
        default=None,
        description="Folder with your own mechanism profiles (`*.yaml`), loaded after those that ship.",
    )
    public_url: str | None = Field(
        default=None,
        max_length=200,
        description="Where this deployment is reached from outside, such as `https://forewarn.example`, with "
        "the prefix it is served under, if any. Links in what subscribers are sent begin with it, and CAP "
        "messages and CloudEvents name it as their source; without it they hold no absolute link.",
    )
    webhook_allow: Networks = Field(
        default=(),
        description="Networks that webhook endpoints may be in although they are not public, "
        "comma-separated, such as `127.0.0.0/8,10.1.0.0/16`.",
    )
    webhook_allow_http: bool = Field(
        default=False,
        description="Lets plain `http://` endpoints be registered; otherwise only `https://`.",
    )
    webhook_proxy: ProxySetting = Field(
        default=None,
        description="The proxy through which webhooks leave, `http://host:port` or "
        "`http://user:password@host:port`; or `environment`, which obeys `HTTPS_PROXY`, `HTTP_PROXY` and "
        "`NO_PROXY`, otherwise ignored. The proxy then resolves the names of endpoints, and so it must "
        "refuse what is not public, as smokescreen does; addresses written in a URL are still refused here.",
    )
    webhook_timeout_seconds: float = Field(
        default=15,
        gt=0,
        le=300,
        description="The whole of one delivery attempt, from resolving the name to the last byte read.",
    )
    webhook_answer_limit_bytes: int = Field(
        default=65_536,
        ge=1_024,
        description="How much of an endpoint's answer is read before the connection is closed.",
    )
    webhook_excerpt_bytes: int = Field(
        default=4_096,
        ge=0,
        description="How much of an endpoint's answer is kept with the attempt.",
    )
    webhook_in_flight: int = Field(
        default=256,
        ge=1,
        le=10_000,
        description="Attempts at the same time in one worker. Those that take longer than half a second are "
        "counted apart, up to sixteen times as many, so that endpoints that hang hold up no others.",
    )
    webhook_in_flight_per_endpoint: int = Field(
        default=4,
        ge=1,
        le=1_000,
        description="Attempts at the same time to one endpoint, in one worker; one while it fails.",
    )
    retry_schedule: SecondsList = Field(
        default=(5, 30, 120, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 86_400),
        min_length=1,
        description="Seconds to wait after each failed attempt, comma-separated; the default makes twelve "
        "attempts over 70.7 hours. After the last the delivery has failed and waits for a person.",
    )
    lease_seconds: float = Field(
        default=30,
        ge=1,
        le=3_600,
        description="How long a worker may keep a delivery it claimed before another takes it over. A living "
        "worker renews it three times as often, so this is how long those of a dead one wait.",
    )
    endpoint_open_seconds: float = Field(
        default=30,
        gt=0,
        description="How long an endpoint is left in peace after ten failures in a row, or when seven of ten "
        "attempts failed within five minutes; then an attempt probes it, and each failure doubles the wait.",
    )
    endpoint_longest_open_seconds: float = Field(
        default=600, gt=0, description="Up to how long an endpoint that fails is left in peace."
    )
    endpoint_suspend_after_hours: float = Field(
        default=120,
        gt=0,
        description="An endpoint to which nothing was delivered for so long is suspended, if two messages at "
        "least twelve hours apart failed. Its owner is told at 50, 70, 90 and 100 percent.",
    )
    drain_per_second: float = Field(
        default=10,
        gt=0,
        le=100_000,
        description="How fast a resumed endpoint is sent what it missed, and a range is sent again, the "
        "oldest first.",
    )
    backlog_days: float = Field(
        default=30,
        gt=0,
        description="How long deliveries wait for a suspended endpoint; older ones stay in the pull feed.",
    )
    attempts_kept_days: float = Field(
        default=30, gt=0, description="How long each HTTP try is kept."
    )
    deliveries_kept_days: float = Field(
        default=90,
        ge=30,
        description="How long finished deliveries are kept, and so how far back the pull feed reaches.",
    )
    retention: Keeps = Field(
        default=(),
        description="How many months signals are kept, by sector and sharing label, comma-separated: "
        "`semiconductors/RED=24,*/RED=36,energy=forever,*=120`. The first line that fits counts; what none "
        "fits is kept for ever. The same for every process. See [database.md](database.md).",
    )
    ingest_lanes: int = Field(
        default=2,
        ge=1,
        le=16,
        description="Lanes in which arriving signals are committed in groups, one transaction at a time; "
        "1, 2, 4, 8 or 16.",
    )
    ingest_body_limit_bytes: int = Field(
        default=5 * 2**20,
        ge=1_024,
        description="The longest body of signals that is read; a longer one is answered 413. Other "
        "bodies may have 65536 bytes.",
    )
    bodies_limit_bytes: int = Field(
        default=64 * 2**20,
        ge=2**20,
        description="What the bodies of all requests together may hold in the memory of one process, from "
        "their first bytes to the answer. Beyond, the one that stopped coming first is answered 503. "
        "Not counted is what comes before it is asked for: of each connection 64 KiB and one read.",
    )
    body_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=600,
        description="How long a caller may take to send a request's body; a slower one is answered 408.",
    )
    head_timeout_seconds: float = Field(
        default=10,
        gt=0,
        le=600,
        description="How long a caller may take to send the head of a request, from its first byte or, of "
        "the first, from the connection on; a slower one is answered 408.",
    )
    unread_timeout_seconds: float = Field(
        default=30,
        gt=0,
        le=600,
        description="How long a caller may leave an answer unread; then its connection is cut off.",
    )
    connections_limit: int = Field(
        default=4_000,
        ge=16,
        le=1_000_000,
        description="Connections of callers at the same time in one process, fewer where it may not open so "
        "many files. Beyond, those are closed whose callers have kept it waiting longest.",
    )
    ingest_batch_limit: int = Field(
        default=1_000, ge=1, le=100_000, description="The most signals in one request."
    )
    ingest_waiting_limit: int = Field(
        default=100_000,
        ge=1_000,
        le=10_000_000,
        description="Signals that may wait in one process to be stored. One partner has at most as many as "
        "are left for the others, so alone half of them; beyond, the answer is 503.",
    )
    signals_per_minute: int = Field(
        default=0,
        ge=0,
        description="How many signals one key may send in a minute to one process, all at once if it likes; "
        "beyond, the answer is 429. 0 for as many as it can.",
    )
    writes_per_minute: int = Field(
        default=6_000,
        ge=0,
        description="How many requests that change something, other than by signals, one key may send in a "
        "minute to one process; beyond, the answer is 429. 0 for as many as it can.",
    )
    future_tolerance_seconds: Seconds = Field(
        default=300,
        description="How far in the future `observed_at` may be, for partners whose clocks run ahead.",
    )
    sweep_every_seconds: float = Field(
        default=60,
        gt=0,
        description="How often what is due by time alone is looked for: stale feeds, hold times, closings.",
    )
    drain_notice_seconds: Seconds = Field(
        default=0,
        description="How long a process that is told to stop by SIGTERM goes on accepting requests while "
        "`/readyz` says 503, so that the proxy before it sends them elsewhere: a little longer than the "
        "proxy takes to notice.",
    )
    dashboard_sign_in: bool = Field(
        default=True,
        description="Asks for an operator's key before showing the dashboard. Turn it off only where every "
        "caller who can reach the port may see everything.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log lines that are written."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="`json`: one object a line; `console`: coloured, for people."
    )

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, url: str | None) -> str | None:
        """An address that links can begin with, without the slash at its end."""
        if url is None:
            return None
        if not _PUBLIC_URL.fullmatch(url):
            raise ValueError(
                "write an http or https address with at most a path, such as https://forewarn.example"
            )
        return url.rstrip("/")

    @field_validator("profiles_dir")
    @classmethod
    def _is_folder(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.expanduser().is_dir():
            raise ValueError(f"there is no folder {folder}")
        return folder

    @field_validator("ingest_lanes")
    @classmethod
    def _is_power_of_two(cls, lanes: int) -> int:
        if lanes & (lanes - 1):
            raise ValueError(
                "the lanes are 1, 2, 4, 8 or 16, so that none shares a lock with another"
            )
        return lanes


class Unusable(Exception):
    """Something that whoever runs the service must mend; the message is a sentence that says what.

    The command line prints it and exits with 1. The errors of many rooms are such.
    """


class SettingsFaulty(Unusable):
    """A setting has a value that cannot be used; the message names it and says why."""


def from_environment() -> Settings:
    """Reads ``FOREWARN_*``.

    Raises:
        SettingsFaulty: a value cannot be used; all such values are named, secrets are not shown.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = [
            f"{PREFIX}{'_'.join(str(part) for part in fault['loc'][:1]).upper()}: "
            f"{fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsFaulty(
            "These settings cannot be used. "
            + "; ".join(faults)
            + ". docs/settings.md describes each."
        ) from None
