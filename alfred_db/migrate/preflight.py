"""Before anything is changed: whether the revisions can run here, and how their transactions are set up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, event, text

from ..errors import ConfigurationError, ConflictError, SchemaDriftError, shown
from ..models import Base
from ..server import requirements
from ..server.citus import refuse_worker
from ..server.databases import VERSION_TABLE, VERSION_TABLES, moved_tenants, not_utf8
from ..sql import SHARED_SCHEMAS, TENANT_SCHEMAS, qualified, quoted
from .ddl import create_schema, search_path
from .verify import require_shared
from .version import current, reached

__all__ = ["TABLE_LOCK_TIMEOUT", "elsewhere", "prepare", "refuse_default", "settle"]

TABLE_LOCK_TIMEOUT = "1500ms"
"""How long a revision may wait for a table, and so make others wait behind it, before it steps back.

It is longer than the usual `deadlock_timeout` of a second, as only then does the server cancel an autovacuum that has the
table. One of a large table would last longer than all tries.
"""

# When this process is killed, its running statement must not keep its locks until it ends. Not on every platform.
_NOTICE_DEATH = """
    DO $$ BEGIN
        PERFORM pg_catalog.set_config('client_connection_check_interval', '2s', true);
    EXCEPTION WHEN OTHERS THEN NULL;
    END $$
"""


_VECTORS_HOME = """
    SELECT nspname FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace ON pg_namespace.oid = extnamespace
    WHERE extname = 'vector'
"""


def settle(connection: Connection) -> None:
    """Have each transaction of a connection find only objects of pg_catalog, and leave nothing in the session.

    What somebody has put into another schema of the search_path is not taken for PostgreSQL's own: the revisions, and
    what compares, name the schemas of the rest. The connection may be a pooler's, and the process may be killed: what
    is set ends with the transaction.
    """
    home = connection.scalar(text(_VECTORS_HOME))
    connection.rollback()
    dialect: Any = connection.dialect
    dialect.default_schema_name = "pg_catalog"
    known = dialect.ischema_names
    dialect.ischema_names = {
        **known,
        **{f"{home}.{name}": known[name] for name in ("vector", "halfvec", "sparsevec") if name in known},
    }
    local = (search_path(["pg_catalog"]), f"SET LOCAL lock_timeout = '{TABLE_LOCK_TIMEOUT}'", _NOTICE_DEATH)

    def begin(beginning: Connection) -> None:
        driver: Any = beginning.connection.driver_connection
        if driver.autocommit:  # there is no transaction, as for an index that is built CONCURRENTLY
            return
        for statement in local:
            beginning.exec_driver_sql(statement)

    event.listen(connection, "begin", begin)


def note_surroundings(connection: Connection, attributes: dict[str, Any], home: str | None) -> None:
    """Note for the revisions whether the broker's catalog is linked, and whether the server has Citus.

    Citus distributes no table with a trigger: no table gets one, unless those of a tenant that is not distributed have them.

    Raises:
        ConfigurationError: The server is a worker of Citus.
    """
    found = connection.execute(text(_SURROUNDINGS), {"home": home}).one()
    if found.linked:
        attributes["linked"] = "1"
    if found.citus:
        refuse_worker(connection)
        attributes["citus"] = "1"
        if not found.triggers:
            attributes["triggers"] = "off"


_SURROUNDINGS = """
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = 'brk_registry' AND relname = 'hosting_provider' AND relkind = 'v'
    ) AS linked,
    EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') AS citus,
    EXISTS (
        SELECT FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
        WHERE tgname = 'set_updated_at' AND relnamespace = CAST(pg_catalog.to_regnamespace(pg_catalog.quote_ident(:home)) AS oid)
    ) AS triggers
"""


def prepare_catalog(connection: Connection) -> None:
    """Check, before anything is changed, that a database can hold the broker's catalog alone; create its schema."""
    row = connection.execute(text(_ENCODING)).one()
    if row.encoding != "UTF8":
        raise ConfigurationError(not_utf8(row.name, row.encoding))
    connection.execute(text(create_schema("brk_registry")))
    connection.commit()


