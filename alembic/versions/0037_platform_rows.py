"""Columns of the platforms' own tables, and the times of a status for raw SQL.

Lock impact: each of the tables is locked for a moment; no row is touched.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, option, refuse_values

revision = "alfred_0037_platform_rows"
down_revision = "alfred_0036_log_without_key"
branch_labels = None
depends_on = None

COLUMNS = {
    "memory_entries": {"app_name": "TEXT", "user_id": "TEXT", "event_id": "TEXT", "author": "TEXT"},
    "wm.working_memory": {
        "entity_node_id": "UUID",
        "description": "TEXT",
        "reasoning": "TEXT",
        "lookup_info": "JSONB",
        "action_log": "JSONB",
        "memory_content": "JSONB",
    },
}

CONDITIONS = {
    "tasks": """(NEW.status = 'completed') <> (NEW.completed_at IS NOT NULL)
        OR (NEW.status = 'failed') <> (NEW.failed_at IS NOT NULL)
        OR (NEW.status = 'cancelled') <> (NEW.cancelled_at IS NOT NULL)
        OR NEW.status = 'processing' AND NEW.started_at IS NULL
        OR NEW.status <> 'processing' AND NEW.lease_expires_at IS NOT NULL""",
    "scheduler_executions": """(NEW.status IN ('pending', 'running')) <> (NEW.end_time IS NULL)
        OR NEW.status = 'running' AND NEW.start_time IS NULL
        OR NEW.status <> 'running' AND NEW.lease_expires_at IS NOT NULL""",
    "workflow_executions": """(NEW.status = 'completed') <> (NEW.completed_at IS NOT NULL)
        OR (NEW.status = 'failed') <> (NEW.failed_at IS NOT NULL)
        OR (NEW.status = 'cancelled') <> (NEW.cancelled_at IS NOT NULL)
        OR NEW.status = 'running' AND NEW.started_at IS NULL
        OR NEW.status <> 'running' AND NEW.lease_expires_at IS NOT NULL
        OR NEW.status <> 'pending' AND NEW.waiting_for IS NOT NULL""",
    "brk_tracking.broker_request": "(NEW.status = 'pending') <> (NEW.finished_at IS NULL)",
}
"""The rows that the function has to be called for; a statement that sets the times itself calls nothing."""

# A time that an UPDATE leaves as it was belongs to the former status. One that the statement sets is left to the CHECKs.
FUNCTION = """
    DO $do$ BEGIN
        IF to_regprocedure('extensions.set_status_times()') IS NOT NULL THEN
            RETURN;
        END IF;
        CREATE FUNCTION extensions.set_status_times() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog AS $function$
DECLARE
    moment timestamptz := statement_timestamp();
BEGIN
    IF TG_ARGV[0] IN ('tasks', 'workflow_executions') THEN
        IF NEW.status = 'completed' THEN
            NEW.completed_at := coalesce(NEW.completed_at, moment);
        ELSIF TG_OP = 'UPDATE' THEN
            NEW.completed_at := nullif(NEW.completed_at, OLD.completed_at);
        END IF;
        IF NEW.status = 'failed' THEN
            NEW.failed_at := coalesce(NEW.failed_at, moment);
        ELSIF TG_OP = 'UPDATE' THEN
            NEW.failed_at := nullif(NEW.failed_at, OLD.failed_at);
        END IF;
        IF NEW.status = 'cancelled' THEN
            NEW.cancelled_at := coalesce(NEW.cancelled_at, moment);
        ELSIF TG_OP = 'UPDATE' THEN
            NEW.cancelled_at := nullif(NEW.cancelled_at, OLD.cancelled_at);
        END IF;
        IF NEW.status IN ('processing', 'running') THEN
            NEW.started_at := coalesce(NEW.started_at, moment);
        END IF;
    ELSIF TG_ARGV[0] = 'scheduler_executions' THEN
        IF NEW.status NOT IN ('pending', 'running') THEN
            NEW.end_time := coalesce(NEW.end_time, moment);
        ELSIF TG_OP = 'UPDATE' THEN
            NEW.end_time := nullif(NEW.end_time, OLD.end_time);
        END IF;
        IF NEW.status = 'running' THEN
            NEW.start_time := coalesce(NEW.start_time, moment);
        END IF;
    ELSIF NEW.status <> 'pending' THEN
        NEW.finished_at := coalesce(NEW.finished_at, moment);
    ELSIF TG_OP = 'UPDATE' THEN
        NEW.finished_at := nullif(NEW.finished_at, OLD.finished_at);
    END IF;
    IF TG_ARGV[0] <> 'broker_request' AND TG_OP = 'UPDATE' AND NEW.status NOT IN ('processing', 'running') THEN
        NEW.lease_expires_at := nullif(NEW.lease_expires_at, OLD.lease_expires_at);
        NEW.attempt_deadline_at := nullif(NEW.attempt_deadline_at, OLD.attempt_deadline_at);
        IF TG_ARGV[0] = 'workflow_executions' AND NEW.status <> 'pending' THEN
            NEW.waiting_for := nullif(NEW.waiting_for, OLD.waiting_for);
        END IF;
    END IF;
    RETURN NEW;
END
$function$;
    END $do$
"""


# The tenants are downgraded one by one; the last of them has the function dropped.
DROP = """
    DO $do$ BEGIN
        IF EXISTS (
            SELECT FROM pg_catalog.pg_proc
            WHERE pg_proc.oid = CAST(to_regprocedure('extensions.set_status_times()') AS oid)
                AND pg_has_role(proowner, 'USAGE')
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgfoid = pg_proc.oid)
        ) THEN
            DROP FUNCTION extensions.set_status_times();
        END IF;
    END $do$
"""


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            ddl(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    ddl(FUNCTION)
    if option("triggers") != "off":
        for table, condition in CONDITIONS.items():
            name = table.rpartition(".")[2]
            ddl(
                f"CREATE TRIGGER set_status_times BEFORE INSERT OR UPDATE OF status ON {table} FOR EACH ROW"
                f" WHEN ({condition}) EXECUTE FUNCTION extensions.set_status_times('{name}')"
            )


def downgrade() -> None:
    for table, columns in COLUMNS.items():
        refuse_values(
            table, " OR ".join(f"{name} IS NOT NULL" for name in columns), "of the platforms' columns"
        )
    for table in CONDITIONS:
        ddl(f"DROP TRIGGER IF EXISTS set_status_times ON {table}")
    ddl(DROP)
    for table, columns in COLUMNS.items():
        for name in reversed(columns):
            ddl(f"ALTER TABLE {table} DROP COLUMN {name}")
