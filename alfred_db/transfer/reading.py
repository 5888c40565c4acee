"""The SELECT that reads a table of a platform as rows of the models, and what it changes and loses.

It has layers, each over the columns of the one before: the values converted; those that are missing or unknown; those
that have to be unique; those that depend on the status. The source runs it, and nothing else sees a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, DateTime, Table

from ..sql import literal, quoted
from ..types import EnumText
from ..vectors.types import VectorType
from .casts import Reading, SourceColumn, converted, key_of, sql_type
from .platforms import EXTRA_HOME, RULES, UNKNOWN, Rules, names_of

__all__ = ["Found", "TableReading", "read_table", "stand_in"]

STAND_IN = {"uuid": "00000000-0000-0000-0000-000000000000", "bigint": "0"}
"""By the type of a key, that of a row that is made for rows whose parent the source does not have; no sequence returns it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A table of the source."""

    target: Table
    schema: str
    name: str
    kind: str
    """`r`, `p`, `v`, `m` or `f`, as in pg_class."""
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    """The columns of its primary key."""
    rows: int = 0
    """An estimate, until the rows are counted."""
    last: int | None = None
    """What its sequence has returned."""

    @property
    def full_name(self) -> str:
        """Its name with the schema, quoted."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def label(self) -> str:
        """Its name for people."""
        return f"{self.schema}.{self.name}"


@dataclass
class TableReading:
    """How a table is read."""

    found: Found
    select: str = ""
    """The rows of the models; the last column, `adopted_key`, is the key of the source."""
    columns: list[str] = field(default_factory=list[str])
    """The columns that are written, in the order of `select`."""
    changes: dict[str, str] = field(default_factory=dict[str, str])
    """What is changed -> the condition of its rows, over the innermost and the last layer."""
    losses: dict[str, str] = field(default_factory=dict[str, str])
    """The same of what cannot be kept."""
    counted: str = ""
    """What the conditions are counted over."""
    whole: bool = False
    """Whether its rows have to be written by one statement."""
    key: SourceColumn | None = None
    """The column by which it is read in batches."""
    parents: dict[str, Table] = field(default_factory=dict[str, Table])
    """References that need a stand-in -> the table that gets it."""

    @property
    def target(self) -> Table:
        """The table of the models."""
        return self.found.target


def read_table(found: Found, sources: Mapping[str, Found], reading: Reading) -> TableReading:
    """Return how a table is read.

    Args:
        found: The table.
        sources: All tables of the source, by the full names of the models' tables.
        reading: How the source is read.
    """
    return _Builder(found, sources, reading).build()


