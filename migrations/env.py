"""Runs the migrations on the connection that ``app.database`` hands over."""

from __future__ import annotations

from alembic import context

from app import tables


def _run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=tables.metadata)
    with context.begin_transaction():
        context.run_migrations()


_run()
