"""Migrations: where the revisions live, and how they are run safely whoever starts them.

Every door (plain `alembic`, `alfred-db upgrade`, `Database.upgrade()`) ends in `run`, so all share one lock, one
fast path and one set of time limits. Alembic itself is imported only when something is to be migrated.
"""

from __future__ import annotations

import io
import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, MetaData, exc, text
from sqlalchemy.sql.schema import SchemaConst

from . import extensions
from .config import migration_url, tenant_schema
from .engines import passing_engine
from .errors import (
    AlfredDBError,
    ConfigurationError,
    ConflictError,
    MigrationLockTimeout,
    SchemaDriftError,
    SchemaOutdatedError,
    SchemaTooNewError,
    translated,
)
from .models import Base
from .models.base import MADE_HERE, SHARED_SCHEMAS, TENANT_SCHEMAS, schema_translate_map
from .statements import create_schema, drop_schema, qualified, quoted

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

__all__ = [
    "VERSION_TABLE",
    "Revision",
    "check",
    "current",
    "downgrade",
    "head",
    "history",
    "include_name",
    "include_object",
    "location",
    "sql",
    "upgrade",
]

VERSION_TABLE = "alfred_db_version"
"""Ours alone, in the tenant's schema: a host application's `alembic_version` is not touched."""

LOCK_TIMEOUT = 600.0
"""Seconds to wait for another process that migrates the same schema."""

TABLE_LOCK_TIMEOUT = "2s"
"""How long a revision may wait for a table, and so make others wait behind it, before it steps back."""

TRIES = 10
"""How often a revision that could not get its locks is tried."""

_RETRIED = frozenset({"55P03", "40P01", "40001"})
_one_at_a_time = threading.Lock()
_log = logging.getLogger("alfred_db")


@dataclass(frozen=True, slots=True)
class Revision:
    """One step of the schema's history."""

    id: str
    summary: str


# Where the revisions are


def location() -> Path:
    """The folder of the revisions: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "migrations", package.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigurationError(
        f"no revisions found in {package / 'migrations'}: the installation is incomplete; install alfred-db again"
    )


def _config(url: str | URL | None = None, **options: Any) -> Config:
    from alembic.config import Config

    config = Config(attributes={"url": url, **options})
    config.set_main_option("script_location", str(location()).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def head() -> str:
    """The newest revision that this version of the library knows."""
    found = _scripts().get_current_head()
    assert found is not None
    return found


def history() -> list[Revision]:
    """All revisions, oldest first."""
    steps = list(_scripts().walk_revisions())
    return [Revision(step.revision, step.doc.splitlines()[0]) for step in reversed(steps)]


# What can be done


def upgrade(
    url: str | URL | None = None, revision: str = "head", *, schema: str | None = None, triggers: bool = True
) -> None:
    """Bring the database to `revision`: safe to run twice, from many threads and from many processes at once.

    `schema` makes or upgrades the tables of the tenant of that name; its database must have the shared
    catalogs already. `triggers=False` leaves out the `updated_at` triggers, which Citus cannot distribute.
    """
    from alembic import command

    with _one_at_a_time:
        command.upgrade(_config(url, schema=schema, triggers=None if triggers else "off"), revision)


def downgrade(
    url: str | URL | None, revision: str, *, schema: str | None = None, allow_data_loss: bool = False
) -> None:
    """Take the database back to `revision` (`base` for nothing of ours); refuses to drop rows unless allowed.

    Extensions stay, and so do schemas that this library did not make.
    """
    from alembic import command

    with _one_at_a_time:
        command.downgrade(_config(url, schema=schema, allow_data_loss=allow_data_loss or None), revision)


def current(connection: Connection, schema: str | None = None) -> str | None:
    """The revision that the database is at; None before the first."""
    table = qualified(schema, VERSION_TABLE)
    if connection.scalar(text("SELECT to_regclass(:table)"), {"table": table}) is None:
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {table}"))
    return found


def sql(revision: str = "head", *, schema: str | None = None, triggers: bool = True) -> str:
    """The SQL of an upgrade to `revision` (or `from:to`), for those who run it by hand; needs no database."""
    from alembic import command

    output = io.StringIO()
    config = _config(schema=schema, triggers=None if triggers else "off")
    config.output_buffer = output
    with _one_at_a_time:
        command.upgrade(config, revision, sql=True)
    return output.getvalue()


def check(url: str | URL | None = None, *, schema: str | None = None) -> None:
    """Raise SchemaDriftError when Alembic would generate a revision from the models."""
    from alembic import command
    from alembic.util import AutogenerateDiffsDetected, CommandError

    with _one_at_a_time:
        try:
            command.check(_config(url, schema=schema))
        except AutogenerateDiffsDetected as error:
            raise SchemaDriftError(
                f"the database differs from the models ({_summary(error.diffs)}): run `alembic upgrade head`,"
                " or restore what was changed"
            ) from None
        except CommandError as error:
            raise SchemaOutdatedError(f"{error}: run `alembic upgrade head` first") from None


def _summary(diffs: Any) -> str:
    flat = [diff for group in diffs for diff in (group if isinstance(group, list) else [group])]
    names = [
        " ".join(str(getattr(part, "name", part)) for part in diff[:4] if part is not None)
        for diff in flat[:10]
    ]
    return "; ".join(names) + (f"; and {len(flat) - 10} more" if len(flat) > 10 else "")


# Living beside another application's Alembic


def include_object(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """For a host application's `context.configure`: its autogenerate leaves our tables alone.

    A table that only the database has, in any schema, passes for a tenant's when its name is one of ours.
    """
    if type_ != "table":
        return True
    if reflected and compare_to is None and any(is_ours(item.name, home) for home in (None, *TENANT_SCHEMAS)):
        return False
    return not is_ours(item.name, item.schema)


def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
    """For a host application's `context.configure` with `include_schemas`: our schemas are not read at all."""
    if type_ == "schema":
        return name not in (*SHARED_SCHEMAS, *TENANT_SCHEMAS)
    return type_ != "table" or not is_ours(name or "", parent_names.get("schema_name"))


