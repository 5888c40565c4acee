"""The server of the tests, the migrated template, and clones of it.

The server is the one of ALFRED_DB_TEST_URL, or an embedded one in a separate folder, which is kept for the next run. The
template is kept, too: its name has a hash of the revisions, so that one of other revisions is never used. The workers of
pytest-xdist make it once: the first one holds an advisory lock meanwhile, and renames it when it is complete. A clone is
dropped at the end. What a killed run leaves is dropped by the next one: each clone has an advisory lock, which its process
holds while it lives.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from sqlalchemy import URL

from .. import embedded, migrate
from ..config import parse_url
from ..errors import AlfredDBError

__all__ = ["Clones", "NoServer", "connection_parameters", "server_url"]

VARIABLE = "ALFRED_DB_TEST_URL"
_PREFIX = "alfred_clone_"
_MARK = "a copy for tests, made by alfred_db.testing"
"""The comment of each copy: another database is never dropped, whatever its name."""


class NoServer(Exception):
    """No server for the tests can be had; the text is one line."""


def server_url() -> URL:
    """Return the URL of a database on the server of the tests; start the embedded one if needed.

    Raises:
        NoServer: Neither is there.
    """
    given = os.environ.get(VARIABLE)
    try:
        if given:
            url = parse_url(given)
        elif embedded.available():
            url = parse_url(embedded.url(_folder()))
        else:
            raise NoServer(
                f"no server for the tests: set {VARIABLE} to the URL of a role that may create databases, or install"
                " alfred-db[embedded]"
            )
        with psycopg.connect(**connection_parameters(url)):
            return url
    except (AlfredDBError, psycopg.Error, OSError) as error:
        place = f"{VARIABLE} cannot be used" if given else "the embedded server does not start"
        raise NoServer(f"no server for the tests: {place}: {' '.join(str(error).split())}") from None


def _folder() -> Path:
    """Return the folder of the embedded server of tests, beside that of the usual one."""
    home = embedded.home()
    return home.with_name(f"{home.name}-test")


def connection_parameters(url: URL) -> dict[str, Any]:
    """Return the parameters of libpq for a URL."""
    from sqlalchemy.dialects.postgresql import psycopg as dialect

    _, found = dialect.dialect().create_connect_args(url)  # type: ignore[no-untyped-call]
    return {"connect_timeout": 10, "client_encoding": "UTF8", **found}


class Clones:
    """Makes databases that are copies of the migrated template.

    Args:
        server: A database on the server of the tests.
        worker: The name of the worker of pytest-xdist, for the names of the databases.
    """

    def __init__(self, server: URL, worker: str = "") -> None:
        self._server = server
        self._worker = worker
        self._connection = psycopg.connect(**connection_parameters(server), autocommit=True)
        self._template: str | None = None

    @contextmanager
    def clone(self) -> Generator[URL]:
        """Make a database, and drop it at the end."""
        name = f"{_PREFIX}{self._worker}{'_' if self._worker else ''}{secrets.token_hex(6)}"
        self._locks(name, "SELECT pg_catalog.pg_advisory_lock({})")
        try:
            statement = "CREATE DATABASE {} TEMPLATE {}"
            self._run(statement, name, self.template())
            self._connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(_MARK))
            )
            yield self._server.set(database=name)
        finally:
            self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
            self._locks(name, "SELECT pg_catalog.pg_advisory_unlock({})")

    def template(self) -> str:
        """Return the name of the template; make it if no run has made it."""
        if self._template is not None:
            return self._template
        name = f"alfred_template_{_fingerprint()}"
        self._locks(name, "SELECT pg_catalog.pg_advisory_lock({})")
        try:
            self._drop_left_over()
            if not self._exists(name):
                unfinished = f"{name}_new"
                self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", unfinished)
                self._run("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", unfinished)
                migrate.upgrade(self._server.set(database=unfinished))
                self._run("ALTER DATABASE {} RENAME TO {}", unfinished, name)
        finally:
            self._locks(name, "SELECT pg_catalog.pg_advisory_unlock({})")
        self._template = name
        return name

    def _drop_left_over(self) -> None:
        """Drop the clones of runs that were killed: they have the mark, and nobody holds their lock."""
        found = self._connection.execute(
            "SELECT datname FROM pg_catalog.pg_database"
            " WHERE pg_catalog.starts_with(datname, %s) AND pg_catalog.shobj_description(oid, 'pg_database') = %s",
            [_PREFIX, _MARK],
        ).fetchall()
        for (name,) in found:
            if self._locks(name, "SELECT pg_catalog.pg_try_advisory_lock({})"):
                try:
                    self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
                except psycopg.Error:  # of another role, or gone meanwhile
                    pass
                finally:
                    self._locks(name, "SELECT pg_catalog.pg_advisory_unlock({})")

    def _exists(self, name: str) -> bool:
        query = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s"
        return self._connection.execute(query, [name]).fetchone() is not None

    def _locks(self, name: str, statement: LiteralString) -> bool:
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        row = self._connection.execute(sql.SQL(statement).format(sql.Literal(key))).fetchone()
        return bool(row and row[0])

    def _run(self, statement: LiteralString, *names: str) -> None:
        composed = sql.SQL(statement).format(*(sql.Identifier(name) for name in names))
        self._connection.execute(composed)

    def close(self) -> None:
        """Close the connection, and so release the locks of the clones."""
        self._connection.close()


def _fingerprint() -> str:
    """Return a hash of the revisions, which make the template what it is."""
    digest = hashlib.sha256()
    for file in sorted((Path(migrate.location()) / "versions").glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
