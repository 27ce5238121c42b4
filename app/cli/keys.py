"""``forewarn keys``: making, listing and revoking keys, whether the service runs or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli import saying

if TYPE_CHECKING:
    from app.database import Connection
    from app.store.partners import Key

app = typer.Typer(help="The keys of partners and operators.", no_args_is_help=True)

T = TypeVar("T")


@app.command()
def create(
    name: Annotated[
        str, typer.Option(help="The partner; one key more if there is one of that name.")
    ],
    role: Annotated[str, typer.Option(help="admin, operator, partner or subscriber.")],
    party: Annotated[str, typer.Option(help="The party it acts for, such as EU.")] = "",
    scopes: Annotated[str, typer.Option(help="Instead of the role's own, comma-separated.")] = "",
    expires_in_days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="Never, by default.")
    ] = None,
    as_json: saying.AsJson = False,
) -> None:
    """Makes a key and shows it, once."""
    from app import access

    now = datetime.now(UTC)
    lasting = None if expires_in_days is None else now + timedelta(days=expires_in_days)
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    key = _with_database(
        lambda connection: access.issue_key(
            connection,
            name=name,
            role=role,
            now=now,
            party=party,
            scopes=wanted,
            expires_at=lasting,
        )
    )
    found = {
        "id": key.id,
        "key": key.token,
        "partner": key.partner,
        "party": key.party or None,
        "role": key.role,
        "scopes": list(key.scopes),
        "expires_at": _instant(key.expires_at),
    }
    saying.report(
        found, as_json, f"The key of {key.partner} ({key.role}), shown only now: {key.token}"
    )


@app.command("list")
def list_keys(as_json: saying.AsJson = False) -> None:
    """Lists every key without its secret, oldest first."""
    from app.store import partners

    now = datetime.now(UTC)
    keys = _with_database(partners.all_keys)
    if as_json:
        saying.report([_described(key, now) for key in keys], as_json, "")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "partner", "party", "role", "state", "last used", "scopes")
    for column in table.columns[:6]:  # An id cut short cannot be revoked; the scopes give way.
        column.no_wrap, column.overflow = column.header == "id", "fold"
    for key in keys:
        found = _described(key, now)
        used = found["last_used_at"] or "never"
        table.add_row(
            key.id, key.partner.name, key.partner.party, key.role, found["state"], used,
            " ".join(found["scopes"]),
        )  # fmt: skip
    Console().print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `forewarn keys list` shows it.")],
    as_json: saying.AsJson = False,
) -> None:
    """Revokes a key for ever; a service that just saw it may honour it for ten seconds more."""
    from app.store import partners

    now = datetime.now(UTC)
    if not _with_database(lambda connection: partners.revoke(connection, key_id, now)):
        saying.failed(
            f"There is no key {key_id} to revoke; `forewarn keys list` shows those there are."
        )
    saying.report({"id": key_id, "revoked_at": _instant(now)}, as_json, f"Key {key_id} is revoked.")


def _with_database(do: Callable[[Connection], Awaitable[T]]) -> T:
    """Does something in one transaction on the database of the settings."""
    from app import premises, settings

    async def run() -> T:
        async with premises.database_of(settings.from_environment()) as (database, _):
            await database.check_revision()
            async with database.begin() as connection:
                return await do(connection)

    return saying.run(run())


def _described(key: Key, now: datetime) -> dict[str, Any]:
    state = "live" if key.is_live(now) else "revoked" if key.revoked_at else "expired"
    return {
        "id": key.id,
        "partner": key.partner.name,
        "party": key.partner.party or None,
        "role": key.role,
        "scopes": sorted(key.scopes),
        "state": state,
        "created_at": _instant(key.created_at),
        "expires_at": _instant(key.expires_at),
        "revoked_at": _instant(key.revoked_at),
        "last_used_at": _instant(key.last_used_at),
    }


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")
