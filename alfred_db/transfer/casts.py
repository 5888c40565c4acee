"""Values of a column of another platform as values of a column of the models, in SQL that the source runs.

An expression that cannot convert a value returns NULL: what is lost is counted by the plan, never an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB

from ..sql import literal
from ..vectors.types import VectorType

__all__ = ["Reading", "SourceColumn", "converted", "key_of", "sql_type"]

_UUID = "'^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$'"
_WHOLE = "'^\\s*[-+]?[0-9]{1,18}\\s*$'"
_NUMBER = "'^\\s*[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]{1,2})?\\s*$'"
_TIME = "'^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?( ?(Z|[-+][0-9]{2}(:?[0-9]{2})?))?)?$'"

_INTEGERS = ("smallint", "integer", "bigint")
_FRACTIONS = ("numeric", "real", "double precision")


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of a table of the source."""

    name: str
    type: str
    """Its type without a length, of a domain the one that it rests on."""
    dimensions: int | None
    """Of a vector with a declared length."""
    not_null: bool

    @property
    def is_array(self) -> bool:
        """Whether it holds arrays."""
        return self.type.endswith("[]")

    @property
    def is_text(self) -> bool:
        """Whether it is cast to text, as enums, citext and the like are, because the type has no other meaning here."""
        return self.type not in _KNOWN and not self.is_array


