"""Runs the migrations on the connection that ``app.database`` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from app import tables


def _run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=tables.metadata)
    with context.begin_transaction():
        context.run_migrations()
        _tell_who_may_go_on(connection)


def _tell_who_may_go_on(connection: Connection) -> None:
    """Writes beside the revision which is the oldest whose code works on this schema.

    That code cannot know: it is older than the migration. A migration that says nothing (``works_with``)
    works with no code older than itself.
    """
    found = context.get_context().get_current_revision()
    if found is None:
        return
    steps = context.script.iterate_revisions(found, "base")
    oldest = max(getattr(step.module, "works_with", step.revision) for step in steps)
    connection.execute(text("ALTER TABLE alembic_version ADD COLUMN IF NOT EXISTS works_with text"))
    connection.execute(text("UPDATE alembic_version SET works_with = :oldest"), {"oldest": oldest})


_run()
