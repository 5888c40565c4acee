"""The words of memories and of memory entries, stored beside their texts.

Lock impact: each of the two tables is locked for a moment. Existing rows get their words five hundred at a time, each
batch in a transaction of its own, while they are read and written.
"""

from __future__ import annotations

from alembic import context, op
from sqlalchemy import text

from alfred_db.migrate.operations_v1 import ddl, full_name

revision = "alfred_0043_memory_words"
down_revision = "alfred_0042_servers"
branch_labels = None
depends_on = None

BATCH = 500

TABLES = {"memories": ("bigint", "0"), "memory_entries": ("uuid", "00000000-0000-0000-0000-000000000000")}
"""The type of the key of each table, and a value before all others."""

# The trigger would set updated_at to now if it stayed the same: a memory would look as if it had been written today.
WORDS = """
    search = pg_catalog.to_tsvector(CAST('pg_catalog.english' AS pg_catalog.regconfig), pg_catalog."left"(m.content, 100000)),
    search_hash = pg_catalog.hashtextextended(m.content, CAST(0 AS bigint)),
    updated_at = m.updated_at + CAST('1 microsecond' AS interval)
"""

# Rows are locked in the order of their keys, as all writers do. What is written meanwhile has its words already.
NEXT = """
    WITH batch AS MATERIALIZED (
        SELECT b.id FROM {table} AS b WHERE b.id {from_here} CAST(:after AS {key}) ORDER BY b.id LIMIT {batch}
        FOR NO KEY UPDATE
    ),
    written AS (
        UPDATE {table} AS m SET {words} FROM batch WHERE m.id = batch.id AND m.search_hash IS NULL RETURNING m.id
    )
    SELECT CAST(b.id AS text) FROM batch AS b ORDER BY b.id DESC LIMIT 1
"""


def upgrade() -> None:
    # What stands before the batches is committed with the first of them, and must bear to be done again.
    for table in TABLES:
        ddl(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS search TSVECTOR")
        ddl(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS search_hash BIGINT")
    # With its words a row of usual length would be longer than 2 kB, and its vector would be moved out of it.
    ddl("ALTER TABLE memories SET (toast_tuple_target = 2800)")
    for table in TABLES:
        if context.is_offline_mode():
            ddl(f"UPDATE {table} AS m SET {WORDS} WHERE m.search_hash IS NULL")
        else:
            _fill(table)


def _fill(table: str) -> None:
    name, (key, first) = full_name(table), TABLES[table]
    if not op.get_bind().scalar(text(f"SELECT EXISTS (SELECT FROM {name})")):
        return
    parts = {"table": name, "key": key, "batch": BATCH, "words": WORDS}
    start, further = (text(NEXT.format(**parts, from_here=operator)) for operator in (">=", ">"))
    with op.get_context().autocommit_block():
        after = op.get_bind().scalar(start, {"after": first})
        while after is not None:
            after = op.get_bind().scalar(further, {"after": after})


def downgrade() -> None:
    # They hold nothing that the texts do not say.
    ddl("ALTER TABLE memories RESET (toast_tuple_target)")
    for table in reversed(TABLES):
        ddl(f"ALTER TABLE {table} DROP COLUMN search_hash")
        ddl(f"ALTER TABLE {table} DROP COLUMN search")
