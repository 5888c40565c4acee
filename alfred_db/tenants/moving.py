"""Moves of tenants between servers: copy, catch up by logical replication, and switch in a pause of seconds.

The stages of a move, each of which is found as it is when the move is run again:

    the directory says `moving` -> the schema is created on the target -> a publication and a subscription copy the rows
    -> the tables are locked, and the rest arrives -> the schema is renamed here, and the directory says `moved`

Until the directory says `moved`, the tenant is used where it was, and the move can be aborted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.orm import Session

from .. import embedded, migrate
from ..checks import within
from ..config import command, parse_url, tenant_schema
from ..embedded import system
from ..engine.pool import passing_engine
from ..errors import (
    AlfredDBError,
    ConfigurationError,
    ConflictError,
    DatabaseUnavailable,
    InvalidTransition,
    NotFoundError,
    translated,
)
from ..models import Base, TenantMove
from ..repositories import EventRepository
from ..server.databases import VERSION_TABLE
from ..sql import literal, qualified, quoted, schema_translate_map
from .catalog import tenant_missing
from .directory import TenantMoveReport, forget, record, where

__all__ = ["abort", "move"]

MARKER = "alfred_db_move"
"""A table of the tenant, whose rows arrive on the target after everything that was committed before them."""

LOCK_TIMEOUT = "300ms"
"""How long writers wait behind a lock that the move does not get; shorter than the server's deadlock_timeout."""

Progress = Callable[[str], None]
"""Called with each stage, in words."""


def move(
    home: URL,
    tenant: str,
    to: str | URL,
    *,
    source_address: str | URL | None = None,
    timeout: float = 3600.0,
    longest_pause: float = 3.0,
    drop: bool = False,
    progress: Progress | None = None,
) -> TenantMoveReport:
    """Move a tenant to another server; see `Tenants.move`."""
    within("timeout", timeout, 1, 864_000)
    within("longest_pause", longest_pause, 0.1, 600)
    say: Progress = progress or (lambda _: None)
    began = time.monotonic()
    ends = _ends(home, tenant, parse_url(to))
    with translated():
        pause = 0.0
        if not _switched(ends):
            _check(ends)
            _prepare(ends, say)
            _replicate(ends, parse_url(source_address) if source_address is not None else ends.source.url)
            _wait_for_copy(ends, time.monotonic() + timeout, say)
            pause = _switch(ends, time.monotonic() + timeout, longest_pause, say)
        kept = _clean_up(ends, drop=drop)
        say("moved")
    shown = ends.target.url.set(password=None).render_as_string()
    return TenantMoveReport(tenant, shown, time.monotonic() - began, pause, kept)


def abort(home: URL, tenant: str) -> None:
    """Undo a move that has not switched yet; see `Tenants.abort_move`."""
    engine = passing_engine(home, "alfred-db tenants")
    with translated(), engine.begin() as connection:
        found = where(connection, tenant_schema(tenant))
    if found is None or found[1] is not TenantMove.MOVING:
        raise InvalidTransition(f"tenant {tenant!r}: it is not being moved")
    ends = _ends(home, tenant, parse_url(found[0]).set(username=home.username, password=home.password))
    with translated():
        if _switched(ends):
            raise InvalidTransition(
                f"tenant {tenant!r}: the switch is done; run the move again, which ends it"
            )
        _end_replication(ends)
        with ends.source.begin() as source, ends.target.begin() as target:
            _run(target, f"DROP SCHEMA IF EXISTS {quoted(tenant)} CASCADE")
            _run(source, f"DROP TABLE IF EXISTS {qualified(tenant, MARKER)}")
        with ends.home.begin() as connection:
            if ends.at_home:
                forget(connection, tenant)
            else:
                record(connection, tenant, ends.source.url, TenantMove.MOVED)


# The two ends


@dataclass(frozen=True, slots=True)
class _Ends:
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


def _ends(home: URL, tenant: str, to: URL) -> _Ends:
    tenant = tenant_schema(tenant)
    at, target = passing_engine(home, "alfred-db move"), passing_engine(to, "alfred-db move")
    with translated(), at.connect() as connection, target.connect() as other:
        found = where(connection, tenant)
        if _place(connection) == _place(other) and found is None:
            raise ConflictError(f"tenant {tenant!r}: it is in this database; name another one")
        source = at
        if found is not None and found[1] is TenantMove.MOVED:
            there = parse_url(found[0]).set(username=home.username, password=home.password)
            if there.set(password=None) != to.set(password=None):
                source = passing_engine(there, "alfred-db move")
        elif found is not None and parse_url(found[0]).set(username=None) != to.set(
            username=None, password=None
        ):
            raise ConflictError(
                f"tenant {tenant!r}: it is being moved to {found[0]}; run that move again, or abort it"
            )
    return _Ends(tenant, at, source, target)


