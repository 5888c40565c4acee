"""A directory of the tenants that are on other servers.

Lock impact: none on tables that exist; only a new one is made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, option

revision = "alfred_0042_servers"
down_revision = "alfred_0041_schedule_tasks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # No tenant needs it, so that it is not one of the catalogs that tenants keep.
    if option("schema") is None:
        ddl("""
            CREATE TABLE extensions.alfred_db_servers (
                tenant TEXT NOT NULL,
                url TEXT NOT NULL,
                state TEXT NOT NULL,
                changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
                CONSTRAINT pk_alfred_db_servers PRIMARY KEY (tenant),
                CONSTRAINT ck_alfred_db_servers_state CHECK (state IN ('moving', 'moved'))
            )
        """)


def downgrade() -> None:
    if option("schema") is None:
        drop_tables("extensions.alfred_db_servers")
