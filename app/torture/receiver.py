"""Receives webhooks, as a process of its own, and writes down each before it answers.

    python -m app.torture.receiver --port 9000 --log heard.jsonl --seed 4 --calm calm

The path of a request says how it is treated until the file ``calm`` exists; from then on all are taken:

    well       taken
    slow       taken after up to half a second
    flaky      taken, refused with 500, broken off, or answered by half, at random
    silent     taken, or in one of ten never answered
    away       taken, or nobody is there, in turns of a few seconds

It shares no code with the product; the checker verifies what is written down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from random import Random
from typing import Any

from app.torture.wire import Diary

_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"
_FAILED = b"HTTP/1.1 500 Failed\r\ncontent-length: 0\r\n\r\n"
_HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
_TURN_SECONDS = 3


class Receiver:
    """What it writes into, and the dice it answers by."""

    def __init__(self, diary: Diary, dice: Random, calm: Path) -> None:
        self._diary = diary
        self._dice = dice
        self._calm = calm

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes the requests of one connection."""
        try:
            while await self._take(reader, writer):
                await writer.drain()
        except (OSError, EOFError):
            pass  # The sender has left.
        finally:
            writer.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Takes one request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        manner = "well" if self._calm.exists() else first.split(" ")[1].strip("/")
        if manner == "away" and int(time.monotonic() / _TURN_SECONDS) % 2:
            return False
        body = (await reader.readexactly(int(headers["content-length"]))).decode()
        self._diary.write(
            "heard",
            id=headers["webhook-id"],
            timestamp=headers["webhook-timestamp"],
            signature=headers["webhook-signature"],
            body=body,
        )
        fate = self._dice.random()
        if manner == "slow":
            await asyncio.sleep(fate / 2)
        elif manner == "silent" and fate < 0.1:
            await asyncio.sleep(3_600)
        elif manner == "flaky" and fate < 0.25:
            if fate < 0.15:
                writer.write(_FAILED)
                return True
            if fate < 0.2:
                writer.write(_HALF)
                await writer.drain()
            return False
        writer.write(_answer(json.loads(body)))
        return True


def _answer(said: dict[str, Any]) -> bytes:
    if said["type"] != "webhook.verify":
        return _TAKEN
    body = json.dumps({"challenge": said["data"]["challenge"]}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def _listen(port: int, receiver: Receiver) -> None:
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", port, backlog=1_024)
    async with server:
        await server.serve_forever()


def main() -> int:
    """Runs the receiver until it is killed."""
    parser = argparse.ArgumentParser(prog="app.torture.receiver")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--calm", type=Path, required=True)
    told = parser.parse_args()
    asyncio.run(_listen(told.port, Receiver(Diary(told.log), Random(told.seed), told.calm)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
