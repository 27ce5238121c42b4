"""A town of real processes for the journeys: one service, one receiver, a key for each."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from app import access
from app.database import Database
from app.demo import processes
from app.demo.client import Client
from app.demo.history import PARTNERS
from app.demo.processes import Wanted
from tests.journeys import relay as relays
from tests.journeys.relay import Nursery, Relay
from tests.journeys.sites import Cast, Receiver, Site, receiving
from tests.journeys.town import BALTICA, CYGNUS, Town


@pytest.fixture(scope="session")
def town() -> Iterator[Town]:
    """The town, with baltica subscribed to everything and its endpoint active."""
    folder = Path(tempfile.mkdtemp(prefix="fw-town-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        receiver = stack.enter_context(processes.receiver(folder))
        port = processes.free_port("127.0.0.1")
        url = stack.enter_context(processes.service("127.0.0.1", port, folder))
        keys = processes.create_keys(
            folder,
            [
                *(Wanted(name, "partner", party) for name, party in PARTNERS.items()),
                Wanted(BALTICA, "subscriber"),
                Wanted(CYGNUS, "subscriber"),
            ],
        )
        clients = {name: stack.enter_context(Client(url, key.token)) for name, key in keys.items()}
        subscription = clients[BALTICA].subscribe(receiver.url, "baltica's desk")
        receiver.learn(str(subscription["secret"]))
        until = time.monotonic() + 20
        while clients[BALTICA].subscription(str(subscription["id"]))["status"] != "active":
            assert time.monotonic() < until, "the challenge was not answered"
            time.sleep(0.05)
        yield Town(url, folder, clients, receiver, str(subscription["id"]))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where senders are born."""
    with relays.nursery() as made:
        yield made


@pytest.fixture
async def relay(
    nursery: Nursery, database: Database, database_url: str, tmp_path: Path
) -> AsyncIterator[Relay]:
    """A relay on a fresh database, without listeners or senders yet; whoever is left is killed."""
    with ExitStack() as stack:
        yield Relay(database, database_url, nursery, tmp_path, stack)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as listening:
        yield listening


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    return Site(tmp_path, database_url, processes.free_port("127.0.0.1"))


@pytest.fixture
async def cast(site: Site, database: Database) -> AsyncIterator[Cast]:
    now = datetime.now(UTC)
    async with database.begin() as connection:
        aurora = await access.issue_key(
            connection, name="aurora", role="partner", party="EU", now=now
        )
        baltica = await access.issue_key(connection, name="baltica", role="subscriber", now=now)
    with httpx.Client(timeout=30) as http:
        yield Cast(site.url, aurora.token, baltica.token, http)
