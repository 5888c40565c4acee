"""What the revisions share: SQL that runs online and as `--sql`, for the default tenant and for a named one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from alembic import context, op
from sqlalchemy import text

from .models.base import MADE_HERE, TENANT_SCHEMAS
from .statements import create_schema, drop_schema, qualified, quoted, refuse_rows, trigger

__all__ = [
    "build_indexes",
    "create_schemas",
    "create_unless_exists",
    "ddl",
    "drop_if_made_here",
    "drop_schemas",
    "drop_tables",
    "option",
    "refuse_values",
    "shared",
    "trigger_of",
    "trigram_index",
    "updated_by_trigger",
]


def option(name: str) -> str | None:
    """An option of this run: `-x name=value` of any Alembic command, or what `alfred_db.migrate` was told."""
    given: Any = context.config.attributes.get(name)
    if given is None:
        given = context.get_x_argument(as_dictionary=True).get(name)
    return None if given is None else str(given)


def shared(step: Callable[[], None]) -> Callable[[], None]:
    """Mark `upgrade` or `downgrade` of a revision of the shared catalogs: a named tenant passes over it."""

    @wraps(step)
    def run() -> None:
        if option("schema") is None:
            step()

    run.shared = True  # type: ignore[attr-defined]
    return run


def ddl(sql: str) -> None:
    """Run SQL that names tables as the default tenant has them; a named tenant's are put in its own schema."""
    schema = option("schema")
    if schema is not None:
        home = quoted(schema)
        sql = re.sub(rf"\b({'|'.join(TENANT_SCHEMAS)})\.", lambda _: f"{home}.", sql)
    op.execute(sql.strip())


def create_schemas(*names: str) -> None:
    """Make the schemas that are missing; touch none that is there, whoever owns it."""
    for name in names:
        ddl(create_schema(name))


def drop_schemas(*names: str) -> None:
    """Drop the schemas that this library made, if nothing else has moved in."""
    for name in names:
        ddl(drop_schema(name))


def create_unless_exists(table: str, *statements: str | None) -> None:
    """Make a table, and what belongs to it, that another service may own already; its own is left untouched."""
    body = ";\n".join([*filter(None, statements), f"COMMENT ON TABLE {table} IS '{MADE_HERE}'"])
    ddl(f"DO $do$ BEGIN IF to_regclass('{table}') IS NULL THEN {body}; END IF; END $do$")


def drop_if_made_here(table: str) -> None:
    """Drop what `create_unless_exists` made; refuses rows as `drop_tables` does."""
    ddl(f"""
        DO $do$ BEGIN
            IF obj_description(to_regclass('{table}'), 'pg_class') = '{MADE_HERE}' THEN
                {"" if option("allow_data_loss") else refuse_rows(table)}
                DROP TABLE {table};
            END IF;
        END $do$
    """)


def drop_tables(*names: str) -> None:
    """Drop tables in the given order; refuses one that holds rows unless the run has `allow_data_loss=1`."""
    # The search_path of a tenant goes on to the default tenant's schema: an unqualified name could be found there.
    schema = option("schema")
    names = tuple(name if "." in name else qualified(schema, name) for name in names)
    if not option("allow_data_loss"):
        for name in names:
            ddl(f"DO $$ BEGIN {refuse_rows(name)} END $$")
    for name in names:
        ddl(f"DROP TABLE {name}")


def build_indexes(table: str, made_by: str, indexes: Mapping[str, str], *, unique: bool = False) -> None:
    """Build the named indexes of a table that the revision `made_by` made; an index is what follows ON the table.

    A table that may hold rows gets them CONCURRENTLY, outside of a transaction, so that it is written meanwhile: what
    the revision did before is committed, and must bear to be done again. An empty one gets them in the transaction.
    """
    schema, create = option("schema"), "CREATE UNIQUE INDEX" if unique else "CREATE INDEX"
    if context.is_offline_mode():
        start = context.get_starting_revision_argument()
        filled = start is not None and str(start) >= made_by
    else:
        filled = bool(op.get_bind().scalar(text(f"SELECT EXISTS (SELECT FROM {qualified(schema, table)})")))
        if filled:  # the search_path may be that of the transaction, which ends
            schema = op.get_bind().scalar(text(_SCHEMA_OF), {"name": qualified(schema, table)})
    if not filled:
        for name, definition in indexes.items():
            ddl(f"{create} {name} ON {qualified(schema, table)} {definition}")
        return
    with op.get_context().autocommit_block():
        for name, definition in indexes.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {qualified(schema, name)}")  # an earlier try's
            op.execute(f"{create} CONCURRENTLY {name} ON {qualified(schema, table)} {definition}")


_SCHEMA_OF = """
    SELECT nspname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = pg_catalog.to_regclass(:name)
"""


def refuse_values(table: str, condition: str, what: str) -> None:
    """Go no further when rows of a table meet the condition, unless the run has `allow_data_loss=1`."""
    if not option("allow_data_loss"):
        name = qualified(option("schema"), table)
        ddl(
            f"DO $$ BEGIN IF EXISTS (SELECT FROM {name} WHERE {condition}) THEN RAISE EXCEPTION USING ERRCODE = 'AD001',"
            f" MESSAGE = 'table {table} holds rows {what}, which this downgrade would forget'; END IF; END $$"
        )


def trigram_index(table: str, column: str) -> None:
    """Index a column for search by similar spelling, where pg_trgm is installed."""
    name = f"idx_{table.rpartition('.')[2]}_{column}_trgm"
    ddl(f"""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
                CREATE INDEX {name} ON {table} USING gin ({column} gin_trgm_ops);
            END IF;
        END $$
    """)


def updated_by_trigger(table: str) -> None:
    """Have raw SQL keep `updated_at`; left out with `-x triggers=off`, for Citus, which distributes no triggers."""
    if statement := trigger_of(table):
        ddl(statement)


def trigger_of(table: str) -> str | None:
    """The trigger of a table for `create_unless_exists`; None with `-x triggers=off`."""
    return None if option("triggers") == "off" else trigger(table)
