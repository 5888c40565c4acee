"""The databases of a move: the one with the directory, the one with the tenant, and the target."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import URL, Connection, Engine, text

from ..config import parse_url, tenant_schema
from ..engine.pool import passing_engine
from ..errors import ConflictError, translated
from ..models import TenantMove
from .directory import where, with_secret

__all__ = [
    "HAS_SCHEMA",
    "MARKER",
    "Ends",
    "Progress",
    "alone",
    "driver",
    "ends_of",
    "is_subscribed",
    "place",
    "run",
]

MARKER = "alfred_db_move"
"""A table of the tenant, whose rows arrive on the target after everything that was committed before them."""

Progress = Callable[[str], None]
"""Called with each stage, in words."""

HAS_SCHEMA = text(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE CAST(nspname AS text) = CAST(:name AS text))"
)


@dataclass(frozen=True, slots=True)
class Ends:
    """The databases of the move of a tenant."""

    tenant: str
    home: Engine
    """The database with the directory."""
    source: Engine
    target: Engine

    @property
    def name(self) -> str:
        """The name of publication, subscription and slot."""
        return f"alfred_move_{sha256(self.tenant.encode()).hexdigest()[:16]}"

    @property
    def old(self) -> str:
        """The name of the schema after the switch."""
        return f"alfred_moved_{sha256(self.tenant.encode()).hexdigest()[:8]}_{self.tenant}"[:63]

    @property
    def at_home(self) -> bool:
        """Whether the tenant is in the database with the directory."""
        return self.source is self.home


def ends_of(home: URL, tenant: str, to: URL) -> Ends:
    """Find where a tenant is, by the directory.

    Raises:
        ConflictError: It is in that database, or being moved to another one.
    """
    tenant = tenant_schema(tenant)
    at, target = passing_engine(home, "alfred-db move"), passing_engine(to, "alfred-db move")
    with translated(), at.connect() as connection, target.connect() as other:
        found = where(connection, tenant)
        if place(connection) == place(other) and found is None:
            raise ConflictError(f"tenant {tenant!r}: it is in this database; name another one")
        source = at
        if found is not None and found[1] is TenantMove.MOVED:
            there = with_secret(parse_url(found[0]), home)
            if there.set(password=None) != to.set(password=None):
                source = passing_engine(there, "alfred-db move")
    with translated(), source.connect() as connection:
        found = where(connection, tenant)
    if (
        found is not None
        and found[1] is TenantMove.MOVING
        and parse_url(found[0]).set(username=None) != to.set(username=None, password=None)
    ):
        raise ConflictError(
            f"tenant {tenant!r}: it is being moved to {found[0]}; run that move again, or abort it"
        )
    return Ends(tenant, at, source, target)


_PLACE = text("SELECT system_identifier, pg_catalog.current_database() FROM pg_catalog.pg_control_system()")


def place(connection: Connection) -> tuple[Any, ...]:
    """Return what only connections to the same database have in common, whatever their URLs."""
    return tuple(connection.execute(_PLACE).one())


_SUBSCRIBED = text("""
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_subscription WHERE subname = CAST(:name AS name)
            AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    )
""")


def is_subscribed(target: Connection, ends: Ends) -> bool:
    """Whether the target has the subscription of the move."""
    return bool(target.scalar(_SUBSCRIBED, {"name": ends.name}))


@contextmanager
def alone(engine: Engine) -> Generator[Connection]:
    """A connection whose statements commit alone: a subscription is made and dropped outside of a transaction."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def driver(connection: Connection) -> Any:
    """Return the connection of psycopg."""
    return connection.connection.driver_connection


def run(connection: Connection, *statements: str) -> None:
    """Execute statements without parameters."""
    for statement in statements:
        driver(connection).execute(statement)  # not by SQLAlchemy, so that a `%` is a `%`
