"""The cache, rate limits, and web sessions.

Lock impact: none on tables that exist; only new ones are made. The cache and the rate limits are UNLOGGED.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, full_name

revision = "alfred_0032_redis_roles"
down_revision = "alfred_0031_growth_indexes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ddl(f"""
        CREATE UNLOGGED TABLE {full_name("cache")} (
            key TEXT NOT NULL,
            value BYTEA,
            number BIGINT,
            set_us BIGINT NOT NULL,
            expires_us BIGINT NOT NULL,
            CONSTRAINT pk_cache PRIMARY KEY (key),
            CONSTRAINT ck_cache_value CHECK ((value IS NULL) <> (number IS NULL))
        )
        WITH (fillfactor = 70)
    """)
    ddl(f"""
        CREATE UNLOGGED TABLE {full_name("cache_claims")} (
            key TEXT NOT NULL,
            token UUID NOT NULL,
            claimed_us BIGINT NOT NULL,
            expires_us BIGINT NOT NULL,
            CONSTRAINT pk_cache_claims PRIMARY KEY (key)
        )
        WITH (fillfactor = 70)
    """)
    ddl(f"""
        CREATE UNLOGGED TABLE {full_name("rate_limits")} (
            key TEXT NOT NULL,
            at_us BIGINT NOT NULL,
            start_us BIGINT NOT NULL,
            hits BIGINT NOT NULL,
            previous BIGINT NOT NULL,
            expires_us BIGINT NOT NULL,
            CONSTRAINT pk_rate_limits PRIMARY KEY (key)
        )
        WITH (fillfactor = 70)
    """)
    ddl("""
        CREATE TABLE web_sessions (
            id BYTEA NOT NULL,
            user_id TEXT,
            data JSONB DEFAULT '{}'::jsonb NOT NULL,
            created_us BIGINT NOT NULL,
            seen_us BIGINT NOT NULL,
            idle_us BIGINT NOT NULL,
            expires_us BIGINT NOT NULL,
            CONSTRAINT pk_web_sessions PRIMARY KEY (id)
        )
        WITH (fillfactor = 70)
    """)
    ddl("CREATE INDEX idx_web_sessions_user_id ON web_sessions (user_id)")


def downgrade() -> None:
    drop_tables("web_sessions", "rate_limits", "cache_claims", "cache")