_ENCODING = """
    SELECT datname AS name, pg_catalog.pg_encoding_to_char(encoding) AS encoding FROM pg_catalog.pg_database
    WHERE datname = pg_catalog.current_database()
"""


def prepare(connection: Connection, schema: str | None, home: str | None) -> None:
    """Check, before anything is changed, that the revisions can run; create a tenant's schema."""
    connection.execute(
        text("SET LOCAL search_path = DEFAULT")
    )  # the role's, which is one of the things to check
    facts = requirements.probe(connection)
    requirements.require(facts)
    if schema is None:
        requirements.require_rights(facts, (*SHARED_SCHEMAS, *TENANT_SCHEMAS))
        _require_others(connection, facts, home)
    else:
        require_shared(connection)
        _refuse_moved(connection, schema)
        if facts.citus:  # what is created in the schema is on one worker from the start
            connection.execute(text("SET LOCAL citus.enable_schema_based_sharding = 'on'"))
        connection.execute(text(create_schema(schema)))
    _refuse_strangers(connection, schema, home)
    connection.commit()


def _refuse_moved(connection: Connection, schema: str) -> None:
    """Refuse to create a tenant that is on another server: nothing would find the second one."""
    url = moved_tenants(connection).get(schema)
    if url is not None and current(connection, schema) is None:
        raise elsewhere(schema, url)


def elsewhere(tenant: str, url: str) -> ConflictError:
    """Return the error for the name of a tenant that the directory has on another server."""
    return ConflictError(
        f"tenant {shown(tenant)}: it is on another server, {url}; use another name, move that tenant back, or drop it"
    )


def refuse_default(connection: Connection, schema: str) -> None:
    """Refuse the default tenant's schema as a named tenant's: the version table would be the same."""
    whole = connection.scalar(
        text(f"SELECT tenant FROM ({VERSION_TABLES}) AS versions WHERE schema = :schema"), {"schema": schema}
    )
    if whole is False and reached("alfred_0016_working_memory", current(connection, schema)):
        raise ConfigurationError(
            f"schema {schema!r} holds the default tenant: leave the schema out, or name another"
        )


def _require_others(connection: Connection, facts: requirements.Facts, home: str | None) -> None:
    """Raise if another service's schema lacks tables: only that service may create them."""
    if reached("alfred_0005_storage", current(connection, home)):
        return
    for name in requirements.OTHERS_TABLES:
        schema = facts.schema(name.partition(".")[0])
        if schema is not None and not schema.may_create and name not in facts.shared_tables:
            raise ConfigurationError(
                f"table {name}: it is missing, and its schema belongs to the role {quoted(schema.owner)}; have the service"
                f" of that role make it first, or run in {quoted(facts.database)}: GRANT USAGE, CREATE ON SCHEMA {quoted(schema.name)}"
                f" TO {quoted(facts.role)};"
            )


def _refuse_strangers(connection: Connection, schema: str | None, home: str | None) -> None:
    """Refuse tables of ours without a version row: something else made them, and they may lack columns."""
    if current(connection, schema or home) is not None:
        return
    if schema is None:
        # What another service may own is made only where it is missing.
        tables = [table for table in Base.metadata.sorted_tables if table.schema not in ("auth", "storage")]
        # Elsewhere in the search_path, another application may have a table of the same name.
        names = [qualified(table.schema or home, table.name) for table in tables]
    else:
        tables = [table for table in Base.metadata.sorted_tables if table.schema not in SHARED_SCHEMAS]
        names = [qualified(schema, table.name) for table in tables]
    found = connection.scalars(
        text(
            "SELECT name FROM pg_catalog.unnest(CAST(:names AS text[])) AS name WHERE pg_catalog.to_regclass(name) IS NOT NULL"
        ),
        {"names": names},
    ).all()
    if found:
        raise SchemaDriftError(
            f"{', '.join(found)}: the database has these tables but no {VERSION_TABLE}, so something else made them;"
            " move them aside (ALTER TABLE ... SET SCHEMA ...), upgrade, and copy their rows over"
        )
