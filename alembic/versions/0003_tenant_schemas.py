"""Schemas of the default tenant; a named tenant has these tables in its own schema.

Lock impact: none.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import create_schemas, drop_schemas, option

revision = "alfred_0003_tenant_schemas"
down_revision = "alfred_0002_shared_schemas"
branch_labels = None
depends_on = None

SCHEMAS = ("wm", "entity", "brk_tracking")


def upgrade() -> None:
    if option("schema") is None:
        create_schemas(*SCHEMAS)


def downgrade() -> None:
    if option("schema") is None:
        drop_schemas(*SCHEMAS)
