"""Quoting of identifiers and literals."""

from __future__ import annotations

__all__ = ["literal", "qualified", "quoted"]


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str | None, name: str) -> str:
    """A name in a schema; None leaves it to the search_path."""
    return name if schema is None else f"{quoted(schema)}.{name}"


def literal(text: str) -> str:
    """A text as a literal."""
    return "'" + text.replace("'", "''") + "'"
