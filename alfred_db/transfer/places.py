"""Where the tables of a tenant are."""

from __future__ import annotations

from ..models import Base
from ..sql import qualified, quoted, schema_translate_map
from .driver import Driver

__all__ = ["places_of"]

_HOME = """
    SELECT n.nspname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relname = 'alfred_db_version' AND pg_catalog.obj_description(c.oid, 'pg_class') LIKE %s
"""


def places_of(target: Driver, schema: str | None) -> dict[str, str]:
    """Return the quoted names of all tables, by their names in the models.

    Args:
        target: The database.
        schema: The tenant; None is the default tenant.
    """
    mapping = schema_translate_map(schema) or {}
    home = schema or target.one(_HOME, ["%default tenant"]) or next(iter(target.homes), "public")
    return {
        table.fullname: qualified(mapping.get(table.schema, table.schema) or home, quoted(table.name))
        for table in Base.metadata.sorted_tables
    }
