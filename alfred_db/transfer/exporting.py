"""The export of tables to files: in parts by their keys, with a manifest that a later run continues."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Table

from .. import migrate
from ..config import command, database_url, tenant_schema
from ..errors import ConflictError, InvalidInputError, SchemaOutdatedError, translated
from ..sql import qualified, quoted
from .driver import Driver, connected
from .lines import LineWriter
from .manifest import Manifest, Part, TableExport, checksum_of
from .places import places_of
from .tables import chosen, columns_of, key_of, pages, vector_columns

__all__ = ["PART", "TransferProgress", "export_tables"]

PART = 20_000
"""Rows of a part, which are written and read as one."""


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How far an export or an import of one table has come."""

    table: str
    rows: int
    total: int | None
    """All rows; an export does not know them."""


def export_tables(
    folder: str | Path,
    url: str | URL | None = None,
    *,
    schema: str | None = None,
    tables: Collection[str] = (),
    kind: str = "jsonl",
    part: int = PART,
    progress: Callable[[TransferProgress], None] | None = None,
) -> Manifest:
    """Export tables to a folder, or continue an export that was interrupted.

    The rows of one run are those of one moment. A run that continues another one sees the rows of its own moment.

    Args:
        folder: The folder; it is created if it does not exist.
        url: The database; None is that of the environment.
        schema: The tenant; None is the default tenant, with the catalogs that all share.
        tables: The full names of the tables, such as `tasks` or `wm.working_memory`; empty is all that are of use elsewhere.
        kind: `jsonl`, with vectors as .npy files; or `parquet`, which needs the extra `parquet`.
        part: Rows of a file.
        progress: Called after each part.

    Raises:
        ConflictError: The folder has an export of other tables, or of another revision.
        SchemaOutdatedError: The database is not at the revision of this version.
    """
    place, source = Path(folder), database_url(url)
    tenant = None if schema is None else tenant_schema(schema)
    place.mkdir(parents=True, exist_ok=True)
    with translated(), connected(source, "alfred-db export", snapshot=True) as connection:
        places = places_of(connection, tenant)
        revision = revision_of(connection, places, source, tenant)
        wanted = chosen(connection, places, tenant, tables)
        manifest = _continued(place, wanted, revision, kind)
        extension = connection.one(
            "SELECT n.nspname FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace"
            " WHERE e.extname = 'vector'"
        )
        manifest.runs += 0 if manifest.complete else 1
        for table in wanted:
            state = manifest.tables[table.fullname]
            while not state.done:
                made = _part(connection, place, table, places[table.fullname], extension, state, kind, part)
                if made is not None:
                    state.parts.append(made)
                    state.rows += made.rows
                state.done = made is None or made.rows < part
                manifest.save(place)
                if progress is not None:
                    progress(TransferProgress(table.fullname, state.rows, None))
        manifest.save(place)
    return manifest


def revision_of(connection: Driver, places: dict[str, str], url: URL, schema: str | None) -> str:
    """Return the revision of a database, which has to be that of this version.

    Raises:
        SchemaOutdatedError: It is at another one.
    """
    home = places["tasks"].rpartition(".")[0].strip('"')
    versions = qualified(home, quoted("alfred_db_version"))
    found = None
    if connection.one("SELECT pg_catalog.to_regclass(%s)", [versions]) is not None:
        found = connection.one(f"SELECT version_num FROM {versions}")
    if found != migrate.head():
        raise SchemaOutdatedError(
            f"the database is at {found or 'no revision'}, this version of alfred-db needs {migrate.head()}: run"
            f" {command('upgrade', url, schema)}"
        )
    return str(found)


def _continued(folder: Path, wanted: list[Table], revision: str, kind: str) -> Manifest:
    if kind not in ("jsonl", "parquet"):
        raise InvalidInputError("kind: expected jsonl or parquet")
    known = Manifest.load(folder)
    names = [table.fullname for table in wanted]
    if known is None:
        columns = {table.fullname: [column.name for column in columns_of(table)] for table in wanted}
        manifest = Manifest(revision, kind, {name: TableExport(columns[name]) for name in names})
        manifest.save(folder)
        return manifest
    if (list(known.tables), known.revision, known.kind) != (names, revision, kind):
        raise ConflictError(
            f"{folder}: it has an export of other tables, of another revision or of another kind; export to another folder"
        )
    return known


def _part(
    connection: Driver,
    folder: Path,
    table: Table,
    place: str,
    extension: str,
    state: TableExport,
    kind: str,
    limit: int,
) -> Part | None:
    """Write the next part of a table; None if it has no more rows."""
    after = state.parts[-1].last if state.parts else None
    statement = pages(table, place, extension, after=after, limit=limit, json_as_text=kind == "parquet")
    rows = _rows(connection, statement)
    first = next(rows, None)
    if first is None:
        return None
    name = f"{table.fullname}.{len(state.parts) + 1:06d}"
    halves = {column: "half" in str(table.columns[column].type).lower() for column in vector_columns(table)}
    writer: Any
    if kind == "parquet":
        from .parquet import ParquetWriter

        writer = ParquetWriter(folder, name, table, halves)
    else:
        writer = LineWriter(folder, name, halves)
    count, last = 0, b""
    for line, vectors in _chained(first, rows):
        writer.add(line, vectors)
        count, last = count + 1, line
    files = writer.finish()
    row: dict[str, Any] = json.loads(last)
    key = [_text(row[column]) for column in key_of(table)]
    return Part(count, key, {file: checksum_of(folder / file) for file in files})


def _chained(
    first: tuple[bytes, list[bytes]], rows: Iterator[tuple[bytes, list[bytes]]]
) -> Iterator[tuple[bytes, list[bytes]]]:
    yield first
    yield from rows


def _rows(connection: Driver, statement: str) -> Iterator[tuple[bytes, list[bytes]]]:
    with connection.copy(statement) as copied:
        for data in copied:
            line, *vectors = bytes(data).rstrip(b"\n").split(b"\x02")
            yield line, vectors


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
