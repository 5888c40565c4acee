"""What the revisions share: SQL that runs online and as `--sql`, for the default tenant and for a named one."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from alembic import context, op

from .models.base import MADE_HERE, TENANT_SCHEMAS

__all__ = [
    "create_schemas",
    "create_unless_exists",
    "ddl",
    "drop_if_made_here",
    "drop_schemas",
    "drop_tables",
    "option",
    "shared",
    "trigger_sql",
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

    return run


def ddl(sql: str) -> None:
    """Run SQL that names tables as the default tenant has them; a named tenant's are put in its own schema."""
    schema = option("schema")
    if schema is not None:
        sql = re.sub(rf"\b({'|'.join(TENANT_SCHEMAS)})\.", f"{quoted(schema)}.", sql)
    op.execute(sql.strip().rstrip(";"))


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def create_schemas(*names: str) -> None:
    """Make the schemas that are missing; touch none that is there, whoever owns it."""
    for name in names:
        ddl(f"""
            DO $$ BEGIN
                IF to_regnamespace('{name}') IS NULL THEN
                    CREATE SCHEMA {quoted(name)};
                    COMMENT ON SCHEMA {quoted(name)} IS '{MADE_HERE}';
                END IF;
            END $$
        """)


def drop_schemas(*names: str) -> None:
    """Drop the schemas that this library made, if nothing else has moved in."""
    for name in names:
        ddl(f"""
            DO $$ BEGIN
                IF obj_description(to_regnamespace('{name}'), 'pg_namespace') = '{MADE_HERE}'
                    AND NOT EXISTS (SELECT FROM pg_depend WHERE refobjid = to_regnamespace('{name}'))
                THEN
                    DROP SCHEMA {quoted(name)};
                END IF;
            END $$
        """)


def drop_tables(*names: str) -> None:
    """Drop tables in the given order; refuses one that holds rows unless the run has `allow_data_loss=1`."""
    if not option("allow_data_loss"):
        for name in names:
            ddl(f"DO $$ BEGIN {guard_sql(name)} END $$")
    for name in names:
        ddl(f"DROP TABLE {name}")


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
    if option("triggers") != "off":
        ddl(trigger_sql(table))


def trigger_sql(table: str) -> str:
    """The statement that has raw SQL keep `updated_at`; statements that set it themselves do not pay for it."""
    return (
        f"CREATE TRIGGER set_updated_at BEFORE UPDATE ON {table} FOR EACH ROW"
        " WHEN (NEW.updated_at = OLD.updated_at) EXECUTE FUNCTION extensions.set_updated_at()"
    )


def create_unless_exists(table: str, *statements: str) -> None:
    """Make a table, and what belongs to it, that another service may own already; its own is left untouched."""
    body = ";\n".join(
        statement.strip() for statement in (*statements, f"COMMENT ON TABLE {table} IS '{MADE_HERE}'")
    )
    ddl(f"DO $do$ BEGIN IF to_regclass('{table}') IS NULL THEN\n{body};\nEND IF; END $do$")


def drop_if_made_here(table: str) -> None:
    """Drop what `create_unless_exists` made; refuses rows as `drop_tables` does."""
    guard = "" if option("allow_data_loss") else guard_sql(table)
    ddl(f"""
        DO $do$ BEGIN
            IF obj_description(to_regclass('{table}'), 'pg_class') = '{MADE_HERE}' THEN
                {guard}
                DROP TABLE {table};
            END IF;
        END $do$
    """)


def guard_sql(table: str) -> str:
    """The statement of a DO block that refuses to go on when the table holds rows."""
    return (
        f"IF EXISTS (SELECT FROM {table}) THEN RAISE EXCEPTION USING ERRCODE = 'AD001', MESSAGE ="
        f" 'table {table} holds rows, which this downgrade would destroy'; END IF;"
    )
