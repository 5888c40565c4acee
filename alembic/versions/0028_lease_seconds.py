"""Executions remember how long they were claimed for.

Lock impact: a short ACCESS EXCLUSIVE lock on each table, for a column without a default.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl

revision = "alfred_0028_lease_seconds"
down_revision = "alfred_0027_partitions_path"
branch_labels = None
depends_on = None

TABLES = ("scheduler_executions", "workflow_executions")


def upgrade() -> None:
    for table in TABLES:
        ddl(f"ALTER TABLE {table} ADD COLUMN lease_seconds DOUBLE PRECISION")


def downgrade() -> None:
    for table in TABLES:
        ddl(f"ALTER TABLE {table} DROP COLUMN lease_seconds")