_KNOWN = (
    *_INTEGERS, *_FRACTIONS, "boolean", "uuid", "json", "jsonb", "bytea", "date", "timestamp without time zone",
    "timestamp with time zone", "vector", "halfvec",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source is read."""

    zone: str
    """The time zone of times that have none."""
    version: int
    """The version of its server, such as 150004."""
    moment: str
    """The moment of the adoption, for times that nothing in a row tells; the same one in each attempt."""


def sql_type(column: Column[Any]) -> str:
    """Return the type of a column of the models as the source knows it; vectors travel as text."""
    kind: Any = column.type
    if isinstance(kind, VectorType):
        return "text"
    for known, name in _NAMES.items():
        if isinstance(kind, known):
            if isinstance(kind, Numeric) and not isinstance(kind, Float) and kind.precision is not None:
                return f"numeric({kind.precision},{kind.scale or 0})"
            return name
    return "text"


_NAMES: dict[type, str] = {
    SmallInteger: "smallint",
    BigInteger: "bigint",
    Integer: "integer",
    Boolean: "boolean",
    Double: "double precision",
    Float: "double precision",
    Numeric: "numeric",
    JSONB: "jsonb",
    LargeBinary: "bytea",
    Uuid: "uuid",
    DateTime: "timestamp with time zone",
    Date: "date",
}


def key_of(table: str, target: Column[Any], source: SourceColumn, value: str) -> str:
    """Return a key, or a reference to it, as the models have it; always the same one for the same value.

    Args:
        table: The table whose key it is.
        target: The column that takes it.
        source: The column that has it.
        value: The expression of its value.
    """
    kind = sql_type(target)
    if kind == "uuid":
        if source.type == "uuid":
            return value
        derived = f"CAST(md5({literal(f'alfred-db/{table}/')} || CAST({value} AS text)) AS uuid)"
        if not source.is_text:
            return derived
        text = f"CAST({value} AS text)"
        return f"CASE WHEN {text} ~ {_UUID} THEN CAST({text} AS uuid) ELSE {derived} END"
    if kind in _INTEGERS:
        if source.type in _INTEGERS:
            return f"CAST({value} AS {kind})"
        return f"CAST(CAST('x' || substr(md5(CAST({value} AS text)), 1, 15) AS bit(60)) AS bigint)"
    return f"CAST({value} AS text)"


def converted(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    """Return the expression that converts a value.

    Args:
        target: The column that takes it.
        source: The column that has it.
        value: The expression of its value.
        reading: How the source is read.
    """
    kind: Any = target.type
    if isinstance(kind, VectorType):
        return _vector(source, value, kind.dim)
    for known, convert in _CONVERSIONS.items():
        if isinstance(kind, known):
            return convert(target, source, value, reading)
    return _text(source, value)


def _text(source: SourceColumn, value: str) -> str:
    if source.type in ("json", "jsonb"):
        kind = f"{source.type}_typeof({value})"
        return f"CASE {kind} WHEN 'string' THEN {value} #>> '{{}}' WHEN 'null' THEN NULL ELSE CAST({value} AS text) END"
    return f"CAST({value} AS text)"


def _whole(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    kind = sql_type(target)
    if source.type in _INTEGERS:
        number = value
        if _INTEGERS.index(source.type) <= _INTEGERS.index(kind):
            return f"CAST({value} AS {kind})"
    elif source.type in _FRACTIONS:
        number = f"round(CAST(CASE WHEN CAST({value} AS text) !~ '[nN]' THEN {value} END AS numeric))"
    elif source.type == "boolean":
        return f"CAST({value} AS integer)"
    elif source.is_text:
        number = f"CAST(CASE WHEN CAST({value} AS text) ~ {_WHOLE} THEN CAST({value} AS text) END AS bigint)"
    else:
        return f"CAST(NULL AS {kind})"
    most = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}[kind]
    return f"CAST(CASE WHEN {number} BETWEEN {-most} AND {most - 1} THEN {number} END AS {kind})"


def _fraction(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    kind = sql_type(target)
    if source.type in (*_INTEGERS, *_FRACTIONS):
        number = value
    elif source.is_text:
        number = (
            f"CAST(CASE WHEN CAST({value} AS text) ~ {_NUMBER} THEN CAST({value} AS text) END AS numeric)"
        )
    else:
        return f"CAST(NULL AS {kind})"
    if kind.startswith("numeric("):
        precision, scale = (int(part) for part in kind[8:-1].split(","))
        whole = f"CAST({number} AS numeric)"
        if source.type in ("real", "double precision"):
            whole = f"CAST(CASE WHEN CAST({number} AS text) !~ '[nNI]' THEN {number} END AS numeric)"
        number = f"CASE WHEN abs(round({whole}, {scale})) < 1e{precision - scale} THEN {whole} END"
    return f"CAST({number} AS {kind})"


def _boolean(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    if source.type == "boolean":
        return value
    if source.type in _INTEGERS:
        return f"{value} <> 0"
    if source.is_text:
        text = f"lower(CAST({value} AS text))"
        return (
            f"CASE WHEN {text} IN ('t', 'true', 'y', 'yes', 'on', '1') THEN true"
            f" WHEN {text} IN ('f', 'false', 'n', 'no', 'off', '0') THEN false END"
        )
    return "CAST(NULL AS boolean)"


def _json(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    if source.type == "jsonb":
        return value
    if source.type == "json":
        return f"CAST({value} AS jsonb)"
    if source.is_text:
        text = f"CAST({value} AS text)"
        if reading.version < 160000:  # it cannot tell JSON from other text
            return f"to_jsonb({text})"
        return f"CASE WHEN {text} IS JSON THEN CAST({text} AS jsonb) ELSE to_jsonb({text}) END"
    return f"to_jsonb({value})"


def _time(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    if source.type == "timestamp with time zone":
        time = value
    elif source.type in ("timestamp without time zone", "date"):
        time = f"CAST({value} AS timestamp) AT TIME ZONE {literal(reading.zone)}"
    elif source.is_text:
        text = f"CAST({value} AS text)"
        time = f"CAST(CASE WHEN {text} ~ {_TIME} THEN {text} END AS timestamptz)"
    else:
        return "CAST(NULL AS timestamptz)"
    # `infinity`, and what Python has no datetime for.
    return f"CASE WHEN {time} >= '0001-01-02 00:00+00' AND {time} < '9999-12-31 00:00+00' THEN {time} END"


def _date(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    return f"CAST({value} AS date)"


def _uuid(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    if source.type == "uuid":
        return value
    text = f"CAST({value} AS text)"
    return f"CAST(CASE WHEN {text} ~ {_UUID} THEN {text} END AS uuid)"


def _bytes(target: Column[Any], source: SourceColumn, value: str, reading: Reading) -> str:
    return value if source.type == "bytea" else f"convert_to(CAST({value} AS text), 'UTF8')"


def _vector(source: SourceColumn, value: str, dimensions: int | None) -> str:
    """Return a vector as text; NULL where it has another length, or an element that is no number."""
    text = f"CAST({value} AS text)"
    if source.is_array and source.type[:-2] in (*_INTEGERS, *_FRACTIONS):
        text = f"translate(CAST(CAST({value} AS real[]) AS text), '{{}}', '[]')"
    elif source.type in ("vector", "halfvec") and source.dimensions == dimensions:
        return text
    elif source.type not in ("vector", "halfvec", "json", "jsonb") and not source.is_text:
        return "CAST(NULL AS text)"
    whole = text
    if source.type not in ("vector", "halfvec") and not source.is_array:
        # As the target writes it, for the checksums.
        whole = f"translate(CAST(CAST(translate({text}, '[]', '{{}}') AS real[]) AS text), '{{}}', '[]')"
    length = (
        ""
        if dimensions is None
        else f" AND length({text}) - length(replace({text}, ',', '')) = {dimensions - 1}"
    )
    return f"CASE WHEN {text} ~ '^\\s*\\[[-+0-9.eE,\\s]+\\]\\s*$'{length} THEN {whole} END"


_CONVERSIONS: dict[type, Callable[[Column[Any], SourceColumn, str, Reading], str]] = {
    Integer: _whole,
    Float: _fraction,
    Numeric: _fraction,
    Boolean: _boolean,
    JSONB: _json,
    LargeBinary: _bytes,
    Uuid: _uuid,
    DateTime: _time,
    Date: _date,
}
