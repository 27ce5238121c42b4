"""The whole service in this process, on the real database, asked over ASGI."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import httpx
import pytest
from fastapi import FastAPI

from app import access
from app.database import Database
from app.main import create_app
from app.settings import Settings
from tests.app import queue_laws
from tests.app.post_office import Post

Connect = Callable[..., "httpx.AsyncClient"]


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    """The service, opened."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def caller(service: FastAPI) -> AsyncIterator[Callable[..., object]]:
    """Makes clients with keys of their own, given a name, a role and a party."""
    async with AsyncExitStack() as stack:

        async def connect(name: str, role: str = "partner", party: str = "") -> httpx.AsyncClient:
            async with service.state.house.database.begin() as connection:
                key = await access.issue_key(
                    connection, name=name, role=role, party=party, now=datetime.now(UTC)
                )
            return await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(service, raise_app_exceptions=False),
                    base_url="http://forewarn",
                    headers={"Authorization": f"Bearer {key.token}"},
                )
            )

        yield connect


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Python's collector stands still during the test: what goes goes because nobody holds it."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def post(database: Database, settings: Settings) -> AsyncIterator[Post]:
    async with AsyncExitStack() as stack:
        yield Post(database, settings, stack)


@pytest.fixture
async def lawful_post(post: Post) -> AsyncIterator[Post]:
    """The post office of tests after which the laws of the queue hold: they write no row by hand."""
    yield post
    assert await queue_laws.broken(post.database, post.now) == {}
