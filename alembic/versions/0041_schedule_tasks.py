"""Schedules that enqueue tasks, schedules that an application declares, and the progress of tasks.

Lock impact: short ACCESS EXCLUSIVE locks on scheduler_tasks and scheduler_executions, for columns that are NULL or have a
constant default, and SHARE ROW EXCLUSIVE on tasks for the moment in which the foreign key to it is made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, refuse_values

revision = "alfred_0041_schedule_tasks"
down_revision = "alfred_0040_workflow_step_kinds"
branch_labels = None
depends_on = None

COLUMNS = {
    "intent": "TEXT",
    "content": "JSONB DEFAULT '{}'::jsonb NOT NULL",
    "queue": "TEXT DEFAULT 'default' NOT NULL",
    "priority": "INTEGER DEFAULT 1 NOT NULL",
    "dedupe_key": "TEXT",
    "owner": "TEXT",
    "withdrawn_at": "TIMESTAMP WITH TIME ZONE",
}


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        ddl(f"ALTER TABLE scheduler_tasks ADD COLUMN {name} {kind}")
    ddl(
        "ALTER TABLE scheduler_tasks ADD CONSTRAINT ck_scheduler_tasks_priority"
        " CHECK (priority BETWEEN 1 AND 5)"
    )
    ddl("ALTER TABLE scheduler_executions ADD COLUMN enqueued_task_id UUID")
    ddl("""
        CREATE TABLE task_progress (
            task_id UUID NOT NULL,
            fraction DOUBLE PRECISION NOT NULL,
            note TEXT,
            claim_seq BIGINT NOT NULL,
            reported_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            deleted_with UUID,
            CONSTRAINT pk_task_progress PRIMARY KEY (task_id),
            CONSTRAINT ck_task_progress_fraction CHECK (fraction BETWEEN 0 AND 1),
            CONSTRAINT fk_task_progress_deleted_with FOREIGN KEY (deleted_with) REFERENCES tasks (id) ON DELETE CASCADE
        )
        WITH (
            fillfactor = 70,
            autovacuum_vacuum_scale_factor = 0.01,
            autovacuum_vacuum_threshold = 1000,
            autovacuum_vacuum_cost_delay = 0
        )
    """)
    ddl("CREATE INDEX idx_task_progress_deleted_with ON task_progress (deleted_with)")


def downgrade() -> None:
    refuse_values("scheduler_tasks", "intent IS NOT NULL", "that enqueue tasks")
    drop_tables("task_progress")
    ddl("ALTER TABLE scheduler_executions DROP COLUMN enqueued_task_id")
    ddl("ALTER TABLE scheduler_tasks DROP CONSTRAINT ck_scheduler_tasks_priority")
    for name in reversed(COLUMNS):
        ddl(f"ALTER TABLE scheduler_tasks DROP COLUMN {name}")