def _place(connection: Connection) -> tuple[Any, ...]:
    return tuple(
        connection.execute(
            text(
                "SELECT system_identifier, pg_catalog.current_database() FROM pg_catalog.pg_control_system()"
            )
        ).one()
    )


def _switched(ends: _Ends) -> bool:
    """Whether the schema has been renamed already: what is left is to say so, and to clean up."""
    with ends.source.begin() as connection:
        done = bool(connection.scalar(_SCHEMA, {"name": ends.old})) and not connection.scalar(
            _SCHEMA, {"name": ends.tenant}
        )
        if not done and not connection.scalar(_SCHEMA, {"name": ends.tenant}):
            raise tenant_missing(ends.source, ends.tenant)
    if done:
        _record_moved(ends)
    return done


_SCHEMA = text(
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE CAST(nspname AS text) = CAST(:name AS text))"
)


def _check(ends: _Ends) -> None:
    """Refuse, before anything is changed, what would fail in the middle."""
    with ends.source.connect() as source:
        level = source.scalar(text("SELECT pg_catalog.current_setting('wal_level')"))
        if level != "logical":
            raise ConfigurationError(
                f"tenant {ends.tenant!r}: its server has wal_level={level}, and a move needs logical: ALTER SYSTEM SET wal_level ="
                " 'logical' as a superuser, restart the server, and run the move again; nothing was changed"
            )
        senders = source.scalar(text("SELECT CAST(pg_catalog.current_setting('max_wal_senders') AS integer)"))
        if not senders:
            raise ConfigurationError(
                f"tenant {ends.tenant!r}: its server has max_wal_senders=0, and a move needs 4; nothing was changed"
            )
        at = migrate.current(source, ends.tenant)
        if at != migrate.head():
            raise ConflictError(
                f"tenant {ends.tenant!r}: it is at {at or 'no revision'}, and is moved at {migrate.head()}; run"
                f" {command('upgrade', ends.source.url, ends.tenant)} first"
            )
        roles = source.scalars(text(_GRANTEES), {"schema": ends.tenant}).all()
    with ends.target.connect() as target:
        missing = [role for role in roles if not target.scalar(text(_ROLE), {"role": role})]
    if missing:
        raise NotFoundError(
            f"roles {', '.join(missing)}: they have rights on the tenant {ends.tenant!r}, and the target does not have them;"
            " create them there with the same passwords; nothing was changed"
        )


_ROLE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE CAST(rolname AS text) = CAST(:role AS text))"

_GRANTEES = """
    SELECT DISTINCT CAST(rolname AS text) FROM (
        SELECT acl.grantee FROM pg_catalog.pg_namespace CROSS JOIN LATERAL pg_catalog.aclexplode(nspacl) AS acl
        WHERE CAST(nspname AS text) = CAST(:schema AS text) AND acl.grantee <> nspowner
        UNION ALL
        SELECT acl.grantee FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        CROSS JOIN LATERAL pg_catalog.aclexplode(relacl) AS acl
        WHERE CAST(nspname AS text) = CAST(:schema AS text) AND acl.grantee <> relowner
    ) AS granted JOIN pg_catalog.pg_roles ON pg_roles.oid = granted.grantee ORDER BY 1
"""


# Copy


def _prepare(ends: _Ends, say: Progress) -> None:
    """Create on the target what the tenant needs, and its schema without rows."""
    with ends.target.connect() as target:
        found = migrate.current(target)
        there, subscribed = target.scalar(_SCHEMA, {"name": ends.tenant}), _subscribed(target, ends)
    if found != migrate.head():
        say("upgrading the target")
        migrate.upgrade(ends.target.url)
    if there and not subscribed:
        _require_own_copy(ends)
    with ends.home.begin() as connection:
        record(connection, ends.tenant, ends.target.url, TenantMove.MOVING)
    if there and subscribed:
        return
    say("copying the schema")
    _copy_catalogs(ends)
    with ends.source.begin() as source:
        _run(source, f"CREATE TABLE IF NOT EXISTS {qualified(ends.tenant, MARKER)} (id uuid PRIMARY KEY)")
    script = _definition(ends)
    with ends.target.begin() as target:
        _run(target, f"DROP SCHEMA IF EXISTS {quoted(ends.tenant)} CASCADE", script)
        _run(target, f"COMMENT ON TABLE {qualified(ends.tenant, MARKER)} IS {literal(ends.name)}")
        _run(target, "RESET ALL")


