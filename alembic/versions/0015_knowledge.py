"""Knowledge collections and their points, a partition for each collection.

Lock impact: none on tables that exist; only new ones are made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, drop_tables, updated_by_trigger

revision = "alfred_0015_knowledge"
down_revision = "alfred_0014_rag"
branch_labels = None
depends_on = None

COLLECTIONS = ("general-knowledge", "financial-knowledge", "legal-knowledge", "social-knowledge")


def upgrade() -> None:
    ddl("""
        CREATE TABLE knowledge_collections (
            name TEXT NOT NULL,
            dimensions INTEGER DEFAULT 1536 NOT NULL,
            distance TEXT DEFAULT 'cosine' NOT NULL,
            description TEXT,
            embedding_model TEXT,
            metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_knowledge_collections PRIMARY KEY (name),
            CONSTRAINT ck_knowledge_collections_distance CHECK (distance IN ('cosine', 'dot', 'euclid', 'manhattan')),
            CONSTRAINT ck_knowledge_collections_dimensions CHECK (dimensions = 1536)
        )
    """)
    ddl("INSERT INTO knowledge_collections (name) VALUES " + ", ".join(f"('{name}')" for name in COLLECTIONS))
    updated_by_trigger("knowledge_collections")
    ddl("""
        CREATE TABLE knowledge_aliases (
            alias TEXT NOT NULL,
            collection TEXT NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_knowledge_aliases PRIMARY KEY (alias),
            CONSTRAINT fk_knowledge_aliases_collection FOREIGN KEY (collection) REFERENCES knowledge_collections (name) ON DELETE CASCADE
        )
    """)
    ddl("CREATE INDEX idx_knowledge_aliases_collection ON knowledge_aliases (collection)")
    updated_by_trigger("knowledge_aliases")
    ddl("""
        CREATE TABLE knowledge_points (
            collection TEXT NOT NULL,
            id TEXT NOT NULL,
            embedding VECTOR(1536),
            payload JSONB DEFAULT '{}'::jsonb NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            search TSVECTOR GENERATED ALWAYS AS (to_tsvector('english'::regconfig, "left"(COALESCE(payload ->> 'text'::text, payload ->> 'content'::text, payload ->> 'page_content'::text, payload ->> 'document'::text, ''::text), 100000))) STORED,
            CONSTRAINT pk_knowledge_points PRIMARY KEY (collection, id),
            CONSTRAINT fk_knowledge_points_collection FOREIGN KEY (collection) REFERENCES knowledge_collections (name)
        )
        PARTITION BY LIST (collection)
    """)
    ddl("""
        CREATE INDEX idx_knowledge_points_embedding ON knowledge_points
        USING hnsw (embedding vector_cosine_ops)
        WITH (m = 16, ef_construction = 64)
    """)
    ddl("CREATE INDEX idx_knowledge_points_payload ON knowledge_points USING gin (payload jsonb_path_ops)")
    ddl("CREATE INDEX idx_knowledge_points_search ON knowledge_points USING gin (search)")
    for name in COLLECTIONS:
        partition = f"knowledge_points_{name.replace('-', '_')}"
        ddl(f"CREATE TABLE {partition} PARTITION OF knowledge_points FOR VALUES IN ('{name}')")
    updated_by_trigger("knowledge_points")


def downgrade() -> None:
    drop_tables("knowledge_points", "knowledge_aliases")
    ddl(
        "DELETE FROM knowledge_collections WHERE name IN ("
        + ", ".join(f"'{name}'" for name in COLLECTIONS)
        + ")"
    )
    drop_tables("knowledge_collections")
