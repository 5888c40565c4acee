"""The text of statements that make and drop schema objects, shared by the revisions and their runner."""

from __future__ import annotations

from .models.base import MADE_HERE

__all__ = ["create_schema", "drop_schema", "qualified", "quoted", "refuse_rows", "trigger"]


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str | None, name: str) -> str:
    """A name in a schema; None leaves it to the search_path."""
    return name if schema is None else f"{quoted(schema)}.{name}"


def create_schema(name: str) -> str:
    """Make a schema unless it is there, whoever owns it; `IF NOT EXISTS` would want the right to make it."""
    return f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {_literal(name)}) THEN
                CREATE SCHEMA {quoted(name)};
                COMMENT ON SCHEMA {quoted(name)} IS '{MADE_HERE}';
            END IF;
        END $$
    """


def drop_schema(name: str) -> str:
    """Drop a schema that this library made, if nothing else has moved in."""
    return f"""
        DO $$ BEGIN
            IF EXISTS (
                SELECT FROM pg_namespace
                WHERE nspname = {_literal(name)} AND obj_description(oid, 'pg_namespace') = '{MADE_HERE}'
                    AND NOT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = pg_namespace.oid)
            ) THEN
                DROP SCHEMA {quoted(name)};
            END IF;
        END $$
    """


def trigger(table: str) -> str:
    """Have raw SQL keep `updated_at`; a statement that sets it itself does not pay for the function."""
    return (
        f"CREATE TRIGGER set_updated_at BEFORE UPDATE ON {table} FOR EACH ROW"
        " WHEN (NEW.updated_at = OLD.updated_at) EXECUTE FUNCTION extensions.set_updated_at()"
    )


def refuse_rows(table: str) -> str:
    """The part of a DO block that goes no further when the table holds rows."""
    return (
        f"IF EXISTS (SELECT FROM {table}) THEN RAISE EXCEPTION USING ERRCODE = 'AD001', MESSAGE ="
        f" {_literal(f'table {table} holds rows, which this downgrade would destroy')}; END IF;"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
