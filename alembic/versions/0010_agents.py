"""The agent registry.

Lock impact: none on tables that exist; only new ones are made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, updated_by_trigger

revision = "alfred_0010_agents"
down_revision = "alfred_0009_messages"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ddl("""
        CREATE TABLE agent_registry (
            id UUID DEFAULT extensions.uuid_generate_v4() NOT NULL,
            name TEXT NOT NULL,
            type TEXT NOT NULL,
            version TEXT NOT NULL,
            status TEXT DEFAULT 'inactive' NOT NULL,
            endpoint_url TEXT,
            health_check_url TEXT,
            capabilities JSONB DEFAULT '[]'::jsonb NOT NULL,
            configuration JSONB DEFAULT '{}'::jsonb NOT NULL,
            last_heartbeat TIMESTAMP WITH TIME ZONE,
            registered_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            incarnation UUID DEFAULT gen_random_uuid() NOT NULL,
            CONSTRAINT pk_agent_registry PRIMARY KEY (id),
            CONSTRAINT uq_agent_registry_name UNIQUE (name),
            CONSTRAINT ck_agent_registry_status CHECK (status IN ('active', 'inactive', 'maintenance'))
        )
        WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01)
    """)
    ddl("""
        CREATE INDEX idx_agent_registry_capabilities ON agent_registry
        USING gin (capabilities jsonb_path_ops)
    """)
    updated_by_trigger("agent_registry")


def downgrade() -> None:
    drop_tables("agent_registry")
