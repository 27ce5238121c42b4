"""A retention policy at the doors: what is too old is refused, what has gone is said to have gone."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from sqlalchemy import text

from alerts.retention import Keep
from app import access, store
from app.main import create_app
from app.settings import Settings, SettingsFaulty
from tests.app.test_signals_api import LEAD_TIME


async def test_what_the_retention_policy_keeps_no_longer_is_refused_with_a_sentence_of_its_own(
    settings: Settings,
) -> None:
    lines = tuple(Keep.read(line) for line in ("semiconductors/RED=24", "shipping=6", "*=240"))
    app = create_app(settings.model_copy(update={"retention": lines, "dashboard_sign_in": False}))
    async with app.router.lifespan_context(app):
        async with app.state.house.database.begin() as connection:
            key = await access.issue_key(
                connection, name="aurora", role="admin", party="EU", now=datetime.now(UTC)
            )
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://forewarn",
            headers={"Authorization": f"Bearer {key.token}"},
        ) as aurora:
            old = {**LEAD_TIME, "observed_at": "2021-03-31T00:00:00Z"}
            told = await aurora.post(
                "/v1/signals",
                json=[old, {**old, "tlp": "RED"}, {**old, "observed_at": "1999-01-01T00:00:00Z"}],
            )
            assert told.status_code == 207
            assert (told.json()["accepted"], told.json()["rejected"]) == (1, 2)
            red, older = [item["problem"] for item in told.json()["items"]]
            assert red["errors"][0]["pointer"] == "/1/observed_at"
            assert "signals of semiconductors marked TLP:RED are kept here from" in red["detail"]
            assert "without a label are kept" in older["detail"]
            (ref,) = told.json()["alerts"]
            explained = (await aurora.get(f"/v1/alerts/{ref}/explanation")).json()
            assert explained["retired_before"] is None
            async with app.state.house.database.begin() as connection:
                month = datetime(2021, 6, 1, tzinfo=UTC)
                await store.retirement.note(
                    connection, month, {("semiconductors", ""): 1}, datetime.now(UTC), is_whole=True
                )
                await connection.execute(text("DELETE FROM signals"))
            explained = (await aurora.get(f"/v1/alerts/{ref}/explanation")).json()
            assert explained["retired_before"] == "2021-07-01T00:00:00Z"
            assert explained["findings"][0]["value"] == 16.0, "what was said stands"
            page = await aurora.get(f"/alerts/{ref}")
            assert "Signals observed before 2021-07-01 have been retired" in page.text
            series = explained["findings"][0]["series_id"]
            shown = (await aurora.get(f"/v1/series/{series}")).json()
            assert shown["retired_before"] == "2021-07-01T00:00:00Z"
            assert (await aurora.get(f"/v1/series/{series}/samples")).json()["items"] == []
            page = await aurora.get(f"/series/{series}")
            assert "have been retired by the retention policy" in page.text


async def test_a_policy_that_names_a_sector_nobody_knows_stops_the_start(
    settings: Settings,
) -> None:
    lines = (Keep.read("semis/RED=24"),)
    app = create_app(settings.model_copy(update={"retention": lines}))
    with pytest.raises(SettingsFaulty, match=r"semis.*semiconductors"):
        async with app.router.lifespan_context(app):
            pass
