"""${message}

Lock impact: say which lock on which existing table, and for how long.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
