"""What a statement may not do so that Citus can run it when the tables by series are distributed.

Each law is one that Citus 15 enforces with an error, or one without which writers wait for each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from app.store import distribution
from tests.app import wiretap

_UPDATE, _INSERT, _DELETE, _MERGE = "2", "3", "4", "5"  # nodes.h, CmdType
_RELATION, _SUBQUERY, _JOIN, _FUNCTION, _CTE = "0", "1", "2", "3", "6"  # parsenodes.h, RTEKind
_EQUAL = {"467", "474", "852"}  # int8eq, int84eq, int48eq

_MONTH = re.compile(r"\bsignals_\d{4}_\d{2}\b")

Node = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables by series with their partitions, by oid, with the number of their key's column."""

    hot: dict[str, str]
    key: dict[str, str]
    everywhere: str

    @classmethod
    async def of(cls, connection: asyncpg.Connection[asyncpg.Record]) -> Tables:
        rows = await connection.fetch(
            "SELECT c.oid::text, c.oid::regclass::text AS name, a.attnum::text FROM pg_class AS c "
            "JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = $2 "
            "WHERE coalesce(pg_partition_root(c.oid), c.oid)::regclass::text = ANY($1::text[])",
            list(distribution.BY_SERIES),
            distribution.KEY,
        )
        everywhere = await connection.fetchval(
            "SELECT to_regclass($1)::oid::text", distribution.EVERYWHERE
        )
        return cls({r[0]: r[1] for r in rows}, {r[0]: r[2] for r in rows}, everywhere)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a statement breaks, and what it does to whom: for the order within a transaction."""

    breaches: list[str]
    touches: bool
    makes_series: bool


async def judge(connection: asyncpg.Connection[asyncpg.Record], tables: Tables, sql: str) -> Judged:
    """Holds one statement against every law but that of order.

    A month of ``signals`` is like any other, and may be gone by now: the default stands for all.
    """
    tree = await wiretap.understood(connection, _MONTH.sub("signals_default", sql))
    queries = [n for n in _nodes(tree) if n["node"] == "QUERY"]
    relations = {r["relid"] for q in queries for r in _range(q) if r["rtekind"] == _RELATION}
    named = {n["relname"] for n in _nodes(tree) if n["node"] == "RANGEVAR"}
    return Judged(
        [said for query in queries for said in _breaches(tables, query)],
        bool(relations & set(tables.hot) or named & set(tables.hot.values())),
        any(_written(q) == tables.everywhere for q in queries),
    )


def order(transaction: Sequence[Judged]) -> list[str]:
    """New series are made before anything else in their transaction touches a table by series."""
    made = [n for n, one in enumerate(transaction) if one.makes_series]
    touched = [n for n, one in enumerate(transaction) if one.touches]
    return ["series are made late"] if made and touched and touched[0] < made[-1] else []


def _breaches(tables: Tables, query: Node) -> Iterator[str]:
    written = tables.hot.get(_written(query) or "")
    if query["commandType"] == _MERGE and _reads(tables, query):
        yield "MERGE"
    if query["hasRecursive"] == "true" and _reads(tables, query):
        yield "WITH RECURSIVE"
    if written and _is(query["onConflict"]) and _is(query["returningList"]):
        yield "ON CONFLICT … RETURNING"
    for mark in _list(query["rowMarks"]):
        locked = _range(query)[int(mark["rti"]) - 1]
        if locked.get("relid") in tables.hot and not _is_pinned(tables, query, mark["rti"]):
            yield "a lock over many rows"
    for place in _range(query):
        inner = place.get("subquery")
        if (
            place["rtekind"] == _SUBQUERY
            and place["lateral"] == "true"
            and _reads(tables, inner)
            and any(row["rtekind"] in {_FUNCTION, _JOIN} for row in _spoken_of(query, inner))
            and any(_merges(n) for n in _nodes(inner) if n["node"] == "QUERY")
        ):
            yield "an aggregate within a LATERAL of a function's rows"
    if any(row.get("relid") in tables.hot for row in _range(query)):
        for link in _nodes(query["targetList"], into_queries=False):
            if "subselect" in link and _reads_plain(tables, link["subselect"]):
                yield "a column from plain tables beside tables by series"
    for link in _nodes(query, into_queries=False):
        inner = link.get("subselect")
        if inner and _reads(tables, inner):
            if not _is(inner["targetList"]):
                yield "a subquery without columns"
            about = _spoken_of(query, inner)
            if any(row["rtekind"] in {_SUBQUERY, _CTE} for row in about):
                yield "a subquery about the rows of a subquery"
            elif about and not any(row.get("relid") in tables.hot for row in about):
                yield "a subquery about rows that are not by series"


def _merges(query: Node) -> bool:
    """Whether it makes fewer rows of what it finds, so that pieces of the answer cannot just be joined."""
    clauses = ("groupClause", "distinctClause", "limitCount", "limitOffset")
    return query["hasAggs"] == "true" or any(_is(query[clause]) for clause in clauses)


def _is_pinned(tables: Tables, query: Node, place: str) -> bool:
    """Whether only rows of one series are meant: its key equals a value, beside whatever else is asked."""
    key = tables.key[_range(query)[int(place) - 1]["relid"]]
    asked = [query["jointree"]["quals"]]
    while asked:
        term = asked.pop()
        if not isinstance(term, dict):
            continue
        if term["node"] == "BOOLEXPR" and term["boolop"] == "and":
            asked += term["args"]
        elif term["node"] == "OPEXPR" and term["opfuncid"] in _EQUAL:
            sides = {side["node"]: side for side in term["args"]}
            var = sides.get("VAR")
            if var and (var["varno"], var["varattno"]) == (place, key) and len(sides) > 1:
                return bool(sides.keys() & {"PARAM", "CONST"})
    return False


def _spoken_of(query: Node, inner: Any) -> list[Node]:
    """The rows of this query that an inner one speaks of."""

    def variables(found: Any, depth: int) -> Iterator[Node]:
        if isinstance(found, list):
            for one in found:
                yield from variables(one, depth)
        elif isinstance(found, dict):
            if found["node"] == "VAR" and found["varlevelsup"] == str(depth):
                yield found
            for one in found.values():
                yield from variables(one, depth + (found["node"] == "QUERY"))

    return [_range(query)[int(found["varno"]) - 1] for found in variables(inner, 0)]


def _reads(tables: Tables, query: Any) -> bool:
    return any(n["node"] == "RANGETBLENTRY" and n.get("relid") in tables.hot for n in _nodes(query))


def _reads_plain(tables: Tables, query: Any) -> bool:
    """Whether it reads a table that is on one machine alone."""
    spread = {*tables.hot, tables.everywhere}
    rows = [n for n in _nodes(query) if n["node"] == "RANGETBLENTRY" and n["rtekind"] == _RELATION]
    return any(row["relid"] not in spread for row in rows)


def _written(query: Node) -> str | None:
    if query["commandType"] not in {_UPDATE, _INSERT, _DELETE, _MERGE}:
        return None
    return str(_range(query)[int(query["resultRelation"]) - 1]["relid"])


def _range(query: Node) -> list[Node]:
    return _list(query["rtable"])


def _nodes(found: Any, *, into_queries: bool = True) -> Iterator[Node]:
    """Every node below, itself included; those of other queries too, unless it is said."""
    if isinstance(found, dict):
        yield found
        for one in found.values():
            below = isinstance(one, dict) and one["node"] == "QUERY"
            if into_queries or not below:
                yield from _nodes(one, into_queries=into_queries)
    elif isinstance(found, list):
        for one in found:
            yield from _nodes(one, into_queries=into_queries)


def _is(clause: Any) -> bool:
    return clause not in ("<>", [])


def _list(found: Any) -> list[Any]:
    """A list of one node is read as the node, and an empty one as ``<>``."""
    if isinstance(found, list):
        return found
    return [found] if isinstance(found, dict) else []
