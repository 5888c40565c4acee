"""What env.py runs: one command of Alembic, whichever door it came through."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, exc, text

from ..config import command, migration_url, tenant_schema
from ..engine.pool import passing_engine
from ..errors import AlfredDBError, ConflictError, MigrationLockTimeout, SchemaTooNewError, translated
from ..server.databases import VERSION_TABLE, mark_version_table
from ..sql import qualified
from . import autogenerate, preflight, rehearsal
from .ddl import create_schema, drop_functions, drop_schema, search_path
from .lock import locked
from .rehearsal import option
from .surroundings import CATALOG, choose_statements
from .version import current, home

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, RevisionStep

__all__ = ["run"]

TRIES = 10
"""How often a revision that could not get its locks is tried."""

_RETRIED = frozenset({"55P03", "40P01", "40001"})
_log = logging.getLogger("alfred_db")


def run() -> None:
    """Run the command that Alembic was started with; called by env.py alone."""
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
        on_version_apply=_mark_offline,
        **_settings(schema),
    )
    if schema is not None:
        context.execute(create_schema(schema))
    _settle_offline(schema)
    _look_offline()
    with context.begin_transaction():
        context.run_migrations()
    if _destination() == "base":
        for statement in drop_functions(schema):
            context.execute(statement)
        context.execute(f"DROP TABLE {qualified(schema, VERSION_TABLE)}")
        if schema is not None:
            context.execute(drop_schema(schema))


def _look_offline() -> None:
    """Begin the script of a downgrade with a look at all that it would drop; the transaction changes nothing."""
    from alembic import context

    migration = context.get_context()
    steps = _steps(migration, migration.get_current_heads())
    look = rehearsal.look_for_rows([step.migration_fn for step in steps if not step.is_upgrade])
    if look is not None:
        migration.impl.emit_begin()
        migration.impl.static_output(f"{look};")
        migration.impl.static_output("ROLLBACK;")


def _mark_offline(ctx: Any, step: Any, *_: Any, **__: Any) -> None:
    if step.is_upgrade and not step.source_revision_ids:
        schema = _schema()
        ctx.execute(mark_version_table(schema, tenant=schema is not None))


_FIND_EXTENSIONS = """
    DO $$ BEGIN
        PERFORM pg_catalog.set_config(
            'search_path', pg_catalog.concat_ws(', ', NULLIF(pg_catalog.current_setting('search_path'), ''), pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(CAST(nspname AS text)), ', ')), true
        )
        FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname IN ('vector', 'pg_trgm') AND nspname <> ALL (pg_catalog.current_schemas(true));
    END $$
"""


def _settle_offline(schema: str | None) -> None:
    """Have each transaction of the script set up what it needs, so that none is left in the session that runs it."""
    from alembic import context

    impl: Any = context.get_context().impl
    emit_begin = impl.emit_begin

    def begin() -> None:
        emit_begin()
        impl.static_output(f"SET LOCAL lock_timeout = '{preflight.TABLE_LOCK_TIMEOUT}';")
        if schema is not None:
            impl.static_output(search_path([schema, "public", "extensions"]) + ";")
        impl.static_output(_FIND_EXTENSIONS.strip() + ";")

    impl.emit_begin = begin


def _run_online() -> None:
    from alembic import context

    schema = _schema()
    url = migration_url(context.config.attributes.get("url"))
    destination = _destination()
    engine = passing_engine(url, "alfred-db migration")
    with engine.connect() as connection:
        if schema is not None:
            preflight.refuse_default(connection, schema)
        broker = option("target") == "broker"
        at = CATALOG if broker else home(connection) if schema is None else schema
        preflight.note_surroundings(connection, context.config.attributes, at)
        context.config.attributes["home"] = at
        context.config.attributes["path"] = connection.scalar(
            text("SELECT pg_catalog.current_schemas(false)")
        )
        preflight.settle(connection)
        done = _is_at(connection, at, destination)
        connection.rollback()
        if destination is None:
            _configure(connection, schema, at)
            with context.begin_transaction():
                context.run_migrations()
        if destination is None or done:
            return
        with locked(engine, CATALOG if broker else schema, beside=connection):
            if not _is_at(connection, at, destination):
                preflight.prepare_catalog(connection) if broker else preflight.prepare(connection, schema, at)
                _run_with_retries(connection, schema, at)
            if destination == "base":
                _leave_no_trace(connection, CATALOG if broker else schema, at)


def _schema() -> str | None:
    schema = rehearsal.option("schema")
    return None if schema is None else tenant_schema(schema)


def _destination() -> str | None:
    """Return the target revision, `base` included; None for a command that only reads."""
    from alembic import context

    try:
        return context.get_revision_argument() or "base"  # type: ignore[return-value]
    except KeyError:
        return None


def _settings(schema: str | None, at: str | None = None) -> dict[str, Any]:
    # The models are copied to the tenant's schema for a command that compares, and for no other: that takes longer than
    # most revisions.
    compared = autogenerate.settings(schema, at) if _destination() is None else {}
    return {
        **compared,
        "version_table": VERSION_TABLE,
        "version_table_schema": schema or at,
        "transaction_per_migration": True,
    }


def _configure(connection: Connection, schema: str | None, at: str | None = None) -> MigrationContext:
    from alembic import context

    context.configure(connection=connection, **_settings(schema, at))
    steps = context.get_context().opts.get("fn")
    if option("target") == "broker" and steps is not None:
        context.configure(connection=connection, fn=_shared_only(steps), **_settings(schema, at))
    choose_statements(context.get_context().impl, context.config.attributes)
    return context.get_context()


def _shared_only(steps: Any) -> Any:
    """The steps of a command, of which those of tenants do nothing: the database has the broker's catalog alone."""

    def chosen(heads: Any, migration: Any) -> Any:
        for step in steps(heads, migration):
            if not getattr(step.migration_fn, "shared", False):
                step.migration_fn = _nothing
            yield step

    return chosen


