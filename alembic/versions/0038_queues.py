"""Queues as data: pauses, limits, rates and ageing, and the concurrency key of a task.

Lock impact: a column without a default is added to tasks under a short ACCESS EXCLUSIVE lock. The indexes of a table that
holds tasks are built CONCURRENTLY, outside of a transaction; to drop the old one takes a short ACCESS EXCLUSIVE lock.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import build_indexes, ddl, drop_tables, refuse_values

revision = "alfred_0038_queues"
down_revision = "alfred_0037_platform_rows"
branch_labels = None
depends_on = None

RUNNING = {
    "idx_tasks_running_queue": (
        "(pg_catalog.hashtextextended(queue, 0), pg_catalog.hashtextextended(concurrency_key, 0))"
        " WHERE status = 'processing'"
    ),
}
WAITING = {
    "idx_tasks_waiting_key_queue": (
        "(pg_catalog.hashtextextended(queue, 0), (- priority), pg_catalog.hashtextextended(concurrency_key, 0),"
        " available_at, id) WHERE status = 'pending' AND concurrency_key IS NOT NULL"
    ),
    "idx_tasks_waiting_key_queue_intent": (
        "(pg_catalog.hashtextextended(intent, pg_catalog.hashtextextended(queue, 0)), (- priority),"
        " pg_catalog.hashtextextended(concurrency_key, 0), available_at, id)"
        " WHERE status = 'pending' AND concurrency_key IS NOT NULL"
    ),
}


def upgrade() -> None:
    # To build indexes of a table that holds rows commits what was done before, which must bear to be done again.
    ddl("ALTER TABLE tasks ADD COLUMN IF NOT EXISTS concurrency_key TEXT")
    build_indexes("tasks", "alfred_0008_tasks", RUNNING | WAITING)
    ddl("""
        CREATE TABLE queues (
            name TEXT NOT NULL,
            paused BOOLEAN DEFAULT false NOT NULL,
            max_running INTEGER,
            max_running_per_key INTEGER,
            rate_jobs INTEGER,
            rate_period DOUBLE PRECISION,
            rate_burst INTEGER,
            ageing DOUBLE PRECISION,
            claimed BIGINT DEFAULT 0 NOT NULL,
            tat_us BIGINT DEFAULT 0 NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_queues PRIMARY KEY (name),
            CONSTRAINT ck_queues_name CHECK (octet_length(name) BETWEEN 1 AND 200),
            CONSTRAINT ck_queues_running CHECK (max_running > 0 AND max_running_per_key > 0),
            CONSTRAINT ck_queues_rate CHECK (
                (rate_jobs IS NULL) = (rate_period IS NULL) AND rate_jobs > 0 AND rate_period > 0
                AND rate_period <= 100000000 AND rate_burst BETWEEN 1 AND rate_jobs
            ),
            CONSTRAINT ck_queues_ageing CHECK (ageing > 0)
        )
        WITH (
            fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
            autovacuum_vacuum_cost_delay = 0
        )
    """)
    ddl("""
        CREATE INDEX idx_queues_restricted ON queues (name)
        WHERE paused OR max_running IS NOT NULL OR max_running_per_key IS NOT NULL OR rate_jobs IS NOT NULL
    """)
    ddl("DROP INDEX idx_tasks_running")


def downgrade() -> None:
    ddl("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    refuse_values("tasks", "concurrency_key IS NOT NULL", "with a concurrency key")
    drop_tables("queues")
    ddl("CREATE INDEX idx_tasks_running ON tasks (id) WHERE status = 'processing'")
    for name in (*RUNNING, *WAITING):
        ddl(f"DROP INDEX {name}")
    ddl("ALTER TABLE tasks DROP COLUMN concurrency_key")
