"""Tasks and their results.

Lock impact: none on tables that exist; only new ones are made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, updated_by_trigger

revision = "alfred_0008_tasks"
down_revision = "alfred_0007_broker_catalog"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ddl("""
        CREATE TABLE tasks (
            id UUID DEFAULT extensions.uuid_generate_v4() NOT NULL,
            task_id TEXT NOT NULL,
            intent TEXT NOT NULL,
            status TEXT DEFAULT 'pending' NOT NULL,
            content JSONB DEFAULT '{}'::jsonb NOT NULL,
            priority INTEGER DEFAULT 1 NOT NULL,
            created_by TEXT,
            assigned_to TEXT,
            parent_task_id UUID,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            started_at TIMESTAMP WITH TIME ZONE,
            completed_at TIMESTAMP WITH TIME ZONE,
            failed_at TIMESTAMP WITH TIME ZONE,
            error_message TEXT,
            retry_count INTEGER DEFAULT 0 NOT NULL,
            max_retries INTEGER DEFAULT 3 NOT NULL,
            timeout_seconds INTEGER DEFAULT 300 NOT NULL,
            metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
            available_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            worker_id TEXT,
            lease_token UUID,
            claim_seq BIGINT DEFAULT 0 NOT NULL,
            lease_expires_at TIMESTAMP WITH TIME ZONE,
            attempt_started_at TIMESTAMP WITH TIME ZONE,
            attempt_deadline_at TIMESTAMP WITH TIME ZONE,
            crash_count INTEGER DEFAULT 0 NOT NULL,
            cancel_requested_at TIMESTAMP WITH TIME ZONE,
            cancelled_at TIMESTAMP WITH TIME ZONE,
            error_code TEXT,
            dedupe_key TEXT,
            CONSTRAINT pk_tasks PRIMARY KEY (id),
            CONSTRAINT uq_tasks_task_id UNIQUE (task_id),
            CONSTRAINT ck_tasks_status CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
            CONSTRAINT ck_tasks_priority CHECK (priority BETWEEN 1 AND 5),
            CONSTRAINT ck_tasks_counters CHECK (retry_count >= 0 AND crash_count >= 0 AND max_retries >= 0),
            CONSTRAINT ck_tasks_timeout CHECK (timeout_seconds > 0),
            CONSTRAINT ck_tasks_completed_at CHECK ((status = 'completed') = (completed_at IS NOT NULL)),
            CONSTRAINT ck_tasks_failed_at CHECK ((status = 'failed') = (failed_at IS NOT NULL)),
            CONSTRAINT ck_tasks_cancelled_at CHECK (cancelled_at IS NULL OR status = 'cancelled'),
            CONSTRAINT ck_tasks_lease CHECK (lease_expires_at IS NULL OR status = 'processing'),
            CONSTRAINT fk_tasks_parent_task_id FOREIGN KEY (parent_task_id) REFERENCES tasks (id)
        )
        WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0)
    """)
    ddl("CREATE INDEX idx_tasks_failed ON tasks (failed_at) WHERE status = 'failed'")
    ddl("""
        CREATE INDEX idx_tasks_finished ON tasks (COALESCE(completed_at, failed_at, cancelled_at))
        WHERE status IN ('completed', 'failed', 'cancelled')
    """)
    ddl("CREATE INDEX idx_tasks_parent_task_id ON tasks (parent_task_id) WHERE parent_task_id IS NOT NULL")
    ddl("CREATE INDEX idx_tasks_ready ON tasks (priority DESC, available_at, id) WHERE status = 'pending'")
    ddl("CREATE INDEX idx_tasks_running ON tasks (id) WHERE status = 'processing'")
    ddl("""
        CREATE UNIQUE INDEX uq_tasks_dedupe_key ON tasks (dedupe_key)
        WHERE dedupe_key IS NOT NULL AND status IN ('pending', 'processing')
    """)
    updated_by_trigger("tasks")
    ddl("""
        CREATE TABLE task_results (
            id UUID DEFAULT extensions.uuid_generate_v4() NOT NULL,
            task_id UUID,
            result_type TEXT NOT NULL,
            content JSONB NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
            CONSTRAINT pk_task_results PRIMARY KEY (id),
            CONSTRAINT fk_task_results_task_id FOREIGN KEY (task_id) REFERENCES tasks (id) ON DELETE CASCADE
        )
    """)
    ddl("CREATE INDEX idx_task_results_task_id ON task_results (task_id)")


def downgrade() -> None:
    drop_tables("task_results", "tasks")
