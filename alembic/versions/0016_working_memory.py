"""Working memory.

Lock impact: none on tables that exist; only new ones are made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, trigram_index, updated_by_trigger

revision = "alfred_0016_working_memory"
down_revision = "alfred_0015_knowledge"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ddl("""
        CREATE TABLE wm.working_memory (
            id UUID DEFAULT extensions.uuid_generate_v4() NOT NULL,
            name TEXT NOT NULL,
            memory_type TEXT NOT NULL,
            provider TEXT,
            status TEXT DEFAULT 'active' NOT NULL,
            blob_key TEXT,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            embedding VECTOR(1536),
            content TEXT,
            session_id TEXT,
            agent TEXT,
            embedding_model TEXT,
            metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            expires_at TIMESTAMP WITH TIME ZONE,
            CONSTRAINT pk_working_memory PRIMARY KEY (id),
            CONSTRAINT ck_working_memory_status CHECK (status IN ('pending', 'active', 'archived', 'deleted'))
        )
        WITH (fillfactor = 80)
    """)
    ddl("""
        CREATE INDEX embedding_idx ON wm.working_memory
        USING hnsw (embedding vector_cosine_ops)
        WITH (m = 16, ef_construction = 64)
    """)
    ddl("CREATE INDEX idx_working_memory_agent_created_at ON wm.working_memory (agent, created_at)")
    ddl("""
        CREATE INDEX idx_working_memory_blob_key ON wm.working_memory (blob_key)
        WHERE blob_key IS NOT NULL
    """)
    ddl("CREATE INDEX idx_working_memory_created_at ON wm.working_memory (created_at)")
    ddl("""
        CREATE INDEX idx_working_memory_expires_at ON wm.working_memory (expires_at)
        WHERE expires_at IS NOT NULL
    """)
    ddl("""
        CREATE INDEX idx_working_memory_session_id_created_at ON wm.working_memory (session_id, created_at)
    """)
    trigram_index("wm.working_memory", "name")
    updated_by_trigger("wm.working_memory")


def downgrade() -> None:
    drop_tables("wm.working_memory")
