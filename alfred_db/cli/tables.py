"""Rows as JSON or as a table that fits the terminal."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import click

from .output import as_json_text

if TYPE_CHECKING:
    from ..models import Base

__all__ = ["as_dict", "one_line", "print_one", "print_page", "table"]

_HIDDEN = ("lease_token",)
"""A reader of the token could write as the holder."""
_NARROWEST = 8
"""The width that no column of a table is cut below."""


def as_dict(row: Base) -> dict[str, Any]:
    """Return the columns of a row by name, without vectors and what would let others write to it."""
    from sqlalchemy import inspect

    mapper = inspect(type(row))
    pairs = (
        (attribute.columns[0].name, attribute.key)
        for attribute in mapper.column_attrs
        if not attribute.deferred
    )
    return {name: getattr(row, key) for name, key in pairs if name not in _HIDDEN}


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """Return the rows as text in aligned columns.

    Args:
        columns: The names of the columns.
        rows: The rows.
        width: The width of the table: the widest columns are cut. None is the width of the terminal, and of a file or a
            pipe any.
    """
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    lines = [list(columns), *([one_line(row[name]) for name in columns] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return "\n".join(
        "  ".join(_cut(text, size).ljust(size) for text, size in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def print_page(
    name: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    next: str | None = None,
    as_json: bool = False,
) -> None:
    """Print a page of rows.

    Args:
        name: What the rows are, in the plural.
        columns: The columns of the table; JSON has all.
        rows: The rows.
        next: The cursor of the next page.
        as_json: Whether to print JSON.
    """
    if as_json:
        click.echo(as_json_text({name: rows, "next": next}))
        return
    click.echo(table(columns, rows) if rows else f"no {name}")
    if next is not None:
        click.echo(f"more: --after {next}")


def print_one(values: Mapping[str, Any] | Any, *, as_json: bool = False) -> None:
    """Print the columns of a row, or the fields of a dataclass."""
    found = cast("Mapping[str, Any]", values if isinstance(values, Mapping) else asdict(values))
    if as_json:
        click.echo(as_json_text(found))
        return
    longest = max(map(len, found), default=0)
    for name, value in found.items():
        if value is not None:
            click.echo(f"{name:<{longest}}  {one_line(value)}")


def one_line(value: object) -> str:
    """Return a value as text without line breaks."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return " ".join(str(value).split())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
