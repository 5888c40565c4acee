"""What a role that may only create in `public` can plant there, so that SQL of others calls it by mistake.

PostgreSQL takes the function or operator whose parameters fit best, from any schema of the search_path. So each name that
the library's SQL has is planted for the common types, in each combination that `pg_catalog` itself does not have.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, text

import alfred_db
from alfred_db import migrate

__all__ = ["CALLED", "leaning", "names", "plant"]

TYPES = [
    "text",
    "varchar",
    "name",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "json",
    "jsonb",
    "uuid",
    "timestamptz",
    "interval",
    "regclass",
    "oid",
    "regconfig",
    '"char"',
    "text[]",
    "int8[]",
    "uuid[]",
]
FEW = ["text", "varchar", "name", "int4", "int8", "oid", "text[]", "jsonb"]
OPERATORS = [
    "=",
    "<>",
    "<",
    ">",
    "<=",
    ">=",
    "+",
    "-",
    "*",
    "/",
    "%",
    "||",
    "->",
    "->>",
    "#>",
    "#>>",
    "@>",
    "<@",
    "?",
    "?|",
    "?&",
    "&&",
    "~",
    "~*",
    "!~",
    "~~",
    "~~*",
    "!~~",
    "@@",
    "&",
    "|",
    "<<",
    ">>",
]
CALLED = "public.planted_calls"


def names(connection: Connection) -> list[str]:
    """The functions of PostgreSQL whose names stand before a parenthesis in the sources of the library."""
    package = Path(alfred_db.__file__).parent
    found = {
        name.lower()
        for folder in (package, migrate.location())
        for path in folder.rglob("*.py")
        for name in re.findall(r"\b([a-z_0-9]+)\s*\(", path.read_text())
    }
    rows = connection.scalars(
        text(
            "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (:names)"
        ),
        {"names": sorted(found)},
    )
    return sorted(rows)


def plant(connection: Connection, role: str) -> int:
    """Plant everything as `role`; return the number of planted objects. A call of any of them is refused or detected."""
    wanted = names(connection)
    connection.execute(
        text(f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    )
    connection.execute(text(f"SET ROLE {role}"))
    connection.execute(text("CREATE SEQUENCE public.planted_calls"))
    connection.execute(text(_SHADOWS))
    connection.execute(text("SET LOCAL search_path = pg_catalog"))
    for part, of in (("operators", OPERATORS), ("functions", wanted)):
        lists = {"types": TYPES, "few": FEW, "names": of}
        for name, values in lists.items():
            connection.execute(
                text(
                    f"SELECT set_config('planted.{name}', array_to_string(CAST(:values AS text[]), ' '), true)"
                ),
                {"values": values},
            )
        driver: Any = connection.connection.driver_connection
        driver.execute(_PLANT[part])  # which has percent signs of its own
    connection.execute(text("RESET ROLE"))

    return int(
        connection.scalar(
            text("SELECT count(*) FROM pg_proc WHERE proowner = CAST(CAST(:role AS regrole) AS oid)"),
            {"role": role},
        )
        or 0
    )


def leaning(connection: Connection, role: str) -> list[str]:
    """What depends on anything that the role has planted, other than what it has planted itself."""
    connection.execute(text("SET LOCAL search_path = pg_catalog"))
    return list(
        connection.scalars(
            text("""
                SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) || ' on '
                    || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
                FROM pg_depend AS d
                WHERE (d.refclassid = 'pg_proc'::regclass AND d.refobjid IN
                        (SELECT oid FROM pg_proc WHERE proowner = CAST(CAST(:role AS regrole) AS oid))
                    AND d.classid <> 'pg_operator'::regclass)
                OR (d.refclassid = 'pg_operator'::regclass AND d.refobjid IN
                        (SELECT oid FROM pg_operator WHERE oprowner = CAST(CAST(:role AS regrole) AS oid)))
            """),
            {"role": role},
        )
    )


_SHADOWS = """
    CREATE TABLE public.pg_class (oid oid, relname name, relnamespace oid, relkind "char");
    CREATE TABLE public.pg_extension (oid oid, extname name, extnamespace oid, extversion text);
    CREATE TABLE public.pg_namespace (oid oid, nspname name, nspowner oid);
    CREATE TABLE public.pg_roles (oid oid, rolname name, rolsuper boolean);
    CREATE DOMAIN public.jsonb AS pg_catalog.text CHECK (false);
    CREATE DOMAIN public.uuid AS pg_catalog.text CHECK (false);
    CREATE DOMAIN public.regclass AS pg_catalog.text CHECK (false)
"""

_PLANT = {
    "operators": """
        DO $do$
        DECLARE
            types text[] := string_to_array(current_setting('planted.types'), ' ');
            body text := $body$ LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_catalog.nextval(''public.planted_calls''); RAISE EXCEPTION ''planted''; END' $body$;
            one text; other text; op text;
        BEGIN
            FOREACH one IN ARRAY types LOOP
                FOREACH other IN ARRAY types LOOP
                    EXECUTE format('CREATE FUNCTION public.planted(pg_catalog.%1$s, pg_catalog.%2$s) RETURNS boolean', one, other) || body;
                    FOREACH op IN ARRAY string_to_array(current_setting('planted.names'), ' ') LOOP
                        CONTINUE WHEN to_regoperator(format('pg_catalog.%s(pg_catalog.%s,pg_catalog.%s)', op, one, other)) IS NOT NULL
                            OR to_regoperator(format('public.%s(pg_catalog.%s,pg_catalog.%s)', op, one, other)) IS NOT NULL;
                        EXECUTE format(
                            'CREATE OPERATOR public.%s (FUNCTION = public.planted, LEFTARG = pg_catalog.%s, RIGHTARG = pg_catalog.%s)',
                            op, one, other
                        );
                    END LOOP;
                END LOOP;
            END LOOP;
        END $do$
    """,
    "functions": """
        DO $do$
        DECLARE
            types text[] := string_to_array(current_setting('planted.types'), ' ');
            few text[] := string_to_array(current_setting('planted.few'), ' ');
            body text := $body$ RETURNS boolean LANGUAGE plpgsql AS
                'BEGIN PERFORM pg_catalog.nextval(''public.planted_calls''); RAISE EXCEPTION ''planted''; END' $body$;
            signatures text[]; name text; one text;
        BEGIN
            SELECT array_agg(format('(pg_catalog.%s)', t)) INTO signatures FROM unnest(types) AS t;
            SELECT signatures || array_agg(format('(pg_catalog.%s, pg_catalog.%s)', t, u)) INTO signatures
                FROM unnest(few) AS t, unnest(few) AS u;
            FOREACH name IN ARRAY string_to_array(current_setting('planted.names'), ' ') LOOP
                FOREACH one IN ARRAY signatures LOOP
                    CONTINUE WHEN to_regprocedure(format('pg_catalog.%I%s', name, one)) IS NOT NULL
                        OR to_regprocedure(format('public.%I%s', name, one)) IS NOT NULL;
                    EXECUTE format('CREATE FUNCTION public.%I%s', name, one) || body;
                END LOOP;
            END LOOP;
        END $do$
    """,
}
