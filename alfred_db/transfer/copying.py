"""Copying the rows of one table: read in batches by the key of the source, written with the state in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table

from ..errors import InvalidInputError
from ..models import Conversation, ConversationSession, Memory, MemoryEntry
from ..models.base import table_of
from ..queries.shapes.memories import content_hash
from ..sql import literal, quoted
from ..vectors.types import VectorType
from .driver import Driver
from .reading import STAND_IN, TableReading, stand_in

__all__ = ["checksum", "copy_batch", "make_parents", "not_stand_in", "raise_sequence"]

_STAGE = "pg_temp.adopting"
_REMEMBERED: Mapping[Table, str] = {table_of(Memory): "memory_bank_id", table_of(MemoryEntry): "namespace"}
"""The tables whose texts have a hash, and the column that it is unique within."""


def copy_batch(
    source: Driver,
    target: Driver,
    places: Mapping[str, str],
    reading: TableReading,
    *,
    after: str | None,
    limit: int,
) -> tuple[int, str | None]:
    """Copy the rows after a key, within the transaction of the target.

    Returns:
        The number of rows, and the key of the last one.
    """
    names = ", ".join(map(quoted, reading.columns))
    place = places[reading.target.fullname]
    scope = None if "content_hash" in reading.columns else _REMEMBERED.get(reading.target)
    hashed = "" if scope is None else ", content_hash"
    target.run(
        f"CREATE TEMP TABLE adopting ON COMMIT DROP AS SELECT {names}, CAST(NULL AS text) AS adopted_key{hashed} FROM {place} WITH NO DATA"
    )
    last = b""
    with (
        source.copy(f"COPY ({_select(reading, after, limit)}) TO STDOUT") as rows,
        target.copy(f"COPY {_STAGE} ({names}, adopted_key) FROM STDIN") as stage,
    ):
        for row in rows:
            stage.write(row)
            last = bytes(row)
    if scope is not None:
        _hash_texts(target, place, scope)
    written = target.run(f"INSERT INTO {place} ({names}{hashed}) SELECT {names}{hashed} FROM {_STAGE}")
    if reading.target is table_of(Conversation):
        _count_sessions(target, places)
    target.run(f"DROP TABLE {_STAGE}")
    return written, _key_in(last) or after


def _select(reading: TableReading, after: str | None, limit: int) -> str:
    if reading.whole or reading.key is None:
        return reading.select
    raw = quoted(f"raw_{reading.key.name}")
    kind = "text" if reading.key.is_text else reading.key.type
    later = "" if after is None else f" WHERE {raw} > CAST({literal(after)} AS {kind})"
    return f"{reading.select}{later} ORDER BY {raw} LIMIT {limit}"


def _key_in(row: bytes) -> str | None:
    """Return the last field of a row in the text format of COPY."""
    field = row.rstrip(b"\n").rpartition(b"\t")[2].decode()
    if field in ("", "\\N"):
        return None
    for escaped, meant in (
        ("\\t", "\t"),
        ("\\n", "\n"),
        ("\\r", "\r"),
        ("\\b", "\b"),
        ("\\f", "\f"),
        ("\\v", "\v"),
    ):
        field = field.replace("\\\\", "\0").replace(escaped, meant).replace("\0", "\\\\")
    return field.replace("\\\\", "\\")


def _hash_texts(target: Driver, place: str, scope: str) -> None:
    """Set the hashes by which the repositories find a text again.

    Of equal texts the first row has it. The others keep NULL, as the platform allowed them and the hash is unique. Rows without
    a bank or a namespace keep NULL too: no repository looks for their texts, and no key would hold them to one row.
    """
    known: dict[tuple[Any, bytes], str] = {}
    for row, home, content in target.rows(
        f"SELECT CAST(ctid AS text), {scope}, content FROM {_STAGE} WHERE {scope} IS NOT NULL ORDER BY ctid"
    ):
        try:
            known.setdefault((home, content_hash(content)), row)
        except InvalidInputError:
            continue  # an empty text has none
    target.run(
        f"UPDATE {_STAGE} AS s SET content_hash = h.hash"
        " FROM ROWS FROM (pg_catalog.unnest(CAST(%s AS text[])), pg_catalog.unnest(CAST(%s AS bytea[]))) AS h (place, hash)"
        " WHERE s.ctid = CAST(h.place AS tid)"
        f" AND NOT EXISTS (SELECT FROM {place} AS o WHERE o.{scope} = s.{scope} AND o.content_hash = h.hash)",
        [list(known.values()), [text for _, text in known]],
    )


def _count_sessions(target: Driver, places: Mapping[str, str]) -> None:
    """Add rows for the sessions of the messages; one session may have several, whose numbers add up."""
    target.run(
        f"INSERT INTO {places[table_of(ConversationSession).fullname]} (session_id, messages, first_at, last_id, last_at)"
        f" SELECT m.session_id, count(*), min(m.created_at), max(m.id), max(m.created_at) FROM {_STAGE} AS m GROUP BY m.session_id"
    )


def raise_sequence(source: Driver, target: Driver, place: str, reading: TableReading) -> None:
    """Have the numbers of new rows begin after those of the source, before its rows arrive."""
    column = reading.target.columns.get("id")
    if column is None or column.identity is None:
        return
    numbers = [source.one(f"SELECT max(id) FROM {reading.counted}"), reading.found.last]
    last = max((number for number in numbers if number is not None), default=0)
    sequence = target.one("SELECT pg_catalog.pg_get_serial_sequence(%s, 'id')", [place])
    if last > 0 and sequence is not None:
        target.run(
            f"SELECT setval(CAST(%s AS regclass), greatest(%s, (SELECT last_value FROM {sequence})))",
            [sequence, last],
        )


def make_parents(
    source: Driver,
    target: Driver,
    places: Mapping[str, str],
    reading: TableReading,
) -> None:
    """Make a stand-in for the parents that rows refer to and the source does not have."""
    for name, parent in reading.parents.items():
        column = reading.target.columns[name]
        needed = f"SELECT EXISTS (SELECT FROM {reading.counted} WHERE {quoted(name)} = {stand_in(column)})"
        if source.one(needed):
            _stand_in(target, places, parent)


def _stand_in(target: Driver, places: Mapping[str, str], table: Table) -> None:
    values: dict[str, str] = {"id": literal("0")}
    for column in table.columns:
        if column.name == "id":
            values["id"] = literal(STAND_IN["uuid" if "UUID" in str(column.type).upper() else "bigint"])
        elif column.nullable or column.server_default is not None or column.identity is not None:
            continue
        elif column.foreign_keys:
            parent = next(iter(column.foreign_keys)).column.table
            _stand_in(target, places, parent)
            values[column.name] = stand_in(column)
        else:
            values[column.name] = "'unknown'"
    names = ", ".join(map(quoted, values))
    target.run(
        f"INSERT INTO {places[table.fullname]} ({names}) VALUES ({', '.join(values.values())}) ON CONFLICT DO NOTHING"
    )


def not_stand_in(table: Table) -> str:
    """Return the condition of the rows of a table that are no stand-ins."""
    column = table.columns.get("id")
    if column is None or str(column.type).upper() not in ("UUID", "BIGINT"):
        return "true"
    return f"id <> {stand_in(column)}"


def checksum(reading: TableReading, rows: str) -> str:
    """Return the SELECT of the number of rows, and of a checksum of all columns that are written, in any order.

    Args:
        reading: The table.
        rows: What is selected from, with the columns of the models.
    """
    parts: list[str] = []
    for name in reading.columns:
        kind: Any = reading.target.columns[name].type
        value = f"CAST(x.{quoted(name)} AS text)"
        parts.append(f"replace({value}, ' ', '')" if isinstance(kind, VectorType) else value)
    digest = f"md5(CAST(ROW({', '.join(parts)}) AS text))"
    return (
        "SELECT count(*), coalesce(sum(CAST(CAST('x' || substr("
        f"{digest}, 1, 12) AS bit(48)) AS bigint)), 0) FROM {rows} AS x"
    )
