"""Indexes that keep lists and purges flat while the tables grow.

Lock impact: indexes of tables that hold rows are built CONCURRENTLY, outside of a transaction, each partition of the
request log for itself; the tables are written meanwhile. To drop the indexes that are replaced takes short ACCESS
EXCLUSIVE locks.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import build_indexes, ddl
from alfred_db.migrate.operations_v2 import build_partitioned_indexes, drop_index

revision = "alfred_0031_growth_indexes"
down_revision = "alfred_0030_sessions"
branch_labels = None
depends_on = None

HASH = "pg_catalog.hashtextextended"

TASKS = {
    "idx_tasks_cancelled": "(cancelled_at) WHERE status = 'cancelled'",
    "idx_tasks_intent": f"({HASH}(intent, 1), id)",
    "idx_tasks_assigned_to": f"({HASH}(assigned_to, 1), id) WHERE assigned_to IS NOT NULL",
    "idx_tasks_queue": f"({HASH}(queue, 1), id) WHERE queue <> 'default'",
    "idx_tasks_created_at": "USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on)",
}
REQUESTS = {
    "idx_broker_request_session_id": f"({HASH}(session_id, 0), created_at, id) WHERE session_id IS NOT NULL",
    "idx_broker_request_provider": f"({HASH}(provider, 0), created_at) WHERE provider IS NOT NULL",
    "idx_broker_request_agent_name": (
        "(pg_catalog.hashtext(agent_name), created_at, id) WHERE agent_name IS NOT NULL"
    ),
}
REPLACED = {
    ("workflow_executions", "alfred_0020_workflows"): {
        "idx_workflow_executions_workflow_id": ("(workflow_id)", "(workflow_id, id)"),
        "idx_workflow_executions_parent_execution_id": (
            "(parent_execution_id) WHERE parent_execution_id IS NOT NULL",
            "(parent_execution_id, id) WHERE parent_execution_id IS NOT NULL",
        ),
    },
    ("rag_query_documents", "alfred_0014_rag"): {
        "idx_rag_query_documents_document_id": ("(document_id)", "(document_id, query_id)"),
    },
    ("test_results", "alfred_0021_validation"): {
        "idx_test_results_test_run_id": ("(test_run_id)", "(test_run_id, id)"),
    },
}


def upgrade() -> None:
    # What was built before a failure is committed as soon as one table holds rows.
    for name in (*TASKS, *(f"brk_tracking.{name}" for name in REQUESTS)):
        drop_index(name)
    build_indexes("tasks", "alfred_0008_tasks", TASKS)
    build_partitioned_indexes("brk_tracking.broker_request", REQUESTS)
    _replace(1)


def downgrade() -> None:
    for name in TASKS:
        ddl(f"DROP INDEX {name}")
    for name in REQUESTS:
        ddl(f"DROP INDEX brk_tracking.{name}")
    _replace(0)


def _replace(which: int) -> None:
    """Put the wider index, or the narrower one, in the place of the other: built first, dropped and renamed after."""
    for indexes in REPLACED.values():
        for name in indexes:
            drop_index(f"{name}_new")
    for (table, made_by), indexes in REPLACED.items():
        build_indexes(table, made_by, {f"{name}_new": both[which] for name, both in indexes.items()})
    for indexes in REPLACED.values():
        for name in indexes:
            ddl(f"DROP INDEX {name}")
            ddl(f"ALTER INDEX {name}_new RENAME TO {name}")
