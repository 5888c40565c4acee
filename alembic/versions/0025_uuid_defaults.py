"""Keys made by PostgreSQL's own gen_random_uuid(), so that a dump is restored where uuid-ossp is absent.

`extensions.uuid_generate_v4()` stays for raw SQL.

Lock impact: each of the tables is locked for a moment; no row is touched.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl

revision = "alfred_0025_uuid_defaults"
down_revision = "alfred_0024_shared_functions"
branch_labels = None
depends_on = None

TABLES = (
    "tasks",
    "task_results",
    "agent_registry",
    "memory_entries",
    "wm.working_memory",
    "entity.entity_node",
    "entity.entity_edge",
)


def upgrade() -> None:
    for table in TABLES:
        ddl(f"ALTER TABLE {table} ALTER COLUMN id SET DEFAULT gen_random_uuid()")


def downgrade() -> None:
    for table in TABLES:
        ddl(f"ALTER TABLE {table} ALTER COLUMN id SET DEFAULT extensions.uuid_generate_v4()")
