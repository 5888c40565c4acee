"""Queues of tasks, and claims by queue and by intent that read past no tasks of others.

Lock impact: a short ACCESS EXCLUSIVE lock for a column with a constant default, which rewrites nothing. The indexes of
a table that holds tasks are built CONCURRENTLY, outside of a transaction: tasks are enqueued and claimed meanwhile.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import build_indexes, ddl, refuse_values

revision = "alfred_0023_task_queue"
down_revision = "alfred_0022_events"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_tasks_ready_queue": "(queue, (- priority), available_at, id) WHERE status = 'pending'",
    "idx_tasks_ready_intent": "(\"left\"(intent, 400), (- priority), available_at, id) WHERE status = 'pending'",
    "idx_tasks_ready_queue_intent": (
        '("left"(queue, 200), "left"(intent, 399), (- priority), available_at, id) WHERE status = \'pending\''
    ),
}


def upgrade() -> None:
    ddl("ALTER TABLE tasks ADD COLUMN IF NOT EXISTS queue TEXT DEFAULT 'default' NOT NULL")
    build_indexes("tasks", "alfred_0008_tasks", INDEXES)


def downgrade() -> None:
    ddl("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    refuse_values("tasks", "queue <> 'default'", "of other queues than the default one")
    for name in INDEXES:
        ddl(f"DROP INDEX {name}")
    ddl("ALTER TABLE tasks DROP COLUMN queue")
