"""Open alerts in the two orders in which they are shown."""

from __future__ import annotations

from migrations.script import run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

works_with = "0005"

UPGRADE = """
-- Both change only when an alert does. The board reads those to look at first, however many are open.
CREATE INDEX IF NOT EXISTS alerts_in_need ON alerts (
    (exercise <> ''), level DESC, severity DESC,
    array_position(ARRAY['monitoring', 'early_warning', 'disruption', 'crisis'], recommendation ->> 'level')
        DESC NULLS LAST,
    updated_at DESC, id
) WHERE state = 'open';

-- A list of open ones does not read all that were resolved since.
CREATE INDEX IF NOT EXISTS alerts_open_updated ON alerts (updated_at DESC, id DESC) WHERE state = 'open';
"""

DOWNGRADE = """
DROP INDEX alerts_open_updated;
DROP INDEX alerts_in_need;
"""


def upgrade() -> None:
    """Adds two indexes."""
    run(UPGRADE)


def downgrade() -> None:
    """Drops them."""
    run(DOWNGRADE)
