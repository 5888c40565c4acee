"""Indexes of waiting tasks that hold a hash of the queue and of the intent, which are faster to write.

Lock impact: the indexes of a table that holds tasks are built CONCURRENTLY, outside of a transaction: tasks are enqueued
and claimed meanwhile. To drop the old ones takes a short ACCESS EXCLUSIVE lock.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import build_indexes, ddl

revision = "alfred_0029_task_kinds"
down_revision = "alfred_0028_lease_seconds"
branch_labels = None
depends_on = None

HASHED = {
    "idx_tasks_waiting_queue": (
        "(pg_catalog.hashtextextended(queue, 0), (- priority), available_at, id) WHERE status = 'pending'"
    ),
    "idx_tasks_waiting_intent": (
        "(pg_catalog.hashtextextended(intent, 0), (- priority), available_at, id) WHERE status = 'pending'"
    ),
    "idx_tasks_waiting_queue_intent": (
        "(pg_catalog.hashtextextended(intent, pg_catalog.hashtextextended(queue, 0)), (- priority), available_at, id)"
        " WHERE status = 'pending'"
    ),
}
NAMED = {
    "idx_tasks_ready_queue": "(queue, (- priority), available_at, id) WHERE status = 'pending'",
    "idx_tasks_ready_intent": "(pg_catalog.\"left\"(intent, 400), (- priority), available_at, id) WHERE status = 'pending'",
    "idx_tasks_ready_queue_intent": (
        '(pg_catalog."left"(queue, 200), pg_catalog."left"(intent, 399), (- priority), available_at, id) WHERE status = \'pending\''
    ),
}


def upgrade() -> None:
    build_indexes("tasks", "alfred_0008_tasks", HASHED)
    for name in NAMED:
        ddl(f"DROP INDEX {name}")


def downgrade() -> None:
    build_indexes("tasks", "alfred_0008_tasks", NAMED)
    for name in HASHED:
        ddl(f"DROP INDEX {name}")
