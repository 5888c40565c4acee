"""Knowledge collections with vectors of any length, and points with a time to live.

Collections that compare by another distance than cosine get an index, as new ones do.

Lock impact: knowledge_points and knowledge_collections are locked for a moment. Each partition that holds rows gets its
indexes CONCURRENTLY, outside of a transaction.
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

from alfred_db.migrate.operations_v1 import ddl, full_name, refuse_values
from alfred_db.migrate.operations_v2 import build_partitioned_indexes, drop_index, type_of_extension

revision = "alfred_0044_knowledge_lengths"
down_revision = "alfred_0043_memory_words"
branch_labels = None
depends_on = None

INDEX = {"idx_knowledge_points_expires_at": "(expires_at) WHERE expires_at IS NOT NULL"}

CHECK = "ck_knowledge_collections_dimensions"

# A partition is found by its bound: its name follows from the collection's in Python only.
OTHER = """
    SELECT c.oid, c.relname, CASE CAST(k.distance AS text)
        WHEN 'dot' THEN 'vector_ip_ops' WHEN 'euclid' THEN 'vector_l2_ops' ELSE 'vector_l1_ops' END AS class
    FROM {collections} AS k
    JOIN pg_catalog.pg_class AS c
        ON c.relispartition AND pg_catalog.pg_get_expr(c.relpartbound, c.oid) IN ({bounds})
    JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = c.oid
    WHERE CAST(k.distance AS text) <> 'cosine' AND i.inhparent = CAST(CAST('{points}' AS regclass) AS oid)
    ORDER BY c.relname
"""

# As `standard_conforming_strings` has it, on or off.
QUOTED = "pg_catalog.replace(CAST(k.name AS text), '''', '''''')"
DOUBLED = f"pg_catalog.replace({QUOTED}, pg_catalog.chr(92), pg_catalog.repeat(pg_catalog.chr(92), 2))"
BOUNDS = ", ".join(f"'FOR VALUES IN (''' || {quoted} || ''')'" for quoted in (QUOTED, DOUBLED))

BUILD = """
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN {other} LOOP
        EXECUTE pg_catalog.format(
            'CREATE INDEX %I ON %s USING hnsw (embedding %s) WITH (m = 16, ef_construction = 64)',
            'idx_distance_' || pg_catalog."right"(CAST(found.relname AS text), 50), CAST(found.oid AS regclass), found.class
        );
    END LOOP;
END $$
"""

# Those of collections that were created since then have other names.
DROP = """
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT x.indexrelid FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_index AS x ON x.indrelid = i.inhrelid AND x.indnatts = 1
        JOIN pg_catalog.pg_opclass AS o ON o.oid = x.indclass[0]
        WHERE i.inhparent = CAST(CAST('{points}' AS regclass) AS oid)
            AND CAST(o.opcname AS text) IN ('vector_' || 'ip_ops', 'vector_' || 'l2_ops', 'vector_' || 'l1_ops')
    LOOP
        EXECUTE pg_catalog.format('DROP INDEX %s', CAST(found.indexrelid AS regclass));
    END LOOP;
END $$
"""


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
    _index_other_distances()


def _index_other_distances() -> None:
    if context.config.attributes.get("rehearsal") is not None:
        return
    points = full_name("knowledge_points")
    names = {"collections": full_name("knowledge_collections"), "points": points.replace("'", "''")}
    other = OTHER.format(**names, bounds=BOUNDS)
    if context.is_offline_mode():
        ddl(BUILD.format(other=other))
        return
    found = op.get_bind().execute(text(other)).all()
    if not found:
        return
    schema = points.rpartition(".")[0]
    with op.get_context().autocommit_block():
        for row in found:
            operators = type_of_extension("vector", row[2])
            index = f"idx_distance_{row.relname[-50:]}"
            op.execute(f'DROP INDEX CONCURRENTLY IF EXISTS {schema}."{index}"')  # an earlier try's
            ddl(
                f'CREATE INDEX CONCURRENTLY "{index}" ON {schema}."{row.relname}"'
                f" USING hnsw (embedding {operators}) WITH (m = 16, ef_construction = 64)"
            )


def downgrade() -> None:
    ddl(DROP.format(points=full_name("knowledge_points").replace("'", "''")))
    refuse_values("knowledge_collections", "dimensions <> 1536", "with other lengths than 1536")
    ddl(f"ALTER TABLE knowledge_collections DROP CONSTRAINT {CHECK}")
    ddl(f"ALTER TABLE knowledge_collections ADD CONSTRAINT {CHECK} CHECK (dimensions = 1536)")
    for name in INDEX:
        ddl(f"DROP INDEX {name}")
    refuse_values("knowledge_points", "expires_at IS NOT NULL", "with a time to live")
    ddl("ALTER TABLE knowledge_points DROP COLUMN expires_at")
    ddl("ALTER TABLE knowledge_points DROP COLUMN other_embedding")
