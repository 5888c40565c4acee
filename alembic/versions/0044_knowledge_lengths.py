"""Knowledge collections with vectors of any length, and points with a time to live.

Lock impact: knowledge_points and knowledge_collections are locked for a moment. Each partition that holds rows gets its index
CONCURRENTLY, outside of a transaction.
"""

from __future__ import annotations

from alfred_db.migrate.operations_v1 import ddl, refuse_values
from alfred_db.migrate.operations_v2 import build_partitioned_indexes, drop_index, type_of_extension

revision = "alfred_0044_knowledge_lengths"
down_revision = "alfred_0043_memory_words"
branch_labels = None
depends_on = None

INDEX = {"idx_knowledge_points_expires_at": "(expires_at) WHERE expires_at IS NOT NULL"}

CHECK = "ck_knowledge_collections_dimensions"


def upgrade() -> None:
    vector = type_of_extension("vector", "vector")
    # What stands before the indexes is committed as soon as a collection holds points, and must bear to be done again.
    for name in INDEX:
        drop_index(name)
    ddl(f"ALTER TABLE knowledge_points ADD COLUMN IF NOT EXISTS other_embedding {vector}")
    ddl("ALTER TABLE knowledge_points ADD COLUMN IF NOT EXISTS expires_at TIMESTAMP WITH TIME ZONE")
    ddl(f"ALTER TABLE knowledge_collections DROP CONSTRAINT IF EXISTS {CHECK}")
    ddl(
        f"ALTER TABLE knowledge_collections ADD CONSTRAINT {CHECK} CHECK (dimensions >= 1 AND dimensions <= 16000)"
    )
    build_partitioned_indexes("knowledge_points", INDEX)


def downgrade() -> None:
    refuse_values("knowledge_collections", "dimensions <> 1536", "with other lengths than 1536")
    ddl(f"ALTER TABLE knowledge_collections DROP CONSTRAINT {CHECK}")
    ddl(f"ALTER TABLE knowledge_collections ADD CONSTRAINT {CHECK} CHECK (dimensions = 1536)")
    for name in INDEX:
        ddl(f"DROP INDEX {name}")
    refuse_values("knowledge_points", "expires_at IS NOT NULL", "with a time to live")
    ddl("ALTER TABLE knowledge_points DROP COLUMN expires_at")
    ddl("ALTER TABLE knowledge_points DROP COLUMN other_embedding")
