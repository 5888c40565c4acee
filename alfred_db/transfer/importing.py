"""The import of exported tables: part by part, each in one transaction, which a later run continues."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import URL, Table

from ..config import migration_url, tenant_schema
from ..database import Database
from ..errors import ConflictError, InvalidInputError, NotFoundError, translated
from ..execution.copy_format import HEADER, TRAILER
from ..models import Base, Event, KnowledgeDistance
from ..models.base import table_of
from ..sql import MADE_HERE, literal, quoted
from ..vectors.formats import Embedding
from .driver import Driver, connected
from .exporting import TransferProgress, revision_of
from .lines import LineReader
from .manifest import Manifest, Part, TableExport, checksum_of
from .places import places_of
from .tables import NULLS, json_columns, key_of, refers_to_itself, vector_columns

__all__ = ["import_tables"]

SCHEMA = "alfred_db_import"
_PARTS = f"{SCHEMA}.parts"

SEEDED = ("embedding_spaces", "knowledge_collections")
"""Tables whose first rows the migrations make: their times are those of the migration."""

_OWN = ("created_at", "updated_at", "state")
"""What differs in such a row until it is imported."""


def import_tables(
    folder: str | Path,
    url: str | URL | None = None,
    *,
    schema: str | None = None,
    tables: Collection[str] = (),
    on_conflict: str = "error",
    progress: Callable[[TransferProgress], None] | None = None,
) -> dict[str, int]:
    """Import exported tables, or continue an import that was interrupted.

    A row that exists with the same content is left as it is. Parents come before the rows that refer to them.

    Args:
        folder: The folder of the export.
        url: The database, which has to be at the revision of this version; None is that of the environment.
        schema: The tenant; None is the default tenant.
        tables: The full names of the tables; empty is all of the export.
        on_conflict: What happens to a row that exists with other content: `error`, `skip` (it stays) or `update`.
        progress: Called after each part.

    Returns:
        The number of rows written, by table.

    Raises:
        InvalidInputError: The export is incomplete or damaged, or lacks a table.
        SchemaTooNewError: The export is of a newer revision than this version knows.
        SchemaOutdatedError: The database is not at the revision of this version.
        ConflictError: A row exists with other content.
    """
    if on_conflict not in ("error", "skip", "update"):
        raise InvalidInputError("on_conflict: expected error, skip or update")
    place, target = Path(folder), migration_url(url)
    tenant = None if schema is None else tenant_schema(schema)
    manifest = Manifest.load(place)
    if manifest is None or not manifest.complete:
        raise InvalidInputError(
            f"{place}: no complete export; export to this folder again, which continues it"
        )
    manifest.refuse_newer(place)
    wanted = _wanted(manifest, place, tables)
    for table in wanted:
        _check_files(place, manifest.tables[table.fullname])
    written: dict[str, int] = {}
    with translated(), connected(target, "alfred-db import") as connection:
        places = places_of(connection, tenant)
        revision_of(connection, places, target, tenant)
        connection.rollback()
        for table in wanted:
            state = manifest.tables[table.fullname]
            importer = _Importer(connection, place, table, places[table.fullname], manifest, on_conflict)
            _make_partitions(importer, state, target, tenant)
            written[table.fullname] = importer.run(state, tenant, progress)
        with connection.transaction():
            _forget(connection, manifest)
    if written.get(table_of(Event).fullname):
        with Database(target, schema=tenant) as database, database.begin() as uow:
            uow.events.after_restore()  # numbers of transactions mean nothing on another server
    return written


def _wanted(manifest: Manifest, folder: Path, names: Collection[str]) -> list[Table]:
    known = {table.fullname: table for table in Base.metadata.sorted_tables}
    for name in names:
        if name not in manifest.tables:
            raise NotFoundError(
                f"table {name}: not in the export {folder}; it has {', '.join(manifest.tables)}"
            )
    for name, state in manifest.tables.items():
        extra = name not in known or set(state.columns) - set(known[name].columns.keys())
        if extra:
            raise InvalidInputError(
                f"{folder}: table {name} has columns that this version does not have; import it with the version that"
                " exported it, and upgrade then"
            )
    return [table for name, table in known.items() if name in (names or manifest.tables)]


def _check_files(folder: Path, state: TableExport) -> None:
    """Compare the files of a table with their checksums, before anything is written."""
    for part in state.parts:
        for name, expected in part.files.items():
            path = folder / name
            if not path.is_file():
                raise InvalidInputError(f"{path}: the file is missing; export again")
            if checksum_of(path) != expected:
                raise InvalidInputError(f"{path}: its checksum is not that of the manifest; export again")


def _forget(connection: Driver, manifest: Manifest) -> None:
    """Delete the state of a finished import: what is deleted from the tables can be imported again."""
    if connection.one("SELECT pg_catalog.to_regclass(%s)", [_PARTS]) is not None:
        connection.run(f"DELETE FROM {_PARTS} WHERE export = CAST(%s AS uuid)", [manifest.id])
        if not connection.one(f"SELECT EXISTS (SELECT FROM {_PARTS})"):
            connection.run(f"DROP SCHEMA {SCHEMA} CASCADE")


class _Importer:
    def __init__(
        self, connection: Driver, folder: Path, table: Table, place: str, manifest: Manifest, on_conflict: str
    ) -> None:
        self.connection, self.folder, self.table, self.place = connection, folder, table, place
        self.manifest, self.on_conflict = manifest, on_conflict
        self.columns = manifest.tables[table.fullname].columns
        self.vectors = [name for name in vector_columns(table) if name in self.columns]

    def run(
        self, state: TableExport, tenant: str | None, progress: Callable[[TransferProgress], None] | None
    ) -> int:
        """Import all parts that are not imported yet."""
        groups = (
            [list(enumerate(state.parts))]
            if refers_to_itself(self.table)
            else [[one] for one in enumerate(state.parts)]
        )
        seen = written = 0
        for group in groups:
            marks = [f"{tenant or ''}/{self.table.fullname}/{number}" for number, _ in group]
            if group and not self._is_done(marks):
                with self.connection.transaction():
                    self._stage()
                    for _, part in group:
                        self._load(part)
                    written += self._write()
                    self._mark(marks)
            seen += sum(part.rows for _, part in group)
            if progress is not None and group:
                progress(TransferProgress(self.table.fullname, seen, state.rows))
        return written

    def rows(self, state: TableExport) -> Iterator[tuple[bytes, list[Embedding | None]]]:
        """Yield the rows of all parts."""
        for part in state.parts:
            yield from self._reader(part)

    def _reader(self, part: Part) -> Iterable[tuple[bytes, list[Embedding | None]]]:
        if self.manifest.kind == "parquet":
            from .parquet import ParquetReader

            return ParquetReader(self.folder, next(iter(part.files)), self.table, self.vectors)
        return LineReader(self.folder, list(part.files), self.vectors)

    def _is_done(self, marks: list[str]) -> bool:
        if self.connection.one("SELECT pg_catalog.to_regclass(%s)", [_PARTS]) is None:
            return False
        statement = f"SELECT count(*) FROM {_PARTS} WHERE export = CAST(%s AS uuid) AND part = ANY(%s)"
        return bool(self.connection.one(statement, [self.manifest.id, marks]) == len(marks))

    def _mark(self, marks: list[str]) -> None:
        if self.connection.one("SELECT pg_catalog.to_regclass(%s)", [_PARTS]) is None:
            self.connection.run(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            self.connection.run(f"COMMENT ON SCHEMA {SCHEMA} IS {literal(MADE_HERE)}")
            self.connection.run(f"CREATE TABLE {_PARTS} (export uuid, part text, PRIMARY KEY (export, part))")
        for mark in marks:
            self.connection.run(
                f"INSERT INTO {_PARTS} VALUES (CAST(%s AS uuid), %s) ON CONFLICT DO NOTHING",
                [self.manifest.id, mark],
            )

    # One transaction

    def _stage(self) -> None:
        """Make the tables of the lines, and of the rows."""
        vectors = "".join(f", t.{quoted(name)} AS {quoted('vector_' + name)}" for name in self.vectors)
        names = ", ".join(quoted(name) for name in self.columns)
        self.connection.run(
            f"CREATE TEMP TABLE lines ON COMMIT DROP AS SELECT CAST(NULL AS text) AS line{vectors} FROM {self.place} AS t WITH NO DATA"
        )
        self.connection.run(
            f"CREATE TEMP TABLE incoming ON COMMIT DROP AS SELECT {names} FROM {self.place} WITH NO DATA"
        )

    def _load(self, part: Part) -> None:
        count = 0
        head = struct.pack(">h", 1 + len(self.vectors))
        halves = ["half" in str(self.table.columns[name].type).lower() for name in self.vectors]
        with self.connection.copy("COPY pg_temp.lines FROM STDIN (FORMAT binary)") as copy:
            copy.write(HEADER)
            for line, vectors in self._reader(part):
                fields = [head, struct.pack(">i", len(line)), line]
                for vector, half in zip(vectors, halves, strict=True):
                    fields.append(_packed(vector, half=half))
                copy.write(b"".join(fields))
                count += 1
            copy.write(TRAILER)
        if count != part.rows:
            raise InvalidInputError(
                f"{self.folder / next(iter(part.files))}: {count:,} rows of {part.rows:,}; export again"
            )
        objects = json_columns(self.table)
        values: list[str] = []
        for name in self.columns:
            value = f"r.{quoted(name)}"
            if name in self.vectors:
                value = f"l.{quoted('vector_' + name)}"
            elif name in objects:
                empty = f"CAST(CAST(l.line AS json) -> {literal(NULLS)} AS jsonb) ? {literal(name)}"
                value = f"CASE WHEN {value} IS NULL AND {empty} THEN CAST('null' AS jsonb) ELSE {value} END"
            values.append(value)
        names = ", ".join(quoted(name) for name in self.columns)
        self.connection.run(
            f"INSERT INTO pg_temp.incoming ({names}) SELECT {', '.join(values)} FROM pg_temp.lines AS l"
            f" CROSS JOIN LATERAL json_populate_record(CAST(NULL AS {self.place}), CAST(l.line AS json)) AS r"
        )
        self.connection.run("TRUNCATE pg_temp.lines")

    def _write(self) -> int:
        names = ", ".join(quoted(name) for name in self.columns)
        key = ", ".join(quoted(name) for name in key_of(self.table))
        same = " AND ".join(f"i.{quoted(name)} = t.{quoted(name)}" for name in key_of(self.table))
        seeded = self.table.name in SEEDED
        compared = [name for name in self.columns if not (seeded and name in _OWN)]
        differ = f"{_texts('i', compared)} IS DISTINCT FROM {_texts('t', compared)}"
        mode = self.on_conflict
        if mode == "error":
            shown = " || ', ' || ".join(f"CAST(i.{quoted(name)} AS text)" for name in key_of(self.table))
            found = self.connection.one(
                f"SELECT {shown} FROM pg_temp.incoming AS i JOIN {self.place} AS t ON {same} WHERE {differ} LIMIT 1"
            )
            if found is not None:
                raise ConflictError(
                    f"table {self.table.fullname}: the row {str(found)[:100]} exists with other content; import with"
                    " --on-conflict skip or update, or into another database"
                )
            mode = "update" if seeded else "error"
        others = [name for name in self.columns if name not in key_of(self.table)]
        action = f"ON CONFLICT ({key}) DO NOTHING"
        if mode == "skip":
            action = "ON CONFLICT DO NOTHING"
        elif mode == "update" and others:
            set_ = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in others)
            changed = f"{_texts('excluded', self.columns)} IS DISTINCT FROM {_texts('t', self.columns)}"
            action = f"ON CONFLICT ({key}) DO UPDATE SET {set_} WHERE {changed}"
        written = self.connection.run(
            f"INSERT INTO {self.place} AS t ({names}) SELECT {names} FROM pg_temp.incoming {action}"
        )
        for name in key_of(self.table):
            if self.table.columns[name].identity is not None:
                self._raise_sequence(name)
        self.connection.run("DROP TABLE pg_temp.lines, pg_temp.incoming")
        return written

    def _raise_sequence(self, name: str) -> None:
        sequence = self.connection.one("SELECT pg_catalog.pg_get_serial_sequence(%s, %s)", [self.place, name])
        most = self.connection.one(f"SELECT max({quoted(name)}) FROM pg_temp.incoming")
        if sequence is not None and most is not None and most > 0:
            self.connection.run(
                f"SELECT setval(CAST(%s AS regclass), greatest(%s, (SELECT last_value FROM {sequence})))",
                [sequence, most],
            )


def _texts(alias: str, names: Iterable[str]) -> str:
    return f"ROW({', '.join(f'CAST({alias}.{quoted(name)} AS text)' for name in names)})"


def _packed(vector: Embedding | None, *, half: bool) -> bytes:
    """Return a field of COPY's binary format with a vector."""
    if vector is None:
        return b"\xff\xff\xff\xff"
    body = struct.pack(">HH", len(vector), 0) + np.asarray(vector).astype(">f2" if half else ">f4").tobytes()
    return struct.pack(">i", len(body)) + body


