"""Before anything is changed: whether the revisions can run here, and the session set up for them."""

from __future__ import annotations

from sqlalchemy import Connection, text

from . import extensions
from .errors import ConfigurationError, SchemaDriftError
from .migrate import VERSION_TABLE, current
from .models import Base
from .models.base import SHARED_SCHEMAS, TENANT_SCHEMAS
from .statements import create_schema, qualified, quoted
from .verify import require_shared

__all__ = ["TABLE_LOCK_TIMEOUT", "prepare", "refuse_default"]

TABLE_LOCK_TIMEOUT = "2s"
"""How long a revision may wait for a table, and so make others wait behind it, before it steps back."""

# When this process is killed, its running statement must not keep its locks until it ends. Not on every platform.
_NOTICE_DEATH = """
    DO $$ BEGIN
        PERFORM set_config('client_connection_check_interval', '2s', false);
    EXCEPTION WHEN OTHERS THEN NULL;
    END $$
"""


def prepare(connection: Connection, schema: str | None) -> None:
    """Check, before anything is changed, that the revisions can run; then set the session up for them."""
    facts = extensions.probe(connection)
    extensions.require(facts)
    if schema is None:
        extensions.require_rights(facts, (*SHARED_SCHEMAS, *TENANT_SCHEMAS))
        _require_others(connection, facts)
    else:
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


def refuse_default(connection: Connection, schema: str) -> None:
    """The default tenant's schema would pass for a tenant's: the version table is the same."""
    table = qualified(schema, "working_memory")
    if (current(connection, schema) or "") >= "alfred_0016" and connection.scalar(
        text("SELECT to_regclass(:table) IS NULL"), {"table": table}
    ):
        raise ConfigurationError(
            f"schema {schema!r} holds the default tenant: leave the schema out, or name another"
        )


def _require_others(connection: Connection, facts: extensions.Facts) -> None:
    """A schema of another service is filled by that service; what is missing there cannot be made without its leave."""
    if (current(connection) or "") >= "alfred_0005":
        return
    for name in extensions.OTHERS_TABLES:
        schema = facts.schema(name.partition(".")[0])
        if schema is not None and not schema.may_create and name not in facts.shared_tables:
            raise ConfigurationError(
                f"table {name}: it is missing, and its schema belongs to the role {quoted(schema.owner)}; have the service"
                f" of that role make it first, or run: GRANT USAGE, CREATE ON SCHEMA {quoted(schema.name)}"
                f" TO {quoted(facts.role)};"
            )


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
