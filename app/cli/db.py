"""``forewarn db``: how the database does, what lies where, what to sweep, and copies of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from app.cli import db_copies, db_distribute, saying

if TYPE_CHECKING:
    from datetime import datetime

    from app.store.vitals import Health, IndexSize

app = typer.Typer(help="The database: how it does, and copies of it.", no_args_is_help=True)


@app.command()
def status(as_json: saying.AsJson = False) -> None:
    """Shows the revision, the server, sizes, standbys, and settings that differ from the advice."""
    found = saying.run(_status())
    saying.report(found, as_json, _status_text(found))


@app.command()
def partitions(as_json: saying.AsJson = False) -> None:
    """Shows the months of the signals: rows, bytes, and when each goes under the retention policy."""
    found = saying.run(_partitions())
    saying.report(found, as_json, _partitions_text(found))


@app.command("vacuum-advice")
def vacuum_advice(as_json: saying.AsJson = False) -> None:
    """Shows how the tables are swept, with a sentence of advice and the statement to run."""
    found = saying.run(_vacuum_advice())
    saying.report(found, as_json, _advice_text(found))


for command in (
    db_copies.backup,
    db_copies.dump,
    db_copies.restore,
    db_copies.skip_numbers,
    db_distribute.distribute,
):
    app.command()(command)


class _Advice(NamedTuple):
    """What a setting should be, in words, and what happens otherwise; then how to tell: by the least that
    will do, in bytes or seconds where it has a unit, or by what it must not be.
    """

    wanted: str
    why: str
    least: float | None = None
    unwanted: frozenset[str] = frozenset({"off"})


_ADVICE = {
    "autovacuum": _Advice("on", "tables grow and reads slow down without it"),
    "checkpoint_timeout": _Advice(
        "at least 900 s", "right after a checkpoint every page is written whole", 900
    ),
    "fsync": _Advice("on", "a crash of the machine loses what was accepted"),
    "full_page_writes": _Advice("on", "a crash of the machine may leave broken pages"),
    "max_locks_per_transaction": _Advice(
        "at least 128", "each month is two locks for what reads them all", 128
    ),
    "max_wal_size": _Advice("at least 4,096 MB", "checkpoints come too often in a rush", 4 * 2**30),
    "shared_buffers": _Advice(
        "at least 512 MB", "the indexes of the newest months should fit", 512 * 2**20
    ),
    "synchronous_commit": _Advice("not off", "a crash loses what was accepted in the last moment"),
    "wal_compression": _Advice(
        "not pglz",
        "writes are three times slower after a checkpoint",
        unwanted=frozenset({"on", "pglz"}),
    ),
}

_BYTES = {"B": 1, "kB": 1024, "8kB": 8192, "MB": 2**20, "GB": 2**30}
_SECONDS = {"ms": 0.001, "s": 1, "min": 60}


def _differs(name: str, setting: str, unit: str) -> dict[str, str] | None:
    """The setting with the advice that it does not follow; None when it does."""
    advice, shown = _ADVICE[name], f"{setting} {unit}".strip()
    if advice.least is None:
        fits = setting not in advice.unwanted
    else:
        number = float(setting) * (_BYTES | _SECONDS).get(unit, 1)
        fits = number >= advice.least
        shown = saying.size(int(number)) if unit in _BYTES else shown
    return None if fits else {"name": name, "is": shown, "advice": advice.wanted, "why": advice.why}


async def _status() -> dict[str, Any]:
    from datetime import UTC, datetime

    from app import database as databases
    from app import premises, settings, store
    from app.embedded import programs

    async with premises.database_of(settings.from_environment(), migrate=False) as (
        database,
        embedded,
    ):
        revision, needed = await database.revision(), databases.head_revision()
        async with database.begin() as connection:
            server = await store.vitals.server(connection, list(_ADVICE))
            sizes = await store.vitals.sizes(connection)
            is_ours = revision == needed
            is_open = await store.vitals.open_alerts(connection) if is_ours else None
            tally = await store.endpoint_health.tally(connection) if is_ours else None
    rows = {size.name: size.rows for size in sizes}
    signals = next((s for s in sizes if s.name == "signals"), None)
    per_signal = None
    if signals and signals.rows:
        per_signal = round((signals.table_bytes + signals.index_bytes) / signals.rows)
    oldest = tally.oldest_owed_at if tally else None
    return {
        "revision": revision,
        "revision_needed": needed,
        "postgresql": server.version,
        "role": "standby" if server.is_standby else "primary",
        "embedded": embedded and {"url": embedded.url, "programs": str(programs.folder())},
        "database_bytes": server.database_bytes,
        "bytes_per_signal": per_signal,
        "estimates": {
            name: rows.get(name) for name in ("signals", "series", "alerts", "deliveries")
        },
        "open_alerts": is_open,
        "owed_deliveries": tally.owed if tally else None,
        "oldest_owed_at": oldest,
        "oldest_owed_seconds": (datetime.now(UTC) - oldest).total_seconds() if oldest else None,
        "connections": {"now": server.connections, "most": server.most_connections},
        "behind_seconds": server.behind_seconds,
        "standbys": [
            {
                "name": s.name,
                "state": s.state,
                "sync": s.sync,
                "behind_bytes": s.behind_bytes,
                "behind_seconds": s.behind_seconds,
            }
            for s in server.standbys
        ],
        "settings": [
            told
            for name, (setting, unit) in sorted(server.settings.items())
            if (told := _differs(name, setting, unit)) is not None
        ],
        "tables": [
            {
                "name": size.name,
                "rows": size.rows,
                "table_bytes": size.table_bytes,
                "index_bytes": size.index_bytes,
            }
            for size in sizes
        ],
    }


def _status_text(found: dict[str, Any]) -> str:
    revision = found["revision"] or "none"
    lines = [f"Schema at revision {revision}, PostgreSQL {found['postgresql']}, {found['role']}."]
    if found["revision"] != found["revision_needed"]:
        lines.append(f"This version needs {found['revision_needed']}: run `forewarn migrate`.")
    if found["embedded"]:
        lines.append(f"Embedded, at {found['embedded']['url']}")
        lines.append(f"Its programs are in {found['embedded']['programs']}")
    lines.append(
        f"{saying.size(found['database_bytes'])} in all; {found['bytes_per_signal'] or '?'} bytes a signal; "
        f"{found['connections']['now']} of {found['connections']['most']} connections in use."
    )
    about = ", ".join(f"{_count(n)} {name}" for name, n in found["estimates"].items())
    lines.append(f"About {about} (estimates, as of the last ANALYZE).")
    if found["open_alerts"] is not None:
        oldest = found["oldest_owed_seconds"]
        since = f", the oldest for {oldest:,.0f} s" if oldest is not None else ""
        lines.append(
            f"{found['open_alerts']} alerts are open, {found['owed_deliveries']} deliveries owed{since}."
        )
    if found["role"] == "standby":
        lines.append(f"What it shows is {found['behind_seconds'] or 0:,.0f} s old at most.")
    lines.extend(
        f"Standby {s['name']} ({s['state']}, {s['sync']}): {_count(s['behind_bytes'])} bytes and "
        f"{s['behind_seconds'] or 0:,.3f} s behind."
        for s in found["standbys"]
    )
    lines.extend(
        f"{s['name']} is {s['is']}; the advice is {s['advice']}: {s['why']}."
        for s in found["settings"]
    )
    rows = [
        (t["name"], _count(t["rows"]), saying.size(t["table_bytes"]), saying.size(t["index_bytes"]))
        for t in found["tables"]
    ]
    return "\n".join([*lines, "", *_table(("table", "rows, about", "table", "indexes"), rows)])


async def _partitions() -> dict[str, Any]:
    from alerts.retention import Retention, month_after
    from app import premises, settings, store

    chosen = settings.from_environment()
    retention = Retention(chosen.retention)
    async with premises.database_of(chosen, migrate=False) as (database, _):
        await database.check_revision()
        async with database.begin() as connection:
            months = await store.partitions.partitions(connection)
            sizes = await store.vitals.partition_sizes(connection)
            sectors = await store.retirement.sectors(connection)
            heaps = await store.partitions.heaps(connection)
    return {
        "retention": str(retention) or None,
        "partitions": [
            {
                "name": p.name,
                "from": p.month,
                "to": month_after(p.month, 1),
                "rows": sizes[p.name].rows,
                "bytes": sizes[p.name].table_bytes + sizes[p.name].index_bytes,
                **_verdict(retention, p.month, sectors),
            }
            for p in months
            if p.month is not None and p.name in sizes
        ],
        "default": {
            "bytes": sum(
                sizes[p.name].table_bytes + sizes[p.name].index_bytes
                for p in months
                if p.month is None and p.name in sizes
            ),
            "months": [
                {
                    "month": f"{h.month:%Y-%m}",
                    "rows": h.signals,
                    "or_more": h.signals >= store.partitions.WORTH_A_PARTITION,
                    **_verdict(retention, h.month, sectors),
                }
                for h in heaps
            ],
        },
    }


def _verdict(retention: Any, month: datetime, sectors: Iterable[str]) -> dict[str, Any]:
    """When the first signals of a month go, and when the last; null for never."""
    from alerts.retention import LABELS

    # A sector nobody has reported of yet stands for those to come.
    days = [retention.goes_on(month, s, label) for s in (*sectors, "") for label in LABELS]
    some = [day for day in days if day is not None]
    return {
        "first_go_on": min(some).date() if some else None,
        "all_gone_on": max(some).date() if len(some) == len(days) else None,
    }


def _partitions_text(found: dict[str, Any]) -> str:
    rows = [
        (f"{p['from']:%Y-%m}", _count(p["rows"]), saying.size(p["bytes"]), _goes(p))
        for p in found["partitions"]
    ]
    default = [
        (m["month"], f"{m['rows']:,}{' or more' if m['or_more'] else ''}", "", _goes(m))
        for m in found["default"]["months"]
    ]
    lines = [f"Retention: {found['retention'] or 'everything is kept'}.", ""]
    lines += _table(("month", "rows, about", "bytes", "goes"), rows)
    lines += ["", f"In the default partition ({saying.size(found['default']['bytes'])}), counted:"]
    lines += _table(("month", "rows", "", "goes"), default) if default else ["nothing"]
    return "\n".join(lines)


def _goes(verdict: dict[str, Any]) -> str:
    first, last = verdict["first_go_on"], verdict["all_gone_on"]
    if first is None:
        return "never"
    if last is None:
        return f"in part from {first}"
    return f"{last}" if first == last else f"in part from {first}, all on {last}"


_INDEX_BYTES = 8 * 2**20
_BLOAT = 2.0


async def _vacuum_advice() -> dict[str, Any]:
    from app import premises, settings, store

    async with (
        premises.database_of(settings.from_environment(), migrate=False) as (database, _),
        database.begin() as connection,
    ):
        tables = await store.vitals.health(connection)
        indexes = await store.vitals.indexes(connection, _INDEX_BYTES)
    return {
        "tables": [_told(table) for table in tables],
        "indexes": [_told_index(index) for index in indexes],
    }


def _told(table: Health) -> dict[str, Any]:
    advice, statement = _advise(table)
    return {
        "name": table.name,
        "rows": table.rows,
        "dead": table.dead,
        "all_visible": None if table.visible is None else round(table.visible, 3),
        "vacuumed_at": table.swept_at,
        "analysed_at": table.analysed_at,
        "freeze_age": table.freeze_age,
        "advice": advice,
        "statement": statement,
    }


def _advise(table: Health) -> tuple[str | None, str | None]:
    """The most pressing sentence about a table, with what to run; nothing where all is well."""
    unseen = 1 - (table.visible or 0)
    if table.freeze_age > 0.75 * table.freeze_limit:
        said = (
            f"Its oldest rows are {table.freeze_age:,} transactions old, and at {table.freeze_limit:,} "
            "PostgreSQL sweeps it whole at a time of its own choice; choose a quiet hour before that."
        )
        return said, f"VACUUM (FREEZE, VERBOSE) {table.name};"
    if table.dead > 1_000 and table.dead > 0.2 * max(table.rows, 1):
        said = (
            f"{table.dead:,} dead rows beside {table.rows:,}: autovacuum is behind, or somebody holds an "
            "old transaction open."
        )
        return said, f"VACUUM (VERBOSE) {table.name};"
    if table.name.startswith("signals_") and table.pages > 64 and unseen > 0.1:
        said = (
            f"{unseen:.0%} of its pages are not known to be all visible, so long windows are read from "
            "the table instead of the index."
        )
        return said, f"VACUUM {table.name};"
    if table.rows > 1_000 and table.analysed_at is None:
        return "It was never analysed, so plans are guesses.", f"ANALYZE {table.name};"
    return None, None


def _told_index(index: IndexSize) -> dict[str, Any]:
    is_bloated = index.index_bytes > _BLOAT * max(index.packed_bytes, 1)
    return {
        "name": index.name,
        "table": index.table,
        "bytes": index.index_bytes,
        "packed_bytes": index.packed_bytes,
        "advice": f"It is {index.index_bytes / max(index.packed_bytes, 1):.1f} times as large as built anew."
        if is_bloated
        else None,
        "statement": f"REINDEX INDEX CONCURRENTLY {index.name};" if is_bloated else None,
    }


def _advice_text(found: dict[str, Any]) -> str:
    told = [t for t in (*found["tables"], *found["indexes"]) if t["advice"]]
    rows = [
        (
            t["name"],
            f"{t['rows']:,}",
            f"{t['dead']:,}",
            "?" if t["all_visible"] is None else f"{t['all_visible']:.0%}",
            f"{t['vacuumed_at']:%Y-%m-%d %H:%M}" if t["vacuumed_at"] else "never",
            f"{t['freeze_age']:,}",
        )
        for t in found["tables"]
    ]
    lines = [f"{t['name']}: {t['advice']}\n    {t['statement']}" for t in told]
    head = ("table", "rows, about", "dead", "all visible", "vacuumed", "freeze age")
    return "\n".join([*(lines or ["All is well."]), "", *_table(head, rows)])


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns wide enough for the widest, the first to the left and numbers to the right."""
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    return [
        "  ".join(
            cell.ljust(width) if n in {0, len(head) - 1} else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
