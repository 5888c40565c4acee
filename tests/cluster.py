"""A cluster of Citus that ALFRED_DB_TEST_CITUS names, in place of the server that the suite starts.

The variable holds the URLs of superusers: the coordinator's, then those of the workers, with commas between them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from sqlalchemy import URL, NullPool, create_engine

from alfred_db import migrate
from alfred_db.config import parse_url
from alfred_db.sql import literal

NAME = "ALFRED_DB_TEST_CITUS"
MARK = "not_on_citus"


def nodes() -> Sequence[str]:
    """The URLs of the nodes, the coordinator's first; empty without a cluster."""
    return [url for url in os.environ.get(NAME, "").split(",") if url]


def statements(database: str, urls: Sequence[str]) -> list[tuple[str, str | None, str]]:
    """What makes a database on all nodes: the node, the database (None is that of its URL), and the statement."""
    made: list[tuple[str, str | None, str]] = [(url, None, f"CREATE DATABASE {database}") for url in urls]
    made += [(url, database, "CREATE EXTENSION citus") for url in urls]
    host, *workers = [parse_url(url) for url in urls]
    made.append((urls[0], database, f"SELECT citus_set_coordinator_host({_address(host)})"))
    made += [(urls[0], database, f"SELECT citus_add_node({_address(worker)})") for worker in workers]
    return made


def create(database: str, *, migrated: bool) -> URL:
    """Make a database on all nodes; return its URL on the coordinator.

    Citus cannot copy a template: a migrated one is migrated and distributed each time.
    """
    urls = nodes()
    for url, name, statement in statements(database, urls):
        execute(url, statement, name)
    found = parse_url(urls[0]).set(database=database)
    if migrated:
        migrate.upgrade(found)
        migrate.upgrade(found, schema="acme")
        migrate.distribute(found)
    return found


def drop(database: str) -> None:
    """Drop a database on all nodes."""
    for url in nodes():
        execute(url, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)", None)


def execute(url: str, statement: str, database: str | None) -> None:
    """Run a statement on a node, outside of a transaction."""
    target = parse_url(url) if database is None else parse_url(url).set(database=database)
    engine = create_engine(target, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def _address(url: URL) -> str:
    return f"{literal(url.host or 'localhost')}, {url.port or 5432}"
