"""A task that is to be cancelled has lost its `dedupe_key`.

Lock impact: the index of a table that holds tasks is built CONCURRENTLY; the old one is dropped under a short ACCESS
EXCLUSIVE lock.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import build_indexes, ddl

revision = "alfred_0026_task_dedupe"
down_revision = "alfred_0025_uuid_defaults"
branch_labels = None
depends_on = None

LIVE = "dedupe_key IS NOT NULL AND status IN ('pending', 'processing')"


def upgrade() -> None:
    build_indexes(
        "tasks",
        "alfred_0008_tasks",
        {"uq_tasks_dedupe_key_new": f"(dedupe_key) WHERE {LIVE} AND cancel_requested_at IS NULL"},
        unique=True,
    )
    ddl("DROP INDEX uq_tasks_dedupe_key")
    ddl("ALTER INDEX uq_tasks_dedupe_key_new RENAME TO uq_tasks_dedupe_key")


def downgrade() -> None:
    ddl("DROP INDEX uq_tasks_dedupe_key")
    ddl(f"CREATE UNIQUE INDEX uq_tasks_dedupe_key ON tasks (dedupe_key) WHERE {LIVE}")
