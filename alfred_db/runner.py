"""What env.py runs: one command of Alembic, whichever door it came through."""

from __future__ import annotations

import logging
import random
import time
from typing import Any

from sqlalchemy import Connection, exc, text

from . import preflight, scope
from .config import migration_url, tenant_schema
from .engines import passing_engine
from .errors import AlfredDBError, ConflictError, MigrationLockTimeout, SchemaTooNewError, translated
from .locking import locked
from .migrate import VERSION_TABLE, current
from .statements import create_schema, drop_schema, qualified, quoted

__all__ = ["run"]

TRIES = 10
"""How often a revision that could not get its locks is tried."""

_RETRIED = frozenset({"55P03", "40P01", "40001"})
_log = logging.getLogger("alfred_db")


def run() -> None:
    """Carry out the command that Alembic was given; called by env.py alone."""
    from alembic import context
    from alembic.util import CommandError

    from_alembic = context.config.cmd_opts is not None
    if from_alembic and not logging.getLogger().handlers:
        for name in ("alembic.runtime.migration", "alfred_db"):
            logging.getLogger(name).addHandler(logging.StreamHandler())
            logging.getLogger(name).setLevel(logging.INFO)
    try:
        with translated():
            _run_offline() if context.is_offline_mode() else _run_online()
    except AlfredDBError as error:
        if from_alembic:
            raise CommandError(str(error)) from error
        raise


def _run_offline() -> None:
    from alembic import context

    schema = _schema()
    # The style of the parameters decides whether each `%` in the text is doubled.
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        **_settings(schema),
    )
    context.execute(f"SET lock_timeout = '{preflight.TABLE_LOCK_TIMEOUT}'")
    if schema is not None:
        context.execute(create_schema(schema))
        context.execute(f"SET search_path = {quoted(schema)}, public, extensions")
    context.execute(_FIND_EXTENSIONS)
    with context.begin_transaction():
        context.run_migrations()
    if _destination() == "base":
        context.execute(f"DROP TABLE {qualified(schema, VERSION_TABLE)}")
        if schema is not None:
            context.execute(drop_schema(schema))


_FIND_EXTENSIONS = """
    DO $$ BEGIN
        PERFORM set_config(
            'search_path', concat_ws(', ', NULLIF(current_setting('search_path'), ''), string_agg(DISTINCT quote_ident(nspname), ', ')), false)
        FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname IN ('vector', 'pg_trgm') AND nspname <> ALL (current_schemas(true));
    END $$
"""


def _run_online() -> None:
    from alembic import context

    schema = _schema()
    url = migration_url(context.config.attributes.get("url"))
    destination = _destination()
    engine = passing_engine(url, "alfred-db migration")
    with engine.connect() as connection:
        if schema is not None:
            preflight.refuse_default(connection, schema)
        done = _is_at(connection, schema, destination)
        connection.rollback()
        if destination is None:
            # The types of what is compared are looked for there; to the end of the transaction.
            connection.execute(text(_FIND_EXTENSIONS.replace(", false)", ", true)")))
            _configure_and_run(connection, schema)
        if destination is None or done:
            return
        with locked(engine, schema):
            if not _is_at(connection, schema, destination):
                preflight.prepare(connection, schema)
                if schema is None:
                    _refuse_to_leave_tenants(connection)
                _run_with_retries(connection, schema)
            if destination == "base":
                _leave_no_trace(connection, schema)


def _schema() -> str | None:
    from .revisions import option

    schema = option("schema")
    return None if schema is None else tenant_schema(schema)


def _destination() -> str | None:
    """The revision aimed at, `base` included; None for a command that only reads."""
    from alembic import context

    try:
        return context.get_revision_argument() or "base"  # type: ignore[return-value]
    except KeyError:
        return None


def _settings(schema: str | None) -> dict[str, Any]:
    return {
        **scope.settings(schema),
        "version_table": VERSION_TABLE,
        "version_table_schema": schema,
        "transaction_per_migration": True,
    }


def _configure_and_run(connection: Connection, schema: str | None) -> None:
    from alembic import context

    context.configure(connection=connection, **_settings(schema))
    with context.begin_transaction():
        context.run_migrations()


def _is_at(connection: Connection, schema: str | None, destination: str | None) -> bool:
    """The fast path; refuses a database that a newer version of the library has upgraded."""
    from alembic import context

    found = current(connection, schema)
    if found is not None and found not in {step.revision for step in context.script.walk_revisions()}:
        raise SchemaTooNewError(
            f"the database is at revision {found!r}, which this version of alfred-db does not know:"
            " upgrade alfred-db, or connect to another database"
        )
    return (found or "base") == destination


def _refuse_to_leave_tenants(connection: Connection) -> None:
    """Refuse, before the first step, a downgrade that would come upon what tenants need only in the middle."""
    from alembic import context

    context.configure(connection=connection, **_settings(None))
    migration = context.get_context()
    steps = migration._migrations_fn(migration.get_current_heads(), migration)  # type: ignore[misc]
    undone = [step.migration_fn for step in steps if not step.is_upgrade]
    if any(getattr(step, "shared", False) for step in undone) and (
        tenants := connection.scalars(text(_TENANTS), {"table": VERSION_TABLE}).all()
    ):
        raise ConflictError(
            f"tenants of this database need what would be removed: {', '.join(tenants)}; remove each of them first"
            f" (alembic -x schema={tenants[0]} downgrade base)"
        )
    connection.rollback()


_TENANTS = """
    SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = :table AND relkind = 'r' AND pg_class.oid IS DISTINCT FROM to_regclass(:table)
    ORDER BY nspname
"""


def _run_with_retries(connection: Connection, schema: str | None) -> None:
    """A revision that cannot get a lock in time steps back, so that others go on, and is tried again."""
    for attempt in range(1, TRIES + 1):
        try:
            _configure_and_run(connection, schema)
            return
        except exc.DBAPIError as error:
            connection.rollback()
            if getattr(error.orig, "sqlstate", None) not in _RETRIED:
                raise
            if attempt == TRIES:
                raise MigrationLockTimeout(
                    f"a table stayed locked in {TRIES} tries; end the transactions that hold it"
                    f" ({_oldest_transactions(connection)}) and upgrade again",
                    retryable=True,
                ) from error
            delay = min(5.0, 0.2 * 2**attempt) * random.uniform(0.5, 1.0)
            _log.info("a table is locked by others; trying again in %.1f s (%d of %d)", delay, attempt, TRIES)
            time.sleep(delay)


def _oldest_transactions(connection: Connection) -> str:
    rows = connection.execute(
        text(
            "SELECT pid, application_name FROM pg_stat_activity"
            " WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()"
            " ORDER BY xact_start LIMIT 3"
        )
    ).all()
    return (
        ", ".join(f"pid {row.pid} {row.application_name}".strip() for row in rows)
        or "none is visible to this role"
    )


def _leave_no_trace(connection: Connection, schema: str | None) -> None:
    """What Alembic itself would leave behind: the version table, and the tenant's schema if it is empty."""
    connection.execute(text(f"DROP TABLE IF EXISTS {qualified(schema, VERSION_TABLE)}"))
    if schema is not None:
        connection.execute(text(drop_schema(schema)))
    connection.commit()
