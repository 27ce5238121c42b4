"""The wiring: settings become a house, a house becomes an application, an application listens."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from starlette.routing import BaseRoute

from alerts.catalogue import Catalogue
from alerts.retention import Retention
from app import (
    access,
    api,
    documents,
    doorstep,
    premises,
    quotas,
    scheduler,
    seals,
    store,
    telemetry,
)
from app.api import health, problems
from app.api.bodies import Bodies
from app.api.envelope import Envelope
from app.api.later import Later
from app.api.straight import Straight
from app.connections import Connections
from app.database import Database
from app.deliver import Sender
from app.embedded import Embedded, EmbeddedFailed
from app.house import House, Role
from app.ingest import Intake
from app.outbound import Outbound, load_client
from app.policy import Policy
from app.rulebook import Rulebook
from app.settings import Settings, SettingsFaulty, Unusable

VERSION = "0.1.0"

_WATCH_SECONDS = 1.0
_DRAIN_SECONDS = 20
_LATER_SECONDS = 0.25
_FILES_WITHOUT_LIMIT = 1_048_576


class SettingMissing(Unusable):
    """A setting without a default is needed for this way of running."""


def create_app(settings: Settings, *, role: Role = "all") -> FastAPI:
    """The service as an ASGI application; what it needs is opened by its lifespan, not here.

    Args:
        settings: everything an operator decides.
        role: ``api`` answers requests, ``worker`` sends and sweeps, ``all`` does both. A worker
            still answers for its health.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _open_house(app, settings, role):
            yield

    app = FastAPI(
        title="Forewarn",
        summary="Early warning of supply-chain disruptions.",
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,  # They load from other people's machines; ours is at /docs.
        redoc_url=None,
        openapi_url=None,  # It would be written anew for everyone who asks.
        # The service counts and logs for itself; to be asked for each request whether anybody else does is
        # a tenth of a small one.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    if role == "worker":
        app.include_router(health.router)
        app.include_router(problems.router)
    else:
        # Not as an included router, which holds every request against all of its routes twice.
        app.router.routes += api.first_routes()
        app.state.later = Later(app.router.routes, later_routes)
        app.add_middleware(Straight, routes=app.router.routes, later=app.state.later)
    problems.install(app)
    app.state.bodies = Bodies(settings.bodies_limit_bytes)
    app.add_middleware(
        Envelope,
        bodies=app.state.bodies,
        ingest_limit_bytes=settings.ingest_body_limit_bytes,
        body_timeout_seconds=settings.body_timeout_seconds,
    )
    return app


def later_routes() -> list[BaseRoute]:
    """The routes that a start does not wait for: pages, and all of the API but signals and health."""
    from app import dashboard  # noqa: PLC0415 - slow, and only needed when somebody looks

    return [*api.later_routes(), *dashboard.routes()]


@asynccontextmanager
async def _open_house(app: FastAPI, settings: Settings, role: Role) -> AsyncIterator[None]:
    if settings.database_url is not None and settings.secret_key is None and role != "all":
        raise SettingMissing(
            f"Set FOREWARN_SECRET_KEY, the same for every process: role {role} shares its database."
        )
    async with AsyncExitStack() as stack:
        opened = premises.database_of(settings)
        database, embedded = await stack.enter_async_context(opened)
        await database.check_revision()
        if embedded is not None:
            await stack.enter_async_context(_running(lambda: _keep_running(embedded)))
        await stack.enter_async_context(_running(database.watch))
        sealing = seals.from_settings(settings)
        catalogue = documents.load_catalogue()
        _check_retention(settings, catalogue)
        policy = Policy(catalogue, {})
        book = Rulebook(database, policy, clock=lambda: datetime.now(UTC))
        await book.keep_profiles(_profile_files(settings))
        await book.renew()
        await stack.enter_async_context(_running(book.run))
        sender = None
        if role != "api":
            outbound = Outbound(settings)
            stack.push_async_callback(outbound.close)
            sender = _sender(database, outbound, sealing, settings)
            # It stops after the intake, which gives it what it still commits.
            await stack.enter_async_context(_sending(sender))
        intake = Intake(
            database,
            policy,
            lanes=settings.ingest_lanes,
            most_waiting=settings.ingest_waiting_limit,
            worker=sender,
        )
        stack.push_async_callback(intake.stop)
        app.state.key_ring = access.KeyRing(database)
        app.state.house = House(
            settings=settings,
            role=role,
            database=database,
            policy=policy,
            rulebook=book,
            seals=sealing,
            intake=intake,
            quotas=quotas.from_settings(settings),
        )
        if role != "api":
            runner = scheduler.Scheduler(database, _duties(database, policy, settings))
            await stack.enter_async_context(_running(lambda: _run_later(runner)))
        telemetry.line(
            "service.opened", role=role, version=VERSION, mechanisms=sorted(policy.profiles)
        )
        yield
    telemetry.line("service.closed", role=role)


def _check_retention(settings: Settings, catalogue: Catalogue) -> None:
    """A sector misspelt in the policy would be kept by another line of it, for longer or shorter."""
    if unknown := Retention(settings.retention).unknown(catalogue.sectors):
        raise SettingsFaulty(
            f"FOREWARN_RETENTION names {', '.join(unknown)}, and the catalogue has no such sector. "
            f"There are: {', '.join(sorted(catalogue.sectors))}."
        )


def _profile_files(settings: Settings) -> list[Path]:
    """The profiles of this installation: those that ship, then the operator's own."""
    files = documents.shipped_profiles()
    if settings.profiles_dir is not None:
        files += sorted(settings.profiles_dir.expanduser().glob("*.yaml"))
    return files


def _sender(
    database: Database, outbound: Outbound, sealing: seals.Seals, settings: Settings
) -> Sender:
    return Sender(
        database,
        outbound,
        sealing,
        settings,
        clock=lambda: datetime.now(UTC),
        dice=secrets.SystemRandom().random,
    )


@asynccontextmanager
async def _sending(sender: Sender) -> AsyncIterator[None]:
    """Sends what is owed while the block runs; at its end waits for the attempts under way."""
    async with _running(sender.run):
        try:
            yield
        finally:
            await sender.stop()


def _duties(database: Database, policy: Policy, settings: Settings) -> tuple[scheduler.Duty, ...]:
    """Everything that happens because time passes; a new duty is a line here."""
    return (
        scheduler.month_duty(database),
        scheduler.sweep_duty(database, policy, settings.sweep_every_seconds),
        scheduler.recovery_duty(database, settings),
        scheduler.owners_duty(database),
        scheduler.clocks_duty(database, settings),
        scheduler.retention_duty(database, settings),
        scheduler.signals_duty(database, settings),
        scheduler.tally_duty(database),
    )


async def _first_key(house: House) -> access.IssuedKey | None:
    """An operator's key for a service of one's own that has none yet; None when it has.

    With an external database nothing is made: whoever runs one makes keys by command.
    """
    if house.settings.database_url is not None:
        return None
    async with house.database.begin() as connection:
        if not await store.partners.is_empty(connection):
            return None
        return await access.issue_key(
            connection, name="operator", role="operator", now=datetime.now(UTC)
        )


async def serve(
    settings: Settings,
    *,
    listening: socket.socket,
    role: Role,
    tell: Callable[[str, access.IssuedKey | None], None],
) -> None:
    """Serves until SIGTERM or SIGINT, then answers what has begun, commits, and returns.

    It is called at ``listening``, which it closes. After SIGTERM it accepts requests for as long as the
    settings say, not being ready any more. The next signal ends that, and one more does not wait for answers.
    ``tell`` is given the address once requests will be answered, and the operator's first key if it was made
    just now.

    Raises:
        EmbeddedFailed: the embedded server cannot be used.
        SchemaBehind: an external database is not at this version's revision.
    """
    app = create_app(settings, role=role)
    connections = Connections(
        most=_most_connections(settings),
        head_seconds=settings.head_timeout_seconds,
        unread_seconds=settings.unread_timeout_seconds,
    )
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", connections.protocol),
        ws="none",
        lifespan="off",  # Opened here instead, so that a failure is a sentence and not a traceback.
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    with contextlib.closing(listening):
        async with app.router.lifespan_context(app):

            def end() -> None:
                server.should_exit = True

            def stop(notice_seconds: float) -> None:
                if app.state.house.draining or not notice_seconds:
                    server.force_exit = server.should_exit
                    end()
                else:
                    loop.call_later(notice_seconds, end)
                app.state.house.draining = True

            loop.add_signal_handler(signal.SIGTERM, stop, settings.drain_notice_seconds)
            loop.add_signal_handler(signal.SIGINT, stop, 0)
            _spare_the_collector()
            tell(doorstep.address(listening), await _first_key(app.state.house))
            async with _running(connections.watch), _running(lambda: _load_the_rest(app)):
                await server.serve(sockets=[listening])


def _spare_the_collector() -> None:
    """Takes what was loaded at the start out of the collector's rounds, and makes them rarer.

    Without a round before, which took longer than connecting to the database and found one object in a
    hundred. A batch makes thousands of small values that die young; with the usual thresholds collecting took
    a third of the time of a batch of 1,000 signals.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


def _most_connections(settings: Settings) -> int:
    """As many connections of callers as are allowed, or as leave enough files for all else."""
    files = _allow_open_files()
    return min(settings.connections_limit, max(files // 4, files - _other_files(settings)))


def _other_files(settings: Settings) -> int:
    """So many files attempts and the database may need, and what is open for a moment."""
    return 17 * settings.webhook_in_flight + 300


def _allow_open_files() -> int:
    """Lets this process open as many files as its system allows it, instead of the usual 1,024; so many.

    Every attempt under way is a socket, and endpoints that hang keep thousands of them. What speaks for the
    lower limit is select(2), which nothing here uses (https://0pointer.net/blog/file-descriptor-limits.html).
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(
        OSError, ValueError
    ):  # macOS names no limit, and refuses to have none.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return allowed if allowed != resource.RLIM_INFINITY else _FILES_WITHOUT_LIMIT


class _Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which end the process with the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


async def _run_later(runner: scheduler.Scheduler) -> None:
    """Takes up the duties when those who asked first are answered: all of them are due at once."""
    await asyncio.sleep(_LATER_SECONDS)
    await runner.run()


async def _load_the_rest(app: FastAPI) -> None:
    """Loads what being ready does not need, beside the loop, before somebody has to wait for it.

    Not at once, so that the first who ask are answered first; whoever needs it sooner has it loaded sooner.
    """
    await asyncio.sleep(_LATER_SECONDS)
    if isinstance(later := getattr(app.state, "later", None), Later):
        await later.come()
    if app.state.house.role != "api":
        await asyncio.to_thread(load_client)
    gc.freeze()


async def _keep_running(embedded: Embedded) -> None:
    """Starts the embedded server again within a second whenever it died."""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        try:
            if await asyncio.to_thread(embedded.ensure_running):
                telemetry.line("embedded.restarted", level="warning")
        except EmbeddedFailed as error:
            telemetry.line("embedded.failed", level="error", fault=str(error))


@asynccontextmanager
async def _running(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Does something beside the block, begins it anew when it fails, and cancels it at the end."""

    async def again_and_again() -> None:
        while True:
            try:
                await work()
            except Exception:  # noqa: BLE001 - written down; a service without this part is none
                telemetry.line("service.part_failed", level="error", exc_info=True)
                await asyncio.sleep(_WATCH_SECONDS)
            else:
                return

    task = asyncio.create_task(again_and_again())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