def _require_own_copy(ends: _Ends) -> None:
    """Refuse a tenant of this name on the target, unless an earlier try of this move has left it."""
    with ends.target.connect() as target:
        comment = target.scalar(
            text("SELECT pg_catalog.obj_description(pg_catalog.to_regclass(:table), 'pg_class')"),
            {"table": qualified(ends.tenant, MARKER)},
        )
    if comment != ends.name:
        raise ConflictError(
            f"tenant {ends.tenant!r}: the target has a tenant of this name already; drop it there, or name another server"
        )


def _definition(ends: _Ends) -> str:
    """Return the statements that create the schema, as pg_dump writes them."""
    url = ends.source.url
    shown = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, "PGPASSWORD": str(url.password or "")}
    done = subprocess.run(
        [
            *(str(_pg_dump(ends)), f"--dbname={shown}", "--schema-only", f"--schema={quoted(ends.tenant)}"),
            *("--no-owner", "--no-publications", "--no-subscriptions", "--no-comments"),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise DatabaseUnavailable(f"pg_dump: {' '.join(done.stderr.split())[:500]}")
    lines = [line for line in done.stdout.splitlines() if not re.match(r"\\|SET transaction_timeout", line)]
    with ends.source.connect() as source:
        comments = source.execute(text(_COMMENTS), {"schema": ends.tenant}).all()
    lines += [f"COMMENT ON {kind} {name} IS {literal(comment)};" for kind, name, comment in comments]
    return "\n".join(lines)


_COMMENTS = """
    SELECT 'SCHEMA', pg_catalog.quote_ident(CAST(nspname AS text)), pg_catalog.obj_description(oid, 'pg_namespace')
    FROM pg_catalog.pg_namespace
    WHERE CAST(nspname AS text) = CAST(:schema AS text) AND pg_catalog.obj_description(oid, 'pg_namespace') IS NOT NULL
    UNION ALL
    SELECT 'TABLE', pg_catalog.concat(pg_catalog.quote_ident(CAST(nspname AS text)), '.', pg_catalog.quote_ident(CAST(relname AS text))),
        pg_catalog.obj_description(pg_class.oid, 'pg_class')
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE CAST(nspname AS text) = CAST(:schema AS text) AND relkind IN ('r', 'p')
        AND pg_catalog.obj_description(pg_class.oid, 'pg_class') IS NOT NULL
"""


def _pg_dump(ends: _Ends) -> Path:
    """Return a pg_dump that is at least as new as the server."""
    with ends.source.connect() as source:
        wanted = source.scalar(
            text("SELECT CAST(pg_catalog.current_setting('server_version_num') AS integer) / 10000")
        )
    found = shutil.which("pg_dump")
    places = [Path(found)] if found else []
    if embedded.available():
        places.append(system.binaries() / "pg_dump")
    for place in places:
        version = re.search(
            r"(\d+)", subprocess.run([place, "--version"], capture_output=True, text=True).stdout
        )
        if version is not None and int(version[1]) >= wanted:
            return place
    raise ConfigurationError(
        f"pg_dump: none of version {wanted} or newer was found in PATH; install the client programs of PostgreSQL {wanted}"
    )


def _copy_catalogs(ends: _Ends) -> None:
    """Copy the shared catalogs to a target that has none, with their ids; otherwise they are kept as they are."""
    tables = [
        table for table in Base.metadata.sorted_tables if table.schema in ("model_registry", "brk_registry")
    ]
    with ends.source.begin() as source, ends.target.begin() as target:
        linked = target.scalar(
            text(
                "SELECT relkind = 'v' FROM pg_catalog.pg_class WHERE oid = CAST('brk_registry.model'::regclass AS oid)"
            )
        )
        filled = any(
            target.scalar(text(f"SELECT EXISTS (SELECT FROM {qualified(table.schema, table.name)})"))
            for table in tables
        )
        if linked or filled:
            return
        reader, writer = _driver(source), _driver(target)
        for table in tables:
            name = qualified(table.schema, table.name)
            columns = ", ".join(quoted(column.name) for column in table.c)
            with (
                reader.cursor().copy(f"COPY (SELECT {columns} FROM {name}) TO STDOUT") as rows,
                writer.cursor().copy(f"COPY {name} ({columns}) FROM STDIN") as into,
            ):
                for block in rows:
                    into.write(block)
            _run(
                target,
                f"SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence({literal(name)}, 'id'),"
                f" coalesce(pg_catalog.max(id), 0) + 1, false) FROM {name}",
            )


# Replication


def _replicate(ends: _Ends, address: URL) -> None:
    """Publish the tenant on the source, and subscribe to it on the target; rows are copied first."""
    with ends.source.begin() as source:
        if not source.scalar(
            text("SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = CAST(:name AS name))"),
            {"name": ends.name},
        ):
            _run(
                source,
                f"CREATE PUBLICATION {ends.name} FOR TABLES IN SCHEMA {quoted(ends.tenant)}"
                " WITH (publish_via_partition_root = true)",
            )
    with _alone(ends.target) as target:
        if not _subscribed(target, ends):
            _run(
                target,
                f"CREATE SUBSCRIPTION {ends.name} CONNECTION {literal(_conninfo(address))}"
                f" PUBLICATION {ends.name} WITH (copy_data = true, streaming = off)",
            )


def _conninfo(url: URL) -> str:
    given: dict[str, Any] = {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username}
    given |= {
        "password": url.password,
        **{name: value for name, value in url.query.items() if name != "options"},
    }

    def value(item: Any) -> str:
        return "'" + str(item).replace("\\", r"\\").replace("'", r"\'") + "'"

    return " ".join(f"{name}={value(item)}" for name, item in given.items() if item is not None)


def _subscribed(target: Connection, ends: _Ends) -> bool:
    return bool(
        target.scalar(
            text(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription WHERE subname = CAST(:name AS name)"
                " AND subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))"
            ),
            {"name": ends.name},
        )
    )


def _wait_for_copy(ends: _Ends, deadline: float, say: Progress) -> None:
    shown = -1
    while True:
        with ends.target.connect() as target:
            ready, total = target.execute(text(_COPIED), {"name": ends.name}).one()
        if ready != shown:
            say(f"copied {ready} of {total} tables")
            shown = ready
        if total and ready == total:
            return
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(
                f"tenant {ends.tenant!r}: its rows are not copied in time ({ready} of {total} tables); the log of the target"
                " names what fails; run the move again to go on, or abort it",
                retryable=True,
            )
        time.sleep(0.2)


_COPIED = """
    SELECT pg_catalog.count(*) FILTER (WHERE srsubstate = 'r'), pg_catalog.count(*) FROM pg_catalog.pg_subscription_rel
    JOIN pg_catalog.pg_subscription ON pg_subscription.oid = srsubid WHERE subname = CAST(:name AS name)
"""


# The switch


def _switch(ends: _Ends, deadline: float, longest_pause: float, say: Progress) -> float:
    """Stop the writers, wait for the rest of the rows, and have the directory name the target; return the pause."""
    say("switching")
    while True:
        began = time.monotonic()
        try:
            with ends.source.begin() as source:
                tables = source.scalars(text(_TABLES), {"schema": ends.tenant, "marker": MARKER}).all()
                _run(source, f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                began = time.monotonic()
                # Writers wait from here on, and readers go on. A writer that waits finds no schema of this name afterwards.
                _run(source, f"LOCK TABLE {', '.join(tables)} IN EXCLUSIVE MODE")
                _require_same(ends, source)
                _catch_up(ends, began + longest_pause)
                _continue(ends, source)
                _run(
                    source,
                    f"DROP SCHEMA IF EXISTS {quoted(ends.old)} CASCADE",
                    f"ALTER TABLE {qualified(ends.tenant, VERSION_TABLE)} RENAME TO {VERSION_TABLE}_moved",
                    f"ALTER SCHEMA {quoted(ends.tenant)} RENAME TO {quoted(ends.old)}",
                )
                if ends.at_home:
                    record(source, ends.tenant, ends.target.url, TenantMove.MOVED)
            break
        except AlfredDBError:
            raise
        except Exception as error:
            if getattr(error, "sqlstate", None) not in ("55P03", "40P01") or time.monotonic() > deadline:
                raise
            time.sleep(0.5)  # a transaction holds a lock; the writers that waited behind this one go on
    _record_moved(ends)
    return time.monotonic() - began


_TABLES = """
    SELECT pg_catalog.concat(pg_catalog.quote_ident(CAST(nspname AS text)), '.', pg_catalog.quote_ident(CAST(relname AS text)))
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE CAST(nspname AS text) = CAST(:schema AS text) AND relkind IN ('r', 'p') AND NOT relispartition
        AND CAST(relname AS text) <> CAST(:marker AS text)
    ORDER BY relname
"""


def _require_same(ends: _Ends, source: Connection) -> None:
    """Refuse the switch if tables or columns were made meanwhile, such as a collection: they are not replicated."""
    with ends.target.connect() as target:
        here, there = (
            {tuple(row) for row in one.execute(text(_COLUMNS), {"schema": ends.tenant})}
            for one in (source, target)
        )
    if changed := sorted({str(row[0]) for row in here ^ there}):
        raise ConflictError(
            f"tenant {ends.tenant!r}: tables were created or changed during the move ({', '.join(changed[:5])}); abort the"
            " move, and start it again"
        )


_COLUMNS = """
    SELECT CAST(relname AS text), CAST(attname AS text), pg_catalog.format_type(atttypid, atttypmod)
    FROM pg_catalog.pg_attribute JOIN pg_catalog.pg_class ON pg_class.oid = attrelid
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE CAST(nspname AS text) = CAST(:schema AS text) AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
"""


def _catch_up(ends: _Ends, deadline: float) -> None:
    """Wait until everything that is committed has arrived: a row that is committed now arrives last."""
    mark = uuid.uuid4()
    table = qualified(ends.tenant, MARKER)
    with ends.source.begin() as beside:
        _run(beside, f"INSERT INTO {table} VALUES ('{mark}')")
    with _alone(ends.target) as target:
        while not target.scalar(text(f"SELECT EXISTS (SELECT FROM {table} WHERE id = '{mark}')")):
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"tenant {ends.tenant!r}: the target did not catch up in the time that writes may wait; run the move again,"
                    " or with a longer pause",
                    retryable=True,
                )
            time.sleep(0.01)


def _continue(ends: _Ends, source: Connection) -> None:
    """Have the target number rows and events from where the source has stopped."""
    values = source.execute(text(_SEQUENCES), {"schema": ends.tenant}).all()
    with ends.target.begin() as target:
        for name, value in values:
            if value is not None:
                _run(target, f"SELECT pg_catalog.setval({literal(name)}, {int(value)})")
    engine = ends.target.execution_options(schema_translate_map=schema_translate_map(ends.tenant))
    with Session(engine) as session, session.begin():
        EventRepository(session).after_restore()


_SEQUENCES = """
    SELECT pg_catalog.concat(pg_catalog.quote_ident(CAST(schemaname AS text)), '.', pg_catalog.quote_ident(CAST(sequencename AS text))), last_value
    FROM pg_catalog.pg_sequences WHERE CAST(schemaname AS text) = CAST(:schema AS text)
"""


def _record_moved(ends: _Ends) -> None:
    with ends.home.begin() as connection, ends.target.connect() as target:
        if _place(connection) == _place(target):
            forget(connection, ends.tenant)
        else:
            record(connection, ends.tenant, ends.target.url, TenantMove.MOVED)


# Afterwards


def _clean_up(ends: _Ends, *, drop: bool) -> str | None:
    _end_replication(ends)
    with ends.target.begin() as target:
        _run(target, f"DROP TABLE IF EXISTS {qualified(ends.tenant, MARKER)}")
    if drop:
        with ends.source.begin() as source:
            _run(source, f"DROP SCHEMA IF EXISTS {quoted(ends.old)} CASCADE")
    return None if drop else ends.old


def _end_replication(ends: _Ends) -> None:
    with _alone(ends.target) as target:
        if _subscribed(target, ends):
            _run(target, f"DROP SUBSCRIPTION {ends.name}")
    with ends.source.begin() as source:
        _run(source, f"DROP PUBLICATION IF EXISTS {ends.name}")


@contextmanager
def _alone(engine: Engine) -> Generator[Connection]:
    """A connection whose statements commit alone: a subscription is made and dropped outside of a transaction."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection


def _run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        _driver(connection).execute(statement)  # without parameters, so that a `%` is a `%`
