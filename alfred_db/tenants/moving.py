"""Moves of tenants between servers: copy, catch up by logical replication, and switch in a pause of seconds.

The stages of a move, each of which is found as it is when the move is run again:

    the source's directory says `moving` -> the schema is created on the target -> a publication and a subscription copy the rows
    -> the tables are locked, and the rest arrives -> the schema is renamed there, and its directory says `moved`
    -> the directory of the home database names the target

Until the switch, the home's directory names the source, where the tenant is used, and the move can be aborted.
"""

from __future__ import annotations

import time
import uuid

from sqlalchemy import URL, Connection, text
from sqlalchemy.orm import Session

from ..checks import within
from ..config import parse_url, tenant_schema
from ..engine.pool import passing_engine
from ..errors import ConflictError, DatabaseUnavailable, InvalidTransition, translated
from ..models import TenantMove
from ..repositories import EventRepository
from ..server.databases import VERSION_TABLE
from ..sql import literal, qualified, quoted, schema_translate_map
from .catalog import tenant_missing
from .directory import TenantMoveReport, forget, record, where, with_secret
from .move_copy import check, prepare
from .move_ends import HAS_SCHEMA, MARKER, Ends, Progress, alone, ends_of, place, run
from .move_replication import end_replication, replicate, wait_for_copy
from .places import place_of

__all__ = ["abort", "move"]

LOCK_TIMEOUT = "300ms"
"""How long writers wait behind a lock that the move does not get; shorter than the server's deadlock_timeout."""


def move(
    home: URL,
    tenant: str,
    to: str | URL,
    *,
    source_address: str | URL | None,
    timeout: float,
    longest_pause: float,
    drop: bool,
    progress: Progress | None,
) -> TenantMoveReport:
    """Move a tenant to another server; see `Tenants.move`."""
    within("timeout", timeout, 1, 864_000)
    within("longest_pause", longest_pause, 0.1, 600)
    say: Progress = progress or (lambda _: None)
    began = time.monotonic()
    ends = ends_of(home, tenant, parse_url(to))
    with translated():
        pause = 0.0
        if not _switched(ends):
            check(ends)
            prepare(ends, say)
            replicate(ends, parse_url(source_address) if source_address is not None else ends.source.url)
            wait_for_copy(ends, time.monotonic() + timeout, say)
            pause = _switch(ends, time.monotonic() + timeout, longest_pause, say)
        kept = _clean_up(ends, drop=drop)
        say("moved")
    shown = ends.target.url.set(password=None).render_as_string()
    return TenantMoveReport(tenant, shown, time.monotonic() - began, pause, kept)


def abort(home: URL, tenant: str) -> None:
    """Undo a move that has not switched yet; see `Tenants.abort_move`."""
    at = place_of(home, tenant_schema(tenant))
    with translated(), passing_engine(at.url, "alfred-db tenants").connect() as connection:
        found = where(connection, tenant)
    if found is None or found[1] is not TenantMove.MOVING:
        raise InvalidTransition(f"tenant {tenant!r}: it is not being moved")
    ends = ends_of(home, tenant, with_secret(parse_url(found[0]), home))
    with translated():
        end_replication(ends)
        with ends.source.begin() as source, ends.target.begin() as target:
            run(target, f"DROP SCHEMA IF EXISTS {quoted(tenant)} CASCADE")
            run(source, f"DROP TABLE IF EXISTS {qualified(tenant, MARKER)}")
            forget(source, tenant)


def _switched(ends: Ends) -> bool:
    """Whether the schema has been renamed already: what is left is to say so, and to clean up."""
    with ends.source.begin() as connection:
        done = bool(connection.scalar(HAS_SCHEMA, {"name": ends.old})) and not connection.scalar(
            HAS_SCHEMA, {"name": ends.tenant}
        )
        if not done and not connection.scalar(HAS_SCHEMA, {"name": ends.tenant}):
            raise tenant_missing(ends.source, ends.tenant)
    if done:
        _record_moved(ends)
    return done


# The switch


