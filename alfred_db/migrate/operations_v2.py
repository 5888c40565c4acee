"""Operations of the revisions, version 2: what version 1 lacks. Frozen by a release, as version 1 is.

It reads the same attributes of Alembic's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from alembic import context, op
from sqlalchemy import text

from .operations_v1 import ddl, full_name

__all__ = ["build_partitioned_indexes", "build_schema_indexes", "drop_index", "type_of_extension"]


def drop_index(name: str) -> None:
    """Drop an index that an earlier try of the same revision may have left behind."""
    if context.config.attributes.get("rehearsal") is None:
        op.execute(f"DROP INDEX IF EXISTS {full_name(name)}")


def type_of_extension(extension: str, name: str) -> str:
    """Return the name of a type with the schema of its extension; `ddl` adds it only to types with a length.

    A script has the name alone: the search_path of the role that runs it has the extension.
    """
    rehearsed = context.config.attributes.get("rehearsal") is not None
    home = None
    if not rehearsed and not context.is_offline_mode():
        home = op.get_bind().scalar(text(_HOME_OF), {"extension": extension})
    return name if home is None else f"{_quoted(home)}.{name}"


_HOME_OF = """
    SELECT n.nspname FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace
    WHERE e.extname = CAST(:extension AS text)
"""


def build_partitioned_indexes(table: str, indexes: Mapping[str, str]) -> None:
    """Build the named indexes of a partitioned table; an index is what follows ON the table.

    The table is named with its schema.

    Where a partition holds rows, each partition gets its index CONCURRENTLY, outside of a transaction, so that it is
    written meanwhile. PostgreSQL cannot do that for a partitioned table, whose own index becomes valid with the last of
    them. What the revision did before is committed, and must bear to be done again. An empty table gets them in the
    transaction, and so does one that a script is written for, since the script cannot know the partitions.
    """
    if context.config.attributes.get("rehearsal") is not None:
        return
    whole = full_name(table)
    if context.is_offline_mode() or not op.get_bind().scalar(text(f"SELECT EXISTS (SELECT FROM {whole})")):
        for name, definition in indexes.items():
            ddl(f"CREATE INDEX {name} ON {table} {definition}")
        return
    schema = whole.rpartition(".")[0]
    with op.get_context().autocommit_block():
        for name, definition in indexes.items():
            op.execute(
                f"DROP INDEX IF EXISTS {schema}.{name}"
            )  # an earlier try's, with those of the partitions
            op.execute(f"CREATE INDEX {name} ON ONLY {whole} {definition}")
            for partition in op.get_bind().scalars(text(_PARTITIONS), {"table": whole}).all():
                own = f"{schema}.{_index_of(partition, name)}"
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {own}")
                op.execute(
                    f"CREATE INDEX CONCURRENTLY {own.rpartition('.')[2]} ON {schema}.{_quoted(partition)} {definition}"
                )
                op.execute(f"ALTER INDEX {schema}.{name} ATTACH PARTITION {own}")


def build_schema_indexes(table: str, indexes: Mapping[str, str]) -> None:
    """Build the named indexes of a table that is named with its schema; an index is what follows ON the table.

    A table that holds rows gets them CONCURRENTLY, as `build_indexes` of version 1 does, and so does one of a script
    that starts from a revision.
    """
    if context.config.attributes.get("rehearsal") is not None:
        return
    whole = full_name(table)
    if context.is_offline_mode():
        filled = context.get_starting_revision_argument() is not None
    else:
        filled = bool(op.get_bind().scalar(text(f"SELECT EXISTS (SELECT FROM {whole})")))
    if not filled:
        for name, definition in indexes.items():
            ddl(f"CREATE INDEX {name} ON {table} {definition}")
        return
    with op.get_context().autocommit_block():
        for name, definition in indexes.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {whole.rpartition('.')[0]}.{name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {whole} {definition}")


_PARTITIONS = """
    SELECT c.relname FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = CAST(CAST(CAST(:table AS text) AS regclass) AS oid) ORDER BY c.relname
"""


def _index_of(partition: str, index: str) -> str:
    """Name the index of a partition; the end of the partition's name has its month, and is kept."""
    return _quoted(f"{index[:40]}_{partition[-20:]}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
