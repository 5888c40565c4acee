"""Buckets and objects: the metadata of blobs, read from Supabase's tables where they exist.

Lock impact: none on tables that exist; only new ones are made.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import create_unless_exists, drop_if_made_here, shared, trigger_of

revision = "alfred_0005_storage"
down_revision = "alfred_0004_auth"
branch_labels = None
depends_on = None


@shared
def upgrade() -> None:
    create_unless_exists(
        "storage.buckets",
        """
        CREATE TABLE storage.buckets (
            id TEXT NOT NULL,
            name TEXT NOT NULL,
            owner UUID,
            public BOOLEAN DEFAULT false NOT NULL,
            file_size_limit BIGINT,
            allowed_mime_types TEXT[],
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_buckets PRIMARY KEY (id),
            CONSTRAINT uq_buckets_name UNIQUE (name)
        )
    """,
        trigger_of("storage.buckets"),
    )
    create_unless_exists(
        "storage.objects",
        """
        CREATE TABLE storage.objects (
            id UUID DEFAULT extensions.uuid_generate_v4() NOT NULL,
            bucket_id TEXT,
            name TEXT,
            owner UUID,
            metadata JSONB,
            path_tokens TEXT[] GENERATED ALWAYS AS (string_to_array(name, '/'::text)) STORED,
            version TEXT,
            last_accessed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            CONSTRAINT pk_objects PRIMARY KEY (id),
            CONSTRAINT uq_objects_bucket_id_name UNIQUE (bucket_id, name),
            CONSTRAINT fk_objects_bucket_id FOREIGN KEY (bucket_id) REFERENCES storage.buckets (id)
        )
    """,
        "CREATE INDEX idx_objects_bucket_id_name ON storage.objects (bucket_id, name text_pattern_ops)",
        trigger_of("storage.objects"),
    )


@shared
def downgrade() -> None:
    drop_if_made_here("storage.objects")
    drop_if_made_here("storage.buckets")