def is_ours(table: str, schema: str | None) -> bool:
    """Whether a table, or a partition of one, belongs to this library."""
    if table == VERSION_TABLE:
        return True
    known = [found for found in Base.metadata.tables.values() if found.schema == schema]
    parents = [found.name for found in known if found.dialect_options["postgresql"]["partition_by"]]
    return table in {found.name for found in known} or any(table.startswith(f"{name}_") for name in parents)


# What env.py runs


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
    context.execute(f"SET lock_timeout = '{TABLE_LOCK_TIMEOUT}'")
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
            'search_path', concat_ws(', ', NULLIF(current_setting('search_path'), ''), string_agg(DISTINCT quote_ident(nspname), ', ')), false
        )
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
            _refuse_default(connection, schema)
        done = _is_at(connection, schema, destination)
        connection.rollback()
        if destination is None:
            _configure_and_run(connection, schema)
        if destination is None or done:
            return
        with locked(engine, schema):
            if not _is_at(connection, schema, destination):
                _prepare(connection, schema)
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
    target = Base.metadata if schema is None else tenant_metadata(schema)
    return {
        "target_metadata": target,
        "version_table": VERSION_TABLE,
        "version_table_schema": schema,
        "transaction_per_migration": True,
        "include_schemas": True,
        "include_name": _only_ours(target),
        "include_object": _compared,
    }


def tenant_metadata(schema: str) -> MetaData:
    """The models' tables as the tenant `schema` has them, beside the shared ones that they refer to."""
    copy = MetaData(naming_convention=Base.metadata.naming_convention)
    mapping = schema_translate_map(schema) or {}

    def referred(
        table: Any, to_schema: str | None, constraint: Any, referred_schema: str | None
    ) -> str | None:
        return mapping.get(referred_schema, referred_schema)

    for table in Base.metadata.sorted_tables:
        home = mapping.get(table.schema, table.schema)
        table.to_metadata(copy, schema=home or SchemaConst.RETAIN_SCHEMA, referred_schema_fn=referred)
    return copy


def _only_ours(target: MetaData) -> Any:
    schemas = {table.schema for table in target.tables.values()}

    def include(name: str | None, type_: str, parent_names: Any) -> bool:
        if type_ == "schema":
            return name in schemas
        return type_ != "table" or parent_names["schema_qualified_table_name"] in target.tables

    return include