def _nothing(**_: Any) -> None: ...


def _is_at(connection: Connection, schema: str | None, destination: str | None) -> bool:
    """Return whether nothing is to do; refuse a database that a newer version of the library has upgraded."""
    from alembic import context

    found = current(connection, schema)
    if found is not None and found not in {step.revision for step in context.script.walk_revisions()}:
        raise SchemaTooNewError(
            f"the database is at revision {found!r}, which this version of alfred-db does not know:"
            " upgrade alfred-db, or connect to another database"
        )
    return (found or "base") == destination


def _steps(migration: MigrationContext, heads: tuple[str, ...]) -> list[RevisionStep]:
    """Return the steps of the command on a database at `heads`; `fn` is how it passes that to the migration context."""
    return list(migration.opts["fn"](heads, migration))


def _run(connection: Connection, migration: MigrationContext, schema: str | None, at: str | None) -> None:
    from alembic import context

    heads = migration.get_current_heads()
    steps = _steps(migration, heads)
    connection.rollback()
    undone = [step.migration_fn for step in steps if not step.is_upgrade]
    if undone:
        if option("linked") is not None and any(getattr(step, "shared", False) for step in undone):
            raise ConflictError(
                "the broker's catalog is linked from another database, which this downgrade leaves alone; unlink it first"
                f" ({command('catalog unlink', connection.engine.url)})"
            )
        if schema is None:
            _refuse_to_leave_tenants(connection, undone, at)
        if (look := rehearsal.look_for_rows(undone)) is not None:
            connection.execute(text(look))
            connection.rollback()
    elif steps:
        with connection.begin():
            if not heads:
                migration.stamp(
                    context.script, "base"
                )  # creates the version table, and finds no row to remove
            if connection.scalar(text(_UNMARKED), {"table": qualified(at, VERSION_TABLE)}):
                alone = schema is not None or option("target") == "broker"
                connection.execute(text(mark_version_table(at, tenant=alone)))
    with context.begin_transaction():
        context.run_migrations()


_UNMARKED = "SELECT pg_catalog.obj_description(pg_catalog.to_regclass(:table), 'pg_class') IS NULL"


def _refuse_to_leave_tenants(connection: Connection, undone: list[Any], at: str | None) -> None:
    """Refuse, before its first step, a downgrade that removes objects that tenants need."""
    if any(getattr(step, "shared", False) for step in undone) and (
        tenants := connection.scalars(
            text(_TENANTS), {"table": VERSION_TABLE, "own": qualified(at, VERSION_TABLE)}
        ).all()
    ):
        raise ConflictError(
            f"tenants of this database need what would be removed: {', '.join(tenants)}; remove each of them first"
            f" ({command('downgrade base', connection.engine.url, tenants[0])})"
        )
    connection.rollback()


_TENANTS = """
    SELECT nspname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = :table AND relkind = 'r' AND pg_class.oid IS DISTINCT FROM CAST(pg_catalog.to_regclass(:own) AS oid)
    ORDER BY nspname
"""


def _run_with_retries(connection: Connection, schema: str | None, at: str | None) -> None:
    """Run the revisions.

    A revision that cannot get a lock in time is rolled back, so that others go on, and is tried again.
    """
    migration = _configure(connection, schema, at)
    for attempt in range(1, TRIES + 1):
        try:
            _run(connection, migration, schema, at)
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
            "SELECT pid, application_name FROM pg_catalog.pg_stat_activity"
            " WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()"
            " ORDER BY xact_start LIMIT 3"
        )
    ).all()
    return (
        ", ".join(f"pid {row.pid} {row.application_name}".strip() for row in rows)
        or "none is visible to this role"
    )


def _leave_no_trace(connection: Connection, schema: str | None, at: str | None) -> None:
    """Drop the version table, the functions of grants, and the empty schema of a tenant."""
    connection.execute(text(f"DROP TABLE IF EXISTS {qualified(at, VERSION_TABLE)}"))
    for statement in drop_functions(at):
        connection.execute(text(statement))
    if schema is not None:
        connection.execute(text(drop_schema(schema)))
    connection.commit()
