"""``forewarn db backup``, ``dump``, ``restore``, ``skip-numbers``: copies of the database, life after one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import saying

if TYPE_CHECKING:
    from app.embedded import Embedded


def backup(
    folder: Annotated[Path, typer.Argument(help="A folder that is not there yet, or empty.")],
    as_json: saying.AsJson = False,
) -> None:
    """Copies the embedded database and the secret key into a folder, while the service runs.

    The copy is a data folder: start on it with FOREWARN_DATA_DIR.
    """
    found = saying.run(_backup(folder))
    size = saying.size(found["bytes"])
    told = f"{size} in {found['folder']}; a service starts on it with FOREWARN_DATA_DIR."
    saying.report(found, as_json, f"{told} {_key_words(found)}".strip())


def dump(
    file: Annotated[Path, typer.Argument(help="A file that is not there yet.")],
    as_json: saying.AsJson = False,
) -> None:
    """Writes the embedded database into a file of pg_dump's, while the service runs."""

    def work(embedded: Embedded) -> dict[str, Any]:
        embedded.dump(file)
        return {"file": str(file), "bytes": file.stat().st_size}

    found = saying.run(_on_embedded(work))
    size = saying.size(found["bytes"])
    told = f"{size} in {found['file']}. Keep the secret key with it: it is not in the file."
    saying.report(found, as_json, told)


def restore(
    file: Annotated[Path, typer.Argument(exists=True, help="What `forewarn db dump` wrote.")],
    as_json: saying.AsJson = False,
) -> None:
    """Fills an embedded database that is still empty from a file of pg_dump's."""

    def work(embedded: Embedded) -> dict[str, Any]:
        embedded.restore(file)
        return {"file": str(file), "folder": str(embedded.data_dir)}

    found = saying.run(_on_embedded(work))
    told = f"Restored into {found['folder']}. Put the secret key there before the service starts."
    saying.report(found, as_json, told)


def skip_numbers(
    by: Annotated[
        int, typer.Option(min=1, max=1_000_000_000, help="How many numbers to leave out.")
    ] = 10_000,
    as_json: saying.AsJson = False,
) -> None:
    """Leaves out numbers after an older copy was restored, so that none is given a second time.

    What was sent after the copy was made has taken sequences, webhook ids and references of
    alerts that the copy knows nothing of. Run it once, before the service.
    """
    found = saying.run(_skip_numbers(by))
    saying.report(
        found,
        as_json,
        f"{by} numbers are left out in {found['subscriptions']} subscriptions and "
        f"{found['references']} series of references.",
    )


def _key_words(found: dict[str, Any]) -> str:
    return (
        "" if found["secret_key"] else "Keep FOREWARN_SECRET_KEY with it: it is not in the folder."
    )


async def _on_embedded(work: Callable[[Embedded], dict[str, Any]]) -> dict[str, Any]:
    import asyncio

    from app import premises, settings

    chosen = settings.from_environment()
    if chosen.database_url is not None:
        saying.failed(
            "FOREWARN_DATABASE_URL is set: copy that PostgreSQL with its own tools, as docs/backup.md shows, "
            "and keep FOREWARN_SECRET_KEY with the copy."
        )
    async with premises.database_of(chosen, migrate=False) as (_, embedded):
        assert embedded is not None, "No URL is set."
        return await asyncio.to_thread(work, embedded)


async def _backup(folder: Path) -> dict[str, Any]:
    from app import seals, settings

    def work(embedded: Embedded) -> dict[str, Any]:
        made = embedded.back_up(folder)
        size = sum(f.stat().st_size for f in made.rglob("*") if f.is_file())
        has_key = seals.copy_key(settings.from_environment(), made)
        return {"folder": str(made), "bytes": size, "secret_key": has_key}

    return await _on_embedded(work)


async def _skip_numbers(by: int) -> dict[str, Any]:
    from datetime import UTC, datetime

    from app import premises, settings, store
    from app.store.audit import SERVICE, Entry

    async with premises.database_of(settings.from_environment()) as (database, _):
        await database.check_revision()
        async with database.begin() as connection:
            subscriptions, references = await store.vitals.skip_numbers(connection, by)
            entry = Entry(
                at=datetime.now(UTC),
                actor=SERVICE,
                action="database.restored",
                subject="database",
                before=None,
                after={"skipped": by},
                reason="An older copy was restored.",
            )
            await store.audit.record(connection, entry)
    return {"skipped": by, "subscriptions": subscriptions, "references": references}
