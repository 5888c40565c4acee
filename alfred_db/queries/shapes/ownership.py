"""Statements that only the owner of a table may run, and the functions that run them for others."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Boolean, TextClause, text
from sqlalchemy.sql.selectable import TextualSelect

from ...models.functions import OWNER_FUNCTIONS
from ...types import Text

__all__ = ["call", "way"]


def way(home: str, owned: str, function: str) -> TextualSelect:
    """Select whether the role owns a table, and the function that does the same for others; NULL if it has none.

    The function must be of the owner of the tenant: one that somebody else has created there is not called.

    Args:
        home: The name of a table in the schema of the tenant, quoted where necessary.
        owned: The name of the table that has to be owned.
        function: One of `OWNER_FUNCTIONS`.
    """
    types = ", ".join(OWNER_FUNCTIONS[function])
    return (
        text(f"""
            SELECT
                pg_catalog.pg_has_role(owned.relowner, 'USAGE') AS owns,
                (
                    SELECT pg_catalog.format('%I.{function}', n.nspname)
                    FROM pg_catalog.pg_class AS home
                    JOIN pg_catalog.pg_namespace AS n ON n.oid = home.relnamespace
                    JOIN pg_catalog.pg_proc AS p ON p.oid = CAST(pg_catalog.to_regprocedure(
                        pg_catalog.format('%I.{function}({types})', n.nspname)
                    ) AS oid)
                    WHERE home.oid = CAST(pg_catalog.to_regclass(CAST(:home AS text)) AS oid)
                        AND p.prosecdef AND p.proowner = home.relowner
                        AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                        AND pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
                ) AS function
            FROM pg_catalog.pg_class AS owned
            WHERE owned.oid = CAST(pg_catalog.to_regclass(CAST(:owned AS text)) AS oid)
        """)
        .bindparams(home=home, owned=owned)
        .columns(owns=Boolean(), function=Text())
    )


def call(function: str, name: str, arguments: Sequence[str | int]) -> TextClause:
    """Call a function of `OWNER_FUNCTIONS`.

    Args:
        function: The function.
        name: Its name with its schema, quoted where necessary.
        arguments: Its arguments.
    """
    types = OWNER_FUNCTIONS[function]
    listed = ", ".join(f"CAST(:a{number} AS {type_})" for number, type_ in enumerate(types))
    bound = {f"a{number}": value for number, value in enumerate(arguments)}
    return text(f"SELECT {name.replace(':', chr(92) + ':')}({listed}) AS done").bindparams(**bound)
