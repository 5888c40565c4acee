"""Tasks that wait for others: order of a key, dependencies and batches.

Lock impact: a short ACCESS EXCLUSIVE lock for each column, which rewrites nothing. The indexes of a table that holds
tasks are built CONCURRENTLY, outside of a transaction: tasks are enqueued and claimed meanwhile.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import build_indexes, ddl, drop_tables, refuse_values

revision = "alfred_0039_task_waits"
down_revision = "alfred_0038_queues"
branch_labels = None
depends_on = None

COLUMNS = {
    "ordering_key": "TEXT",
    "awaits_turn": "BOOLEAN DEFAULT false NOT NULL",
    "waits_for": "INTEGER DEFAULT 0 NOT NULL",
    "awaited_by": "INTEGER DEFAULT 0 NOT NULL",
    "not_before": "TIMESTAMP WITH TIME ZONE",
    "batch_id": "UUID",
}

OPEN = "ordering_key IS NOT NULL AND NOT awaits_turn AND status IN ('pending', 'processing')"

INDEXES = {
    "idx_tasks_awaits_turn": "(ordering_key, id) WHERE awaits_turn",
    "idx_tasks_batch_id": "(batch_id) WHERE batch_id IS NOT NULL",
}

WAIT = "awaits_turn OR waits_for > 0"


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        ddl(f"ALTER TABLE tasks ADD COLUMN IF NOT EXISTS {name} {kind}")
    ddl("""
        CREATE TABLE IF NOT EXISTS task_dependencies (
            task_id UUID NOT NULL,
            after_id UUID NOT NULL,
            runs_anyway BOOLEAN DEFAULT false NOT NULL,
            settled BOOLEAN DEFAULT false NOT NULL,
            CONSTRAINT pk_task_dependencies PRIMARY KEY (task_id, after_id),
            CONSTRAINT ck_task_dependencies_itself CHECK (task_id <> after_id),
            CONSTRAINT fk_task_dependencies_task_id FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE,
            CONSTRAINT fk_task_dependencies_after_id FOREIGN KEY (after_id) REFERENCES tasks (id) ON DELETE CASCADE
        )
    """)
    ddl("CREATE INDEX IF NOT EXISTS idx_task_dependencies_after_id ON task_dependencies (after_id)")
    build_indexes("tasks", "alfred_0008_tasks", INDEXES)
    build_indexes(
        "tasks", "alfred_0008_tasks", {"uq_tasks_ordering_key": f"(ordering_key) WHERE {OPEN}"}, unique=True
    )


def downgrade() -> None:
    ddl("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    refuse_values("tasks", WAIT, "that wait for others")
    drop_tables("task_dependencies")
    for name in ("uq_tasks_ordering_key", *INDEXES):
        ddl(f"DROP INDEX {name}")
    for name in reversed(COLUMNS):
        ddl(f"ALTER TABLE tasks DROP COLUMN {name}")
