"""A bound of the cache that is kept by itself; moving windows; prefixes of keys as ranges of an index.

Lock impact: short ACCESS EXCLUSIVE locks on the cache and on the rate limits, whose index on the key is built anew. Both
are small or may be emptied first: `TRUNCATE cache`.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, full_name, refuse_values

revision = "alfred_0033_cache_bounds"
down_revision = "alfred_0032_redis_roles"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ddl('ALTER TABLE cache ALTER COLUMN key TYPE TEXT COLLATE "C"')
    ddl('ALTER TABLE rate_limits ALTER COLUMN key TYPE TEXT COLLATE "C"')
    ddl("ALTER TABLE rate_limits ADD COLUMN entries BIGINT[]")
    ddl(f"""
        CREATE TABLE {full_name("cache_bounds")} (
            id SMALLINT NOT NULL,
            entries BIGINT,
            bytes BIGINT,
            CONSTRAINT pk_cache_bounds PRIMARY KEY (id),
            CONSTRAINT ck_cache_bounds_id CHECK (id = 1)
        )
    """)


def downgrade() -> None:
    refuse_values("rate_limits", "entries IS NOT NULL", "of moving windows")
    drop_tables("cache_bounds")
    ddl("ALTER TABLE rate_limits DROP COLUMN entries")
    ddl("ALTER TABLE rate_limits ALTER COLUMN key TYPE TEXT")
    ddl("ALTER TABLE cache ALTER COLUMN key TYPE TEXT")
