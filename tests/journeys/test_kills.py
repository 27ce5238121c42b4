"""What `kill -9` may do: send a webhook twice under one id; never lose one, never invent one.

Observable oracles: answers over HTTP, rows after a commit, and what a real receiver heard.
"""

from __future__ import annotations

import asyncio
import threading
import time

import asyncpg
import httpx

from tests.journeys.sites import LEAD_TIME, Cast, Receiver, Site, all_delivered, deliveries, kill


async def test_killed_between_commit_and_send_everything_owed_is_sent(
    site: Site, cast: Cast, receiver: Receiver
) -> None:
    with site.serving():
        cast.subscribe(receiver)
    with site.serving(role="api") as api:
        assert cast.post(LEAD_TIME).json()["alerts"] == ["TTC-SEMI-2026-0001"]
        kill(api)
    assert await deliveries(site) == [("owed", 0)]
    assert receiver.heard == []
    with site.serving():
        receiver.wait_for(1)
        await all_delivered(site)
    assert receiver.heard[0][1]["data"]["alert"]["ref"] == "TTC-SEMI-2026-0001"
    assert await deliveries(site) == [("delivered", 1)]


async def test_killed_between_send_and_record_the_same_id_is_sent_again(
    site: Site, cast: Cast, receiver: Receiver
) -> None:
    with site.serving() as first:
        cast.subscribe(receiver)
        receiver.before_answer = lambda: kill(first)
        cast.post(LEAD_TIME)
        receiver.wait_for(1)
        first.wait(timeout=10)
    receiver.before_answer = lambda: None
    assert [state for state, _ in await deliveries(site)] == ["owed"]
    with site.serving():
        receiver.wait_for(2)
        await all_delivered(site)
    assert len(receiver.heard) == 2
    assert len(set(receiver.ids())) == 1
    assert receiver.heard[0][1] == receiver.heard[1][1]
    assert [state for state, _ in await deliveries(site)] == ["delivered"]


async def test_killed_at_any_instant_nothing_acknowledged_or_owed_is_lost(
    site: Site, cast: Cast, receiver: Receiver
) -> None:
    """Signals are posted while the service is killed again and again at arbitrary instants."""
    goods = ("mcu", "dram", "nand", "chips", "analog", "discretes")
    levels = (13.0, 14.5, 16.5, 21.0, 16.5, 15.0)
    acknowledged = 0
    with site.serving():
        cast.subscribe(receiver)
    for life in range(5):
        with site.serving() as process:
            timer = threading.Timer(0.4 + 0.17 * life, kill, [process])
            timer.start()
            while process.poll() is None:
                good, month = goods[acknowledged % 6], acknowledged // 6
                at = f"{1950 + month // 12}-{month % 12 + 1:02d}-28T00:00:00Z"
                told = {**LEAD_TIME, "good": good, "observed_at": at, "value": levels[month % 6]}
                try:
                    answer = cast.post(told)
                except httpx.TransportError:
                    continue  # not acknowledged: the same is sent again in the next life
                assert answer.status_code == 200, answer.text
                acknowledged += 1
            timer.join()
    with site.serving():
        await all_delivered(site)
    connection = await asyncpg.connect(site.database_url)
    stored = await connection.fetchval("SELECT count(*) FROM signals")
    owed = await connection.fetch("SELECT 1 FROM deliveries WHERE transition_id IS NOT NULL")
    transitions = await connection.fetchval("SELECT count(*) FROM transitions")
    await connection.close()
    assert acknowledged > 10
    assert stored in {acknowledged, acknowledged + 1}, "more only by the one that was cut off"
    assert transitions == len(owed) == len(set(receiver.ids()))
    numbers: dict[str, list[int]] = {}
    for _, said in receiver.heard:
        heard = numbers.setdefault(said["data"]["alert"]["ref"], [])
        number = said["data"]["transition"]["number"]
        assert number in heard or number == len(heard) + 1, "out of order within an alert"
        if number not in heard:
            heard.append(number)


async def test_the_answer_is_sent_only_after_the_commit(site: Site, cast: Cast) -> None:
    """A trigger makes the commit itself slow, then fail: the answer must wait, then say so."""
    connection = await asyncpg.connect(site.database_url)
    await connection.execute(
        "CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_sleep(1); "
        "IF NEW.last_value = 15 THEN RAISE 'refused at commit'; END IF; RETURN NULL; END $$"
    )
    await connection.execute(
        "CREATE CONSTRAINT TRIGGER slow_commit AFTER UPDATE ON series_state "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION at_commit()"
    )
    with site.serving():
        began = time.monotonic()
        answer = cast.post(LEAD_TIME)
        assert time.monotonic() - began >= 1
        assert answer.json()["accepted"] == 1
        assert await connection.fetchval("SELECT count(*) FROM signals") == 1
        refused = cast.post({**LEAD_TIME, "observed_at": "2021-04-30T00:00:00Z", "value": 15.0})
        assert refused.status_code == 500
        assert "refused at commit" not in refused.text
        assert await connection.fetchval("SELECT count(*) FROM signals") == 1
    await connection.close()


async def test_a_receiver_that_was_down_gets_everything_in_order(
    site: Site, cast: Cast, receiver: Receiver
) -> None:
    """The receiver breaks every connection through a whole rise and fall, then comes back."""
    site.settings["FOREWARN_RETRY_SCHEDULE"] = ",".join(["0.2"] * 100)
    down = threading.Event()

    def refuse() -> None:
        if down.is_set():
            receiver.heard.pop()
            raise ConnectionAbortedError

    receiver.before_answer = refuse
    with site.serving():
        cast.subscribe(receiver)
        down.set()
        for month, value in enumerate((14.5, 16.5, 21.0, 17.0, 17.0), start=1):
            at = f"2021-{month:02d}-28T00:00:00Z"
            assert cast.post({**LEAD_TIME, "observed_at": at, "value": value}).status_code == 200
        await asyncio.sleep(1)
        assert receiver.heard == []
        down.clear()
        receiver.wait_for(4)
        await all_delivered(site)
    assert [said["type"] for _, said in receiver.heard] == [
        "alert.opened",
        "alert.escalated",
        "alert.escalated",
        "alert.eased",
    ]
    sequences = [said["sequence"] for _, said in receiver.heard]
    assert sequences == sorted(set(sequences))
