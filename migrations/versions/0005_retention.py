"""What the record keeps no longer, noted; and the default partition read by time."""

from __future__ import annotations

from migrations.script import run

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = """
-- What has gone of the record, by month, sector and sharing label (empty: none was given). Not whole:
-- series that feed an open alert were held back. Insertions: how often the partition had been written to
-- when it was looked through, as PostgreSQL counts; what came later was not looked at.
CREATE TABLE retired (
    month timestamptz NOT NULL,
    sector text NOT NULL,
    tlp text NOT NULL,
    signals bigint NOT NULL,
    whole boolean NOT NULL,
    insertions bigint,
    retired_at timestamptz NOT NULL,
    PRIMARY KEY (month, sector, tlp)
);

-- Which months lie in the default is looked up often, and it is to be nearly empty.
CREATE INDEX signals_default_observed_at ON signals_default (observed_at);
"""

DOWNGRADE = """
DROP INDEX signals_default_observed_at;
DROP TABLE retired;
"""


def upgrade() -> None:
    """Adds the notes of what has gone, and an index."""
    run(UPGRADE)


def downgrade() -> None:
    """Forgets what has gone."""
    run(DOWNGRADE)
