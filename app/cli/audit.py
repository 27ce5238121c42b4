"""``forewarn audit``: following the chain of who changed what, whether the service runs or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import saying

if TYPE_CHECKING:
    from app.store.audit import Verified

app = typer.Typer(help="Who changed what.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps ``verify`` a command of its own although it is the only one."""


@app.command()
def verify(
    head: Annotated[
        str,
        typer.Option(
            metavar="HASH", help="A hash noted earlier: the chain must still hold that row."
        ),
    ] = "",
    as_json: saying.AsJson = False,
) -> None:
    """Checks that no change was altered or removed since it was written; exits with 1 if one was.

    Note the hash it prints: only with it a chain shows that its end was cut off.
    """
    found = saying.run(_verify(head.lower()))
    told = (
        f"{found.rows} changes, the chain is whole. Its last hash is {found.head.hex() or 'none'}."
    )
    saying.report(
        {
            "rows": found.rows,
            "head": found.head.hex(),
            "whole": not found.broken,
            "broken": found.broken or None,
        },
        as_json,
        f"The chain is broken after {found.rows} rows. {found.broken}" if found.broken else told,
    )
    if found.broken:
        raise typer.Exit(1)


async def _verify(head: str) -> Verified:
    from app import premises, settings
    from app.store import audit

    async with premises.database_of(settings.from_environment()) as (database, _):
        await database.check_revision()
        async with database.begin() as connection:
            return await audit.verify(connection, head)