class _Builder:
    def __init__(self, found: Found, sources: Mapping[str, Found], reading: Reading) -> None:
        self.found, self.sources, self.reading = found, sources, reading
        self.table = found.target
        self.rules = RULES.get(self.table.name, Rules())
        self.by_name = {column.name: column for column in found.columns}
        self.taken: dict[str, SourceColumn] = {}
        self.result = TableReading(found)
        self.notes: dict[str, str] = {}
        """Key within `adopted` -> JSON of what is kept there, or NULL."""

    def build(self) -> TableReading:
        columns = [column for column in self.table.columns if column.computed is None]
        for column in columns:
            names = self.rules.columns.get(column.name, (column.name,))
            source = next((self.by_name[name] for name in names if name in self.by_name), None)
            if source is not None:
                self.taken[column.name] = source
        first = self._converted(columns)
        second = self._filled(columns)
        third = self._unique(columns)
        last = self._timed(columns)
        self._extras()
        self._written(columns)
        key = self._key()
        inner = f"SELECT {first} FROM {self.found.full_name} AS s"
        layers = (
            f"(SELECT {last} FROM (SELECT {third} FROM (SELECT {second} FROM ({inner}) AS a) AS b) AS c) AS d"
        )
        self.result.select = f"SELECT {self._final()}, {key} AS adopted_key FROM {layers}"
        self.result.counted = layers
        self.result.whole = self.rules.whole or self._refers_to_itself() or self.result.key is None
        return self.result

    # The layers. Names beginning with `raw_` go through all of them.

    def _converted(self, columns: Sequence[Column[Any]]) -> str:
        """The raw columns, and each column of the models with its type."""
        parts = [f"s.{quoted(source.name)} AS {_raw(source.name)}" for source in self.found.columns]
        for column in columns:
            source = self.taken.get(column.name)
            value = f"CAST(NULL AS {sql_type(column)})" if source is None else self._value(column, source)
            parts.append(f"{value} AS {quoted(column.name)}")
        return ", ".join(parts)

    def _value(self, column: Column[Any], source: SourceColumn) -> str:
        value = f"s.{quoted(source.name)}"
        referred = next(iter(column.foreign_keys), None)
        if column.primary_key and column.name == "id":
            converted_key = key_of(self.table.name, column, source, value)
            if converted_key != value and not converted_key.startswith(f"CAST({value} AS"):
                self._note(
                    source.name,
                    f"{_raw(source.name)}",
                    f"{source.name}: a key of another type is derived from it",
                )
            return converted_key
        if referred is None:
            text = converted(column, source, value, self.reading)
            if isinstance(column.type, EnumText):
                return f"lower(btrim({text}))"
            return text
        parent = self.sources.get(referred.column.table.fullname)
        key = key_of(referred.column.table.name, column, source, value)
        if parent is None:
            return f"CAST(NULL AS {sql_type(column)})"
        names = RULES.get(referred.column.table.name, Rules()).columns.get("id", ("id",))
        name = next((name for name in names if any(one.name == name for one in parent.columns)), None)
        if name is None:
            return f"CAST(NULL AS {sql_type(column)})"
        there = f"EXISTS (SELECT FROM {parent.full_name} AS p WHERE CAST(p.{quoted(name)} AS text) = CAST({value} AS text))"
        same = next(one for one in parent.columns if one.name == name).type == source.type
        if same:
            there = f"EXISTS (SELECT FROM {parent.full_name} AS p WHERE p.{quoted(name)} = {value})"
        return f"CASE WHEN {there} THEN {key} END"

    def _filled(self, columns: Sequence[Column[Any]]) -> str:
        """Statuses that are known, values that the models allow, and defaults."""
        parts = self._passed()
        for column in columns:
            name, value = quoted(column.name), quoted(column.name)
            source = self.taken.get(column.name)
            if isinstance(column.type, EnumText):
                value = self._known(column)
            bound = self.rules.bounds.get(column.name)
            if bound is not None and source is not None:
                value = f"CASE WHEN {value} IS NOT NULL THEN {bound} END"
            fallback = self._fallback(column)
            if fallback is not None:
                value = f"COALESCE({value}, {fallback})"
            parts.append(f"{value} AS {name}")
        return ", ".join(parts)

    def _known(self, column: Column[Any]) -> str:
        kind: Any = column.type
        members = tuple(str(member) for member in kind.enum)
        name = quoted(column.name)
        cases = " ".join(
            f"WHEN {literal(other)} THEN {literal(value)}"
            for other, value in names_of(self.table.name, column.name, members).items()
        )
        unknown = UNKNOWN.get((self.table.name, column.name)) or _default(column) or literal(members[0])
        unknown = literal(unknown) if not unknown.startswith("'") else unknown
        listed = ", ".join(map(literal, members))
        other = f"CASE {name} {cases} ELSE {unknown} END" if cases else unknown
        return f"CASE WHEN {name} IN ({listed}) THEN {name} WHEN {name} IS NOT NULL THEN {other} END"

    def _fallback(self, column: Column[Any]) -> str | None:
        given = self.rules.fallbacks.get(column.name)
        if column.nullable:
            return given
        found = [] if given is None else [given]
        if column.foreign_keys and not column.primary_key:
            # No row is left out because the source does not have its parent.
            found.append(stand_in(column))
            self.result.parents[column.name] = next(iter(column.foreign_keys)).column.table
        elif isinstance(column.type, DateTime):
            found += self._other_times(column)
        elif (default := _default(column)) is not None:
            found.append(f"CAST({default} AS {sql_type(column)})")
        elif sql_type(column) == "text" and not column.primary_key:
            found.append("''")
        elif sql_type(column) == "jsonb":
            found.append("CAST('{}' AS jsonb)")
        return ", ".join(found) if found else None

    def _other_times(self, column: Column[Any]) -> list[str]:
        """What a missing time is taken from: the times of the row, the earliest for its creation."""
        others = [
            quoted(name)
            for name in self.taken
            if name != column.name
            and isinstance(self.table.columns[name].type, DateTime)
            and name != "expires_at"
        ]
        moment = f"CAST({literal(self.reading.moment)} AS timestamptz)"
        if column.name == "expires_at":
            return [f"{quoted('processed_at')} + interval '48 hours'", f"{moment} + interval '48 hours'"]
        if not others:
            return [moment]
        chosen = "LEAST" if column.name in ("created_at", "registered_at") else "GREATEST"
        return [f"{chosen}({', '.join(others)})", moment]

    def _unique(self, columns: Sequence[Column[Any]]) -> str:
        parts = self._passed()
        for column in columns:
            name, value = quoted(column.name), quoted(column.name)
            within = self.rules.unique.get(column.name)
            if within is not None:
                same = ", ".join([*map(quoted, within), name])
                value = (
                    f"CASE WHEN row_number() OVER (PARTITION BY {same} ORDER BY id) > 1"
                    f" THEN {name} || '-' || CAST(id AS text) ELSE {name} END"
                )
            parts.append(f"{value} AS {name}")
        if self.rules.ranked:
            parts.append(f"{self.rules.ranked} AS rank")
        return ", ".join(parts)

    def _timed(self, columns: Sequence[Column[Any]]) -> str:
        parts = self._passed()
        for column in columns:
            value = self.rules.times.get(column.name, quoted(column.name))
            parts.append(f"{value} AS {quoted(column.name)}")
        return ", ".join(parts)

    def _passed(self) -> list[str]:
        return [_raw(source.name) for source in self.found.columns]

    # What is written, and what is said about it.

    def _note(self, name: str, value: str, what: str, *, when: str | None = None, lost: bool = False) -> None:
        """Keep a value of the source beside the row if it can be kept, and count it."""
        condition = f"{value} IS NOT NULL" if when is None else when
        if self._home() is not None:
            self.notes[name] = f"CASE WHEN {condition} THEN to_jsonb({value}) END"
            self.result.changes[f"{what}; kept in {self._home()}"] = condition
        elif lost:
            self.result.losses[what] = condition
        else:
            self.result.changes[what] = condition

    def _home(self) -> str | None:
        return next((name for name in EXTRA_HOME if name in self.table.columns), None)

    def _extras(self) -> None:
        """What the models have no column for."""
        used = {source.name for source in self.taken.values()}
        for source in self.found.columns:
            if source.name not in used:
                self._note(
                    source.name, _raw(source.name), f"{source.name}: no column of this name", lost=True
                )

    def _written(self, columns: Sequence[Column[Any]]) -> None:
        """Leave out what nothing is known about: the default of the table applies."""
        for column in columns:
            name, source = column.name, self.taken.get(column.name)
            if (
                source is not None
                or name in self.rules.times
                or name in self.rules.fallbacks
                or (not column.nullable and not column.primary_key and self._is_needed(column))
            ):
                self.result.columns.append(name)
        for column in columns:
            source = self.taken.get(column.name)
            if source is not None:
                self._account(column, source)
        for name in self.rules.times:
            if name not in self.taken and name not in self.rules.derived:
                self.result.changes[f"{name}: set, because the row repeats another"] = (
                    f"{quoted(name)} IS NOT NULL"
                )
        home = self._home()
        if self.notes and home is not None and home not in self.result.columns:
            self.result.columns.append(home)

    def _is_needed(self, column: Column[Any]) -> bool:
        return isinstance(column.type, DateTime) or (
            column.server_default is None and column.identity is None
        )

    def _account(self, column: Column[Any], source: SourceColumn) -> None:
        """Count the rows whose value is not the one of the source."""
        name, raw, value = source.name, _raw(source.name), quoted(column.name)
        if column.primary_key and column.name == "id":
            return
        kind: Any = column.type
        if isinstance(kind, VectorType):
            kept = converted(column, source, raw, self.reading)
            if not kept.startswith(f"CAST({raw} AS"):
                what = f"{name}: no vector of {kind.dim} numbers; embed the rows again"
                self.result.losses[what] = f"{raw} IS NOT NULL AND {value} IS NULL"
        elif isinstance(kind, EnumText):
            self._note(
                name, raw, f"{name}: unknown values are replaced",
                when=f"{raw} IS NOT NULL AND CAST({raw} AS text) <> {value}",
            )  # fmt: skip
        elif column.name in self.rules.unique:
            what = f"{name}: repeated, so that the key is added"
            self._note(name, raw, what, when=f"{raw} IS NOT NULL AND CAST({raw} AS text) <> {value}")
        elif column.foreign_keys:
            orphan = f"{raw} IS NOT NULL AND {value} IS NULL"
            if column.name in self.result.parents:
                orphan = f"{raw} IS NOT NULL AND {value} = {stand_in(column)}"
            self._note(name, raw, f"{name}: refers to a row that does not exist", when=orphan, lost=True)
        elif column.name in self.rules.times:
            kept = converted(column, source, raw, self.reading)
            self._note(
                name,
                raw,
                f"{name}: set against the status",
                when=f"{raw} IS NOT NULL AND {value} IS NULL",
            )
            self.result.changes[f"{name}: set from the status"] = f"({kept}) IS NULL AND {value} IS NOT NULL"
            return
        elif sql_type(column) in ("integer", "smallint") and column.name in self.rules.bounds:
            self._note(
                name,
                raw,
                f"{name}: brought into the range that is allowed",
                when=f"CAST({raw} AS text) <> CAST({value} AS text)",
            )
        elif (kept := converted(column, source, raw, self.reading)) != raw and not kept.startswith(
            f"CAST({raw} AS"
        ):
            self._note(
                name,
                raw,
                f"{name}: has no value of this type",
                when=f"{raw} IS NOT NULL AND ({kept}) IS NULL",
                lost=True,
            )
        if not column.nullable and not source.not_null:
            self.result.changes[f"{name}: NULL is replaced"] = f"{raw} IS NULL"

    def _final(self) -> str:
        parts: list[str] = []
        home = self._home()
        for name in self.result.columns:
            value = quoted(name)
            if name == home and self.notes:
                pairs = ", ".join(f"({literal(key)}, {note})" for key, note in self.notes.items())
                notes = (
                    f"(SELECT jsonb_object_agg(k, v) FROM (VALUES {pairs}) AS n (k, v) WHERE v IS NOT NULL)"
                )
                whole = (
                    f"CASE WHEN jsonb_typeof({value}) = 'object' THEN {value}"
                    f" WHEN {value} IS NULL OR jsonb_typeof({value}) = 'null' THEN CAST('{{}}' AS jsonb)"
                    f" ELSE jsonb_build_object({literal(name)}, {value}) END"
                )
                value = f"CASE WHEN {notes} IS NULL THEN {value} ELSE {whole} || jsonb_build_object('adopted', {notes}) END"
            parts.append(f"{value} AS {quoted(name)}")
        return ", ".join(parts)

    def _key(self) -> str:
        """The key of the source by which batches are read; only a whole key of one column can be one."""
        if len(self.found.key) == 1:
            self.result.key = self.by_name[self.found.key[0]]
            return _raw(self.result.key.name)
        return "NULL"

    def _refers_to_itself(self) -> bool:
        return any(
            key.column.table is self.table for key in self.table.foreign_keys if key.parent.name in self.taken
        )


def stand_in(column: Column[Any]) -> str:
    """Return the key of a stand-in, for a column that refers to it."""
    kind = sql_type(column)
    return f"CAST({literal(STAND_IN[kind])} AS {kind})"


def _raw(name: str) -> str:
    return quoted(f"raw_{name}"[:63])


def _default(column: Column[Any]) -> str | None:
    """Return the constant that the models have as the default of a column, as SQL."""
    default: Any = column.server_default
    argument = getattr(default, "arg", None)
    if argument is None:
        return None
    text = str(argument.text) if hasattr(argument, "text") else str(argument)
    if "(" in text:
        return None
    return text if hasattr(argument, "text") else literal(text)
