"""How far an adoption has come, in a table of the target: what is committed with the rows is never done again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from ..errors import ConflictError
from ..sql import MADE_HERE
from .driver import Driver

__all__ = ["SCHEMA", "Progress", "State", "begun", "create", "finish", "load", "refuse_another", "save"]

SCHEMA = "alfred_db_adoption"
"""The schema of the table. It can be dropped when nobody wants to know any more."""

_TABLE = f"{SCHEMA}.progress"

_CREATE = f"""
    CREATE SCHEMA IF NOT EXISTS {SCHEMA};
    COMMENT ON SCHEMA {SCHEMA} IS '{MADE_HERE}';
    CREATE TABLE IF NOT EXISTS {_TABLE} (
        tenant text NOT NULL, name text NOT NULL, source text NOT NULL, began_at timestamptz NOT NULL, zone text NOT NULL,
        last_key text, rows bigint DEFAULT 0 NOT NULL, done_at timestamptz,
        PRIMARY KEY (tenant, name)
    )
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one table has come."""

    last_key: str | None
    rows: int
    done_at: datetime | None


@dataclass(frozen=True, slots=True)
class State:
    """An adoption that was begun."""

    source: str
    began_at: datetime
    zone: str
    tables: dict[str, Progress]

    def done_at(self, names: Collection[str]) -> datetime | None:
        """Return when the last of these tables was done; None if one is not."""
        known = [self.tables[name].done_at for name in names if name in self.tables]
        ended = [moment for moment in known if moment is not None]
        return max(ended) if ended and len(ended) == len(names) else None

    def rows_of(self, name: str) -> int:
        """Return the number of rows of a table that were written."""
        return self.tables[name].rows if name in self.tables else 0

    def has_begun(self, name: str) -> bool:
        """Return whether the rows of a table may be those that were written."""
        return name in self.tables and (self.tables[name].rows > 0 or self.tables[name].done_at is not None)


def refuse_another(known: State | None, source: str) -> None:
    """Refuse to continue an adoption from another source.

    Raises:
        ConflictError: It was begun from another one.
    """
    if known is not None and known.source != source:
        raise ConflictError(
            f"adoption: it was begun from {known.source}, not from {source}; continue that one, or drop the schema"
            f" {SCHEMA} if its rows are gone"
        )


def begun(connection: Driver) -> bool:
    """Return whether any tenant of a database has begun an adoption."""
    return bool(connection.one("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", [_TABLE]))


def load(connection: Driver, tenant: str | None) -> State | None:
    """Return the adoption that a tenant has begun; None if it has not."""
    if not begun(connection):
        return None
    rows = connection.rows(
        f"SELECT name, source, began_at, zone, last_key, rows, done_at FROM {_TABLE} WHERE tenant = %s",
        [tenant or ""],
    )
    if not rows:
        return None
    tables = {row[0]: Progress(row[4], row[5], row[6]) for row in rows}
    return State(rows[0][1], min(row[2] for row in rows), rows[0][3], tables)


def create(
    connection: Driver,
    tenant: str | None,
    source: str,
    zone: str,
    names: list[str],
    moment: datetime,
) -> None:
    """Store that an adoption begins, for the transaction of the caller."""
    known = load(connection, tenant)
    if not begun(connection):
        connection.run(_CREATE)
    connection.run(
        f"INSERT INTO {_TABLE} (tenant, name, source, began_at, zone)"
        " SELECT %s, pg_catalog.unnest(%s::text[]), %s, %s, %s ON CONFLICT DO NOTHING",
        [tenant or "", names, source, known.began_at if known else moment, known.zone if known else zone],
    )


def save(connection: Driver, tenant: str | None, name: str, last_key: str | None, rows: int) -> None:
    """Store how far a table has come, for the transaction that wrote the rows."""
    connection.run(
        f"UPDATE {_TABLE} SET last_key = %s, rows = rows + %s WHERE tenant = %s AND name = %s",
        [last_key, rows, tenant or "", name],
    )


def finish(connection: Driver, tenant: str | None, name: str) -> None:
    """Store that a table is done."""
    connection.run(
        f"UPDATE {_TABLE} SET done_at = pg_catalog.statement_timestamp() WHERE tenant = %s AND name = %s",
        [tenant or "", name],
    )
