"""Indexes of metadata, of pending requests, and of the results of a test run.

Lock impact: indexes of tables that hold rows are built CONCURRENTLY, outside of a transaction; the tables are written
meanwhile. Each partition of the request log gets its index for itself.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import build_indexes, ddl
from alfred_db.migrate.operations_v2 import build_partitioned_indexes, build_schema_indexes, drop_index

revision = "alfred_0034_filter_indexes"
down_revision = "alfred_0033_cache_bounds"
branch_labels = None
depends_on = None

INDEXES = {
    ("memories", "alfred_0012_memories"): {
        "idx_memories_metadata": "USING gin (metadata jsonb_path_ops)",
    },
    ("memory_entries", "alfred_0012_memories"): {
        "idx_memory_entries_metadata": "USING gin (metadata jsonb_path_ops)",
    },
    ("wm.working_memory", "alfred_0016_working_memory"): {
        "idx_working_memory_metadata": "USING gin (metadata jsonb_path_ops)",
    },
    ("test_results", "alfred_0021_validation"): {
        "idx_test_results_figures": (
            "(test_run_id, test_case_id, metric_name, id DESC) INCLUDE (metric_value, higher_is_better)"
            " WHERE metric_value IS NOT NULL"
        ),
        "idx_test_results_fail": "(test_run_id, id) WHERE status = 'fail'",
    },
}

REQUESTS = {"idx_broker_request_pending": "(created_at, id) WHERE status = 'pending'"}


def upgrade() -> None:
    # What was built before a failure is committed as soon as one table holds rows.
    for (table, _), indexes in INDEXES.items():
        for name in indexes:
            drop_index(_of(table, name))
    for name in REQUESTS:
        drop_index(f"brk_tracking.{name}")
    for (table, made_by), indexes in INDEXES.items():
        if "." in table:
            build_schema_indexes(table, indexes)
        else:
            build_indexes(table, made_by, indexes)
    build_partitioned_indexes("brk_tracking.broker_request", REQUESTS)


def downgrade() -> None:
    for (table, _), indexes in INDEXES.items():
        for name in indexes:
            ddl(f"DROP INDEX {_of(table, name)}")
    for name in REQUESTS:
        ddl(f"DROP INDEX brk_tracking.{name}")


def _of(table: str, index: str) -> str:
    schema, dot, _ = table.rpartition(".")
    return f"{schema}{dot}{index}"
