"""Several statements as one text, for migrations that say what they do in SQL."""

from __future__ import annotations

from alembic import op


def run(script: str) -> None:
    """Runs the statements of ``script``, each of which ends at a semicolon at the end of its line."""
    for statement in script.split(";\n"):
        if statement.strip():
            op.execute(statement)
