"""``forewarn db distribute``: the tables by series spread over machines, where Citus is there to do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import saying

if TYPE_CHECKING:
    from app.store.distribution import Standing


def distribute(
    shards: Annotated[
        int, typer.Option(min=1, max=64_000, help="Into how many pieces; fixed for good.")
    ] = 32,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prints the statements and changes nothing.")
    ] = False,
    as_json: saying.AsJson = False,
) -> None:
    """Spreads what is stored by series over the machines of a Citus cluster.

    Needs the extension in this database. While rows are moved, whoever writes these tables waits.
    """
    standing, steps = saying.run(_distribute(shards, dry_run=dry_run))
    moved = sorted(standing.filled & set(standing.missing))
    saying.report(
        {
            "citus": standing.version,
            "workers": standing.workers,
            "statements": steps,
            "moved": moved,
            "done": not dry_run,
        },
        as_json,
        _told(standing, steps, moved, dry_run=dry_run),
    )


def _told(standing: Standing, steps: list[str], moved: list[str], *, dry_run: bool) -> str:
    if not steps:
        return "The tables are distributed already; there is nothing to do."
    waits = (
        f"Rows of {', '.join(moved)} {{}} moved, and whoever writes them {{}} until it is done."
        if moved
        else "They hold no rows yet."
    )
    if dry_run:
        return "\n".join([*(f"{step};" for step in steps), waits.format("will be", "waits")])
    count = f"over {standing.workers} machines" if standing.workers else "on this machine alone"
    return f"The tables are distributed {count}. {waits.format('were', 'waited')}"


async def _distribute(shards: int, *, dry_run: bool) -> tuple[Standing, list[str]]:
    from app import premises, settings
    from app.settings import Unusable
    from app.store import distribution

    async with premises.database_of(settings.from_environment()) as (database, _):
        await database.check_revision()
        async with database.begin() as connection:
            standing = await distribution.standing(connection)
            if standing.version is None:
                raise Unusable(_NOT_CREATED if standing.is_installed else _NOT_INSTALLED)
            found = await distribution.in_the_way(connection, standing.placed)
            if found:
                raise Unusable(f"The tables cannot be distributed. {' '.join(found)}")
            steps = distribution.steps(standing, shards)
            if not dry_run:
                await distribution.take(connection, steps)
            return standing, steps


_NOT_INSTALLED = (
    "Citus is not installed on this PostgreSQL (the embedded one never has it): install its package on "
    "every machine, add citus to shared_preload_libraries, and see docs/scaling.md."
)
_NOT_CREATED = (
    "Citus is installed, and not created in this database: run CREATE EXTENSION citus in it on every "
    "machine, add the workers with citus_add_node, and see docs/scaling.md."
)