def _switch(ends: Ends, deadline: float, longest_pause: float, say: Progress) -> float:
    """Stop the writers, wait for the rest of the rows, and have the directory name the target; return the pause."""
    say("switching")
    there = ends.target.execution_options(schema_translate_map=schema_translate_map(ends.tenant))
    while True:
        began = time.monotonic()
        try:
            # Nothing is connected, and no catalog is read for the first time, while writers wait.
            with (
                ends.source.connect() as beside,
                alone(ends.target) as polled,
                there.connect() as target,
                ends.source.begin() as source,
            ):
                _require_same(ends, source, target)
                tables = source.scalars(text(_TABLES), {"schema": ends.tenant, "marker": MARKER}).all()
                run(source, f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                began = time.monotonic()
                # Writers wait from here on, and readers go on. A writer that waits finds no schema of this name afterwards.
                run(source, f"LOCK TABLE {', '.join(tables)} IN EXCLUSIVE MODE")
                _require_same(ends, source, target)
                _catch_up(ends, beside, polled, began + longest_pause)
                _continue(ends, source, target)
                run(
                    source,
                    f"DROP SCHEMA IF EXISTS {quoted(ends.old)} CASCADE",
                    f"ALTER TABLE {qualified(ends.tenant, VERSION_TABLE)} RENAME TO {VERSION_TABLE}_moved",
                    f"ALTER SCHEMA {quoted(ends.tenant)} RENAME TO {quoted(ends.old)}",
                )
                record(source, ends.tenant, ends.target.url, TenantMove.MOVED)
            break
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


def _require_same(ends: Ends, source: Connection, target: Connection) -> None:
    """Refuse the switch if tables or columns were made meanwhile, such as a collection: they are not replicated."""
    here, there = (
        {tuple(row) for row in one.execute(text(_COLUMNS), {"schema": ends.tenant})}
        for one in (source, target)
    )
    target.rollback()
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


def _catch_up(ends: Ends, beside: Connection, target: Connection, deadline: float) -> None:
    """Wait until everything that is committed has arrived: a row that is committed now arrives last."""
    mark = uuid.uuid4()
    table = qualified(ends.tenant, MARKER)
    with beside.begin():
        run(beside, f"INSERT INTO {table} VALUES ('{mark}')")
    while not target.scalar(text(f"SELECT EXISTS (SELECT FROM {table} WHERE id = '{mark}')")):
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(
                f"tenant {ends.tenant!r}: the target did not catch up in the time that writes may wait; run the move again,"
                " or with a longer pause",
                retryable=True,
            )
        time.sleep(0.01)


def _continue(ends: Ends, source: Connection, target: Connection) -> None:
    """Have the target number rows and events from where the source has stopped."""
    values = source.execute(text(_SEQUENCES), {"schema": ends.tenant}).all()
    with target.begin():
        for name, value in values:
            if value is not None:
                run(target, f"SELECT pg_catalog.setval({literal(name)}, {int(value)})")
    with Session(target) as session, session.begin():
        EventRepository(session).after_restore()


_SEQUENCES = """
    SELECT pg_catalog.concat(pg_catalog.quote_ident(CAST(schemaname AS text)), '.', pg_catalog.quote_ident(CAST(sequencename AS text))), last_value
    FROM pg_catalog.pg_sequences WHERE CAST(schemaname AS text) = CAST(:schema AS text)
"""


def _record_moved(ends: Ends) -> None:
    """Have the directory name the target; a source beside it has said so since the switch."""
    if not ends.at_home:
        with ends.source.begin() as source:
            forget(source, ends.tenant)
    with ends.home.begin() as connection, ends.target.connect() as target:
        if place(connection) == place(target):
            forget(connection, ends.tenant)
        else:
            record(connection, ends.tenant, ends.target.url, TenantMove.MOVED)


def _clean_up(ends: Ends, *, drop: bool) -> str | None:
    end_replication(ends)
    with ends.target.begin() as target:
        run(target, f"DROP TABLE IF EXISTS {qualified(ends.tenant, MARKER)}")
    if drop:
        with ends.source.begin() as source:
            run(source, f"DROP SCHEMA IF EXISTS {quoted(ends.old)} CASCADE")
    return None if drop else ends.old
