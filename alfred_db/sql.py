"""Names in SQL: quoting, and the schemas of tables."""

from __future__ import annotations

__all__ = [
    "LAST_KNOWN_CATALOG",
    "MADE_HERE",
    "OWN_INDEX",
    "SHARED_SCHEMAS",
    "TENANT_SCHEMAS",
    "literal",
    "qualified",
    "quoted",
    "schema_translate_map",
]

SHARED_SCHEMAS = ("extensions", "auth", "storage", "model_registry", "brk_registry")
"""Schemas of the catalogs that all tenants of a database share."""

TENANT_SCHEMAS = ("wm", "entity", "brk_tracking")
"""Schemas of the default tenant; those of another tenant are all in one schema."""

MADE_HERE = "made by alfred-db"
"""The comment on a schema, table or function that a downgrade may drop; objects of others do not have it."""


OWN_INDEX = "own_"
"""The beginning of the names of the indexes that `alfred-db indexes add` builds."""


LAST_KNOWN_CATALOG = "brk_registry_local"
"""The schema of the tables of the broker's catalog, where it is linked from another database: its last known state."""


def quoted(name: str) -> str:
    """Return a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str | None, name: str) -> str:
    """Return a name qualified with a schema; with None it is left to the search_path."""
    return name if schema is None else f"{quoted(schema)}.{name}"


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def schema_translate_map(schema: str | None) -> dict[str | None, str | None] | None:
    """Return the map from the schemas of the models to that of a tenant; None is the default tenant."""
    return None if schema is None else dict.fromkeys((None, *TENANT_SCHEMAS), schema)
