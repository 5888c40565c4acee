"""The tables of an export: those of the models, so that a new one is covered the day it is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Table, make_url
from sqlalchemy.dialects.postgresql import JSONB

from ..errors import NotFoundError
from ..models import Base
from ..sql import MADE_HERE, SHARED_SCHEMAS, literal, quoted
from ..vectors.types import VectorType
from .driver import Driver

__all__ = [
    "NULLS",
    "VECTOR",
    "chosen",
    "columns_of",
    "json_columns",
    "key_of",
    "pages",
    "refers_to_itself",
    "vector_columns",
]

_DIALECT = make_url("postgresql+psycopg://").get_dialect()()

NULLS, VECTOR = "$null", "$"
"""Key of a line with the columns whose value is the `null` of JSON; and what a key with the length of a vector begins with."""

_NULLS = f',"{NULLS}":'

_LEFT_OUT = ("cache", "cache_bounds", "cache_claims", "rate_limits", "extensions.alfred_db_capabilities")
"""What is of use on its own server only; it is exported if it is named."""


def chosen(
    connection: Driver, places: Mapping[str, str], schema: str | None, names: Collection[str] = ()
) -> list[Table]:
    """Return the tables to export or import, parents first.

    Args:
        connection: The database.
        places: The names of the tables there.
        schema: The tenant; None is the default tenant, with the catalogs that all share.
        names: The full names of the tables; empty is all.

    Raises:
        NotFoundError: There is no such table.
    """
    known = {table.fullname: table for table in Base.metadata.sorted_tables}
    for name in names:
        if name not in known:
            raise NotFoundError(f"table {name}: not one of the models; choose from {', '.join(known)}")
    if names:
        return [table for name, table in known.items() if name in names]
    found = [
        table
        for name, table in known.items()
        if name not in _LEFT_OUT and (schema is None or table.schema not in SHARED_SCHEMAS)
    ]
    return [
        table
        for table in found
        if table.schema not in ("auth", "storage")
        or connection.one(
            "SELECT pg_catalog.obj_description(pg_catalog.to_regclass(%s), 'pg_class')",
            [places[table.fullname]],
        )
        == MADE_HERE
    ]


def columns_of(table: Table) -> list[Column[Any]]:
    """Return the columns that are not computed by the server."""
    return [column for column in table.columns if column.computed is None]


def vector_columns(table: Table) -> list[str]:
    """Return the names of the columns with vectors."""
    return [column.name for column in columns_of(table) if isinstance(column.type, VectorType)]


def json_columns(table: Table) -> list[str]:
    """Return the names of the columns with JSON."""
    return [column.name for column in columns_of(table) if isinstance(column.type, JSONB)]


def key_of(table: Table) -> list[str]:
    """Return the names of the columns of the primary key."""
    return [column.name for column in table.primary_key]


def refers_to_itself(table: Table) -> bool:
    """Whether rows of a table refer to others of it, so that they have to be written by one statement."""
    return any(key.column.table is table for key in table.foreign_keys)


def pages(
    table: Table,
    place: str,
    extension: str,
    *,
    after: Sequence[str] | None,
    limit: int,
    json_as_text: bool = False,
) -> str:
    """Return the COPY of the rows after a key: a line of JSON, then each vector as hexadecimal digits.

    Args:
        table: The table.
        place: Its name in the database.
        extension: The schema of pgvector.
        after: The values of the key, as text.
        limit: The maximum number of rows.
        json_as_text: Whether columns with JSON are texts in the line.
    """
    vectors, objects = vector_columns(table), json_columns(table)
    key = ", ".join(f"t.{quoted(name)}" for name in key_of(table))
    where = ""
    if after is not None:
        kinds = [
            f"CAST({literal(value)} AS {table.columns[name].type.compile(dialect=_DIALECT)})"
            for name, value in zip(key_of(table), after, strict=True)
        ]
        where = f" WHERE ({key}) > ({', '.join(kinds)})"
    parts: list[str] = []
    for column in columns_of(table):
        name = quoted(column.name)
        if column.name in vectors:
            parts.append(f"{quoted(extension)}.vector_dims(t.{name}) AS {quoted(VECTOR + column.name)}")
        elif column.name in objects and json_as_text:
            parts.append(f"CAST(t.{name} AS text) AS {name}")
        else:
            parts.append(f"t.{name}")
    line = f"CAST((SELECT row_to_json(r) FROM (SELECT {', '.join(parts)}) AS r) AS text)"
    if objects and not json_as_text:
        empty = ", ".join(
            f"CASE WHEN jsonb_typeof(t.{quoted(name)}) = 'null' THEN {literal(name)} END" for name in objects
        )
        nulls = f"array_remove(ARRAY[{empty}], NULL)"
        line = (
            f"CASE WHEN cardinality({nulls}) = 0 THEN {line} ELSE left({line}, -1) || {literal(_NULLS)}"
            f" || CAST(array_to_json({nulls}) AS text) || '}}' END"
        )
    values = [line]
    for name in vectors:
        kind: Any = table.columns[name].type
        send = "halfvec_send" if kind.get_col_spec().lower().startswith("halfvec") else "vector_send"
        values.append(f"encode({quoted(extension)}.{send}(t.{quoted(name)}), 'hex')")
    select = f"SELECT {', '.join(values)} FROM {place} AS t{where} ORDER BY {key} LIMIT {limit}"
    # Two characters that JSON never has unescaped, so that nothing is quoted: a line is written as it comes.
    return f"COPY ({select}) TO STDOUT (FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01')"