def _compared(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """Not compared: trigram indexes, which exist only where pg_trgm does, and tables that others own."""
    if type_ == "index" and reflected and (name or "").endswith("_trgm"):
        return False
    return (
        type_ != "table"
        or not reflected
        or item.schema not in ("auth", "storage")
        or item.comment == MADE_HERE
    )


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


def _prepare(connection: Connection, schema: str | None) -> None:
    """Check, before anything is changed, that the revisions can run; then set the session up for them."""
    facts = extensions.probe(connection)
    extensions.require(facts)
    if schema is None:
        extensions.require_rights(facts, (*SHARED_SCHEMAS, *TENANT_SCHEMAS))
    else:
        from .verify import require_shared

        require_shared(connection)
        connection.execute(text(create_schema(schema)))
    _refuse_strangers(connection, schema)
    path = [] if schema is None else [schema]
    path += connection.scalar(text("SELECT current_schemas(false)")) or []
    path += [
        status.schema for status in facts.extensions if status.name in ("vector", "pg_trgm") and status.schema
    ]
    unique = list(dict.fromkeys(path))
    connection.execute(text(f"SET search_path = {', '.join(quoted(name) for name in unique)}"))
    connection.execute(text(f"SET lock_timeout = '{TABLE_LOCK_TIMEOUT}'"))
    connection.execute(text(_NOTICE_DEATH))
    connection.commit()


# When this process is killed, its running statement must not keep its locks until it ends. Not on every platform.
_NOTICE_DEATH = """
    DO $$ BEGIN
        PERFORM set_config('client_connection_check_interval', '2s', false);
    EXCEPTION WHEN OTHERS THEN NULL;
    END $$
"""


def _refuse_default(connection: Connection, schema: str) -> None:
    """The default tenant's schema would pass for a tenant's: the version table is the same."""
    table = qualified(schema, "working_memory")
    if (current(connection, schema) or "") >= "alfred_0016" and connection.scalar(
        text("SELECT to_regclass(:table) IS NULL"), {"table": table}
    ):
        raise ConfigurationError(
            f"schema {schema!r} holds the default tenant: leave the schema out, or name another"
        )


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


def _refuse_strangers(connection: Connection, schema: str | None) -> None:
    """A table of ours without a version row was made by something else: adopting it blindly would lose columns."""
    if current(connection, schema) is not None:
        return
    if schema is None:
        # What another service may own is made only where it is missing.
        tables = [table for table in Base.metadata.sorted_tables if table.schema not in ("auth", "storage")]
        names = [qualified(table.schema, table.name) for table in tables]
    else:
        tables = [table for table in Base.metadata.sorted_tables if table.schema not in SHARED_SCHEMAS]
        names = [qualified(schema, table.name) for table in tables]
    found = connection.scalars(
        text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NOT NULL"),
        {"names": names},
    ).all()
    if found:
        raise SchemaDriftError(
            f"{', '.join(found)}: the database has these tables but no {VERSION_TABLE}, so something else made them;"
            " move them aside (ALTER TABLE ... SET SCHEMA ...), upgrade, and copy their rows over"
        )


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


_HOLDER = """
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND (CAST(classid AS bigint) << 32) | CAST(objid AS bigint) = :key
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@contextmanager
def locked(engine: Engine, schema: str | None, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold the migration lock of one tenant of one database, on a connection of its own.

    Polled, because a session that waits inside `pg_advisory_lock` holds a snapshot that stops every
    CREATE INDEX CONCURRENTLY of the one that works. The server frees it when the holder dies.
    """
    key = int.from_bytes(sha256(f"{VERSION_TABLE}:{schema or ''}".encode()).digest()[:8], signed=True)
    deadline = time.monotonic() + timeout
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        pids = {connection.scalar(text("SELECT pg_backend_pid()")) for _ in range(3)}
        if len(pids) > 1:
            raise ConfigurationError(
                "this connection goes through a transaction pooler, where the migration lock does not hold:"
                " set ALFRED_DB_MIGRATION_URL to the server's own address"
            )
        told = False
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}):
            if time.monotonic() > deadline:
                holder = connection.scalar(text(_HOLDER), {"key": key})
                raise MigrationLockTimeout(
                    f"another process (pid {holder} of the server) has been migrating for {timeout:.0f} s; wait for it,"
                    f" or end its session (SELECT pg_terminate_backend({holder})) and upgrade again",
                    retryable=True,
                )
            if not told:
                _log.info("another process is migrating this database; waiting for it")
                told = True
            time.sleep(random.uniform(0.1, 0.3))
        yield
