"""The directory of the tenants that are on other servers, and how a `Database` finds them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import URL, Connection, text
from sqlalchemy.orm import Session

from ..config import parse_url
from ..engine.session import DirectSession
from ..models import TenantMove

__all__ = ["TenantMoveReport", "forget", "record", "server_of", "where"]


@dataclass(frozen=True, slots=True)
class TenantMoveReport:
    """What a move did."""

    tenant: str
    server: str
    """The database that the tenant is in now, without a password."""
    seconds: float
    pause: float
    """Seconds in which writes waited."""
    kept: str | None
    """The schema with the old rows, which nothing uses; None if it was dropped."""


_WHERE = text("SELECT url, state FROM extensions.alfred_db_servers WHERE tenant = CAST(:tenant AS text)")
_HAS_DIRECTORY = text("SELECT pg_catalog.to_regclass('extensions.alfred_db_servers') IS NOT NULL")

_RECORD = text("""
    INSERT INTO extensions.alfred_db_servers (tenant, url, state) VALUES (:tenant, :url, :state)
    ON CONFLICT (tenant) DO UPDATE SET url = excluded.url, state = excluded.state, changed_at = excluded.changed_at
""")


def where(connection: Connection | Session, tenant: str) -> tuple[str, TenantMove] | None:
    """Return the URL and the state of a tenant in the directory; None if it is not in it."""
    if not connection.scalar(_HAS_DIRECTORY):  # a database of an older revision
        return None
    row = connection.execute(_WHERE, {"tenant": tenant}).one_or_none()
    return None if row is None else (row.url, TenantMove(row.state))


def record(connection: Connection, tenant: str, url: URL, state: TenantMove) -> None:
    """Set the server of a tenant, without the password."""
    shown = url.set(password=None, drivername="postgresql").render_as_string(hide_password=False)
    connection.execute(_RECORD, {"tenant": tenant, "url": shown, "state": state.value})


def forget(connection: Connection, tenant: str) -> None:
    """Remove a tenant from the directory: it is in this database."""
    connection.execute(
        text("DELETE FROM extensions.alfred_db_servers WHERE tenant = CAST(:tenant AS text)"),
        {"tenant": tenant},
    )


def server_of(session: Session, tenant: str, home: URL) -> URL | None:
    """Return the URL of the server that a tenant has been moved to, with the password of this one; None if it is here.

    The directory holds no passwords: a role has the same one on all servers.
    """
    if isinstance(session, DirectSession):
        session.take()
    found = where(session, tenant)
    session.rollback()
    if found is None or found[1] is not TenantMove.MOVED:
        return None
    return with_secret(parse_url(found[0]), home)


def with_secret(url: URL, home: URL) -> URL:
    """Return a URL of the directory with the user and the password of the database that has the directory."""
    return url.set(username=home.username, password=home.password)
