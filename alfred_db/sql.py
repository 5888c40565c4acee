"""Names in SQL: quoting, and the schemas of the tables."""

from __future__ import annotations

__all__ = [
    "MADE_HERE",
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
"""Schemas that belong to the default tenant; another tenant has their tables in its own schema."""

MADE_HERE = "made by alfred-db"
"""The comment on a schema, table or function that a downgrade may drop; what others made carries none."""


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str | None, name: str) -> str:
    """A name in a schema; None leaves it to the search_path."""
    return name if schema is None else f"{quoted(schema)}.{name}"


def literal(text: str) -> str:
    """A text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def schema_translate_map(schema: str | None) -> dict[str | None, str | None] | None:
    """Where the tables of the tenant `schema` are: all in that one schema; None is the default tenant."""
    return None if schema is None else dict.fromkeys((None, *TENANT_SCHEMAS), schema)