def _make_partitions(importer: _Importer, state: TableExport, url: URL, schema: str | None) -> None:
    """Create the collections and the spaces that are not there, with their partitions and indexes."""
    name = importer.table.name
    if name not in SEEDED or not state.parts:
        return
    rows: list[Mapping[str, Any]] = [json.loads(line) for line, _ in importer.rows(state)]
    names = f"SELECT name FROM {importer.place}"
    known = {row[0] for row in importer.connection.rows(names)}
    importer.connection.rollback()
    with Database(url, schema=schema, application_name="alfred-db import") as database:
        for row in rows:
            if name == "knowledge_collections":
                if row["name"] not in known:
                    with database.begin() as uow:
                        distance = KnowledgeDistance(row["distance"])
                        uow.knowledge.create_collection(
                            row["name"],
                            distance=distance,
                            dimensions=row["dimensions"],
                            description=row["description"],
                            embedding_model=row["embedding_model"],
                            metadata=row["metadata"],
                        )
            elif row["name"] != "builtin":
                _make_space(database, importer, row)


def _make_space(database: Database, importer: _Importer, row: Mapping[str, Any]) -> None:
    """Create a space with the key that it had, which its vectors refer to."""
    sequence = importer.connection.one("SELECT pg_catalog.pg_get_serial_sequence(%s, 'id')", [importer.place])
    if importer.connection.one(f"SELECT EXISTS (SELECT FROM {importer.place} WHERE id = %s)", [row["id"]]):
        importer.connection.rollback()
        return
    importer.connection.rollback()
    with importer.connection.transaction():
        importer.connection.run("SELECT setval(CAST(%s AS regclass), %s)", [sequence, int(row["id"]) - 1])
    with database.begin() as uow:
        made = uow.spaces.create(
            row["name"],
            kind=row["kind"],
            model=row["model"],
            dimensions=row["dimensions"],
            storage=row["storage"],
            index=row["index"],
            building=row["state"] == "building",
        )
        if made.id != row["id"]:
            raise ConflictError(
                f"space {row['name']}: it exists with another key; import into another database"
            )
