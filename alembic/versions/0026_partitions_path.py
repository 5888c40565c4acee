"""The function that makes partitions looks up everything in pg_catalog, whatever the search_path of who calls it.

Lock impact: none on tables.
"""

from __future__ import annotations

from alfred_db.revisions import ddl, shared

revision = "alfred_0026_partitions_path"
down_revision = "alfred_0025_uuid_defaults"
branch_labels = None
depends_on = None


@shared
def upgrade() -> None:
    ddl(
        "ALTER FUNCTION extensions.make_month_partitions(regclass, integer) SET search_path = pg_catalog, pg_temp"
    )


@shared
def downgrade() -> None:
    ddl("ALTER FUNCTION extensions.make_month_partitions(regclass, integer) RESET search_path")
