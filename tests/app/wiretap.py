"""What PostgreSQL was sent, from its own log, and how it understood it, from its own parser.

Nothing of the product is read for it: neither its source nor its connections.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import asyncpg

_ENTRY = re.compile(
    r"^\S+ \S+ \S+ \[\d+\] (?P<database>\S*) (?P<session>\S*) (?P<transaction>\S*) (?P<level>[A-Z]+):  "
    r"(?P<said>.*)$"
)
_SENT = re.compile(r"(?:statement|execute (?:fetch from )?[^:]+): (?P<sql>.*)", re.DOTALL)
_COPIED = re.compile(r"COPY \((?P<sql>.*)\) TO STDOUT", re.DOTALL)
_TOKEN = re.compile(r'[{}()]|"(?:\\.|[^"\\])*"|(?:\\.|[^\s{}()"\\])+', re.DOTALL)


async def listen(connection: asyncpg.Connection[asyncpg.Record], database: str) -> None:
    """Has every later session of a database written down statement by statement, without parameters."""
    for setting in ("log_statement = 'all'", "log_parameter_max_length = 0"):
        await connection.execute(f"ALTER DATABASE {database} SET {setting}")


def transactions(log: str, database: str) -> list[list[str]]:
    """The statements of each transaction, in order; ``log_line_prefix`` is that of ``conftest``."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in _entries(log):
        sent = _SENT.fullmatch(entry["said"])
        if entry["database"] == database and sent:
            found.setdefault((entry["session"], entry["transaction"]), []).append(sent["sql"])
    return list(found.values())


def _entries(log: str) -> Iterator[dict[str, str]]:
    entry: dict[str, str] | None = None
    for line in log.splitlines():
        begun = _ENTRY.match(line)
        if begun:
            if entry:
                yield entry
            entry = begun.groupdict()
        elif entry:
            entry["said"] += "\n" + line.removeprefix("\t")
    if entry:
        yield entry


async def understood(connection: asyncpg.Connection[asyncpg.Record], sql: str) -> dict[str, Any]:
    """The tree that PostgreSQL makes of a statement, names resolved; of a COPY, that of its query."""
    copied = _COPIED.match(sql)
    trees: list[str] = []

    def hear(_: object, message: Any) -> None:
        if message.message == "parse tree:":
            trees.append(message.detail)

    await connection.execute(
        "SET client_min_messages = log; SET debug_print_parse = on; SET debug_pretty_print = off"
    )
    connection.add_log_listener(hear)
    trees.clear()
    try:
        await connection.prepare(copied["sql"] if copied else sql)
    finally:
        connection.remove_log_listener(hear)
        await connection.execute("RESET client_min_messages; RESET debug_print_parse")
    tree = _value(iter(_TOKEN.findall(trees[0])))
    assert isinstance(tree, dict)
    return tree


def _value(tokens: Iterator[str], token: str | None = None) -> Any:
    token = token or next(tokens)
    if token == "{":
        node: dict[str, Any] = {"node": next(tokens)}
        values: list[Any] = []
        while (token := next(tokens)) != "}":
            if token.startswith(":"):
                values = node[token[1:]] = []
            else:
                values.append(_value(tokens, token))
        return {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in node.items()}
    if token == "(":
        found = []
        while (token := next(tokens)) != ")":
            found.append(_value(tokens, token))
        return found
    return token
