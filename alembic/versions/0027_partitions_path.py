"""The function that makes partitions looks up everything in pg_catalog, whatever the search_path of who calls it.

Lock impact: none on tables.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, option

revision = "alfred_0027_partitions_path"
down_revision = "alfred_0026_task_dedupe"
branch_labels = None
depends_on = None

# A routine is a function; the revision that makes the function is the one that is named when it is missing.
SET = "ALTER ROUTINE extensions.make_month_partitions(regclass, integer) {} search_path"


def upgrade() -> None:
    if option("schema") is None:
        ddl(SET.format("SET") + " = pg_catalog, pg_temp")


# Not marked as `shared`: tenants need nothing of it, so that a downgrade need not wait until they are gone.
def downgrade() -> None:
    if option("schema") is None:
        ddl(SET.format("RESET"))
