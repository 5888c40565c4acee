"""Schemas of the catalogs that all tenants share.

Lock impact: none.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import create_schemas, drop_schemas, shared

revision = "alfred_0002_shared_schemas"
down_revision = "alfred_0001_extensions"
branch_labels = None
depends_on = None

SCHEMAS = ("auth", "storage", "model_registry", "brk_registry")


@shared
def upgrade() -> None:
    create_schemas(*SCHEMAS)


@shared
def downgrade() -> None:
    drop_schemas(*SCHEMAS)
