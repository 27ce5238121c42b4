"""Versions of lanes: whether what a process remembers of the alerts in them still holds."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a version to each lane, raised when an alert of a scope in it opens or ends."""
    op.execute("ALTER TABLE lanes ADD COLUMN version bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Drops it."""
    op.execute("ALTER TABLE lanes DROP COLUMN version")
