"""Statements that create and drop schemas, and look for rows. The revisions have copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.functions import OWNER_FUNCTIONS
from ..sql import MADE_HERE, literal, qualified, quoted

__all__ = [
    "Look",
    "create_schema",
    "drop_functions",
    "drop_schema",
    "function_signature",
    "name_tables_with_rows",
    "search_path",
]


def search_path(names: Sequence[str]) -> str:
    """Return the statement that sets the search_path of a transaction, temporary tables last."""
    return f"SET LOCAL search_path = {', '.join([*(quoted(name) for name in names), 'pg_temp'])}"


def create_schema(name: str) -> str:
    """Return the statement that creates a schema if it does not exist.

    `CREATE SCHEMA IF NOT EXISTS` would need the CREATE privilege even where the schema exists.
    """
    return f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {literal(name)}) THEN
                CREATE SCHEMA {quoted(name)};
                COMMENT ON SCHEMA {quoted(name)} IS '{MADE_HERE}';
            END IF;
        END $$
    """


def drop_schema(name: str) -> str:
    """Return the statement that drops a schema that this library created, if it is empty."""
    return f"""
        DO $$ BEGIN
            IF EXISTS (
                SELECT FROM pg_catalog.pg_namespace
                WHERE nspname = {literal(name)} AND pg_catalog.obj_description(oid, 'pg_namespace') = '{MADE_HERE}'
                    AND NOT EXISTS (
                        SELECT FROM pg_catalog.pg_depend
                        WHERE refclassid = CAST('pg_catalog.pg_namespace'::regclass AS oid) AND refobjid = pg_namespace.oid
                            AND classid <> CAST('pg_catalog.pg_default_acl'::regclass AS oid) /* they go with it */
                    )
            ) THEN
                DROP SCHEMA {quoted(name)};
            END IF;
        END $$
    """


def function_signature(home: str | None, function: str) -> str:
    """Return the name of one of `OWNER_FUNCTIONS` with the types of its arguments."""
    return f"{qualified(home, function)}({', '.join(OWNER_FUNCTIONS[function])})"


def drop_functions(home: str | None) -> list[str]:
    """Return the statements that drop `OWNER_FUNCTIONS`, which go with the last table of a tenant."""
    return [f"DROP FUNCTION IF EXISTS {function_signature(home, function)}" for function in OWNER_FUNCTIONS]


@dataclass(frozen=True, slots=True)
class Look:
    """A table that a downgrade drops, or drops a column of, and which of its rows are in the way."""

    table: str
    name: str
    """For people."""
    condition: str = "true"
    what: str = ""
    only_if_made_here: bool = False


def name_tables_with_rows(looks: Sequence[Look]) -> str:
    """Return a DO block that fails with the names of all tables whose rows are in the way; to be rolled back.

    It waits for those who write, so that their rows are seen, and not for those who read.
    """
    return f"""DO $look$
        DECLARE
            holding text[] := ARRAY[]::text[];
        BEGIN{"".join(_look(look) for look in looks)}
            IF pg_catalog.cardinality(holding) > 0 THEN
                RAISE EXCEPTION USING ERRCODE = 'AD001', MESSAGE = pg_catalog.format(
                    CASE pg_catalog.cardinality(holding) WHEN 1 THEN 'table %s holds rows' ELSE 'tables %s hold rows' END
                    || ', which this downgrade would destroy',
                    pg_catalog.array_to_string(holding, ', ')
                );
            END IF;
        END
        $look$"""


def _look(look: Look) -> str:
    found = f"to_regclass({literal(look.table)})"
    made_here = f" AND obj_description({found}, 'pg_class') = '{MADE_HERE}'" if look.only_if_made_here else ""
    holds = f"{look.name} ({look.what})" if look.what else look.name
    return f"""
            IF {found} IS NOT NULL{made_here} THEN
                LOCK TABLE {look.table} IN SHARE MODE;
                {_lift_policies(look.table)}
                IF EXISTS (SELECT FROM {look.table} WHERE {look.condition}) THEN
                    holding := holding || {literal(holds)}::text;
                END IF;
            END IF;"""


def _lift_policies(table: str) -> str:
    """Have no policy hide rows, not even one that is forced on the owner; for the rest of the transaction."""
    return (
        f"IF (SELECT relforcerowsecurity FROM pg_catalog.pg_class WHERE oid = CAST({literal(table)}::regclass AS oid))"
        f" THEN ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;"
        f" PERFORM pg_catalog.set_config('alfred_db.forced', {literal(table)}, true); END IF;"
        " PERFORM pg_catalog.set_config('row_security', 'off', true);"
    )
