"""`alfred-db erd`: the tables and their relations as a diagram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from .options import json_option
from .output import print_result

if TYPE_CHECKING:
    from sqlalchemy import Table

__all__ = ["erd"]


@click.command()
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--columns/--no-columns", default=True, help="Whether to show the columns of the tables.")
@json_option
def erd(words: tuple[str, ...], columns: bool, as_json: bool) -> None:
    """Print an entity-relationship diagram of the tables in Mermaid; needs no database.

    With WORDs only the tables whose names contain one of them, and those that they refer to.
    """
    tables = _chosen(words)
    lines = list(_lines(tables, columns))
    values = {"tables": [table.fullname for table in tables], "mermaid": "\n".join(lines)}
    print_result(values, *lines, as_json=as_json)


def _chosen(words: tuple[str, ...]) -> list[Table]:
    from ..models import Base

    tables = Base.metadata.sorted_tables
    if not words:
        return tables
    named = [table for table in tables if any(word.lower() in table.fullname for word in words)]
    if not named:
        raise click.BadParameter(f"no table has a name with {' or '.join(words)}")
    near = {key.column.table for table in named for key in table.foreign_keys}
    return [table for table in tables if table in near or table in named]


def _lines(tables: list[Table], columns: bool) -> Iterator[str]:
    yield "erDiagram"
    for table in tables:
        yield f"    {_name(table)} {{"
        for column in table.columns if columns else ():
            kind = "".join(letter if letter.isalnum() else "_" for letter in str(column.type).lower()).strip(
                "_"
            )
            keys = [
                key for key, is_one in (("PK", column.primary_key), ("FK", column.foreign_keys)) if is_one
            ]
            yield f"        {kind} {column.name} {', '.join(keys)}".rstrip()
        yield "    }"
    for table in tables:
        for constraint in sorted(table.foreign_key_constraints, key=lambda one: str(one.name)):
            if constraint.referred_table in tables:
                by = ", ".join(column.name for column in constraint.columns)
                optional = "o|" if any(column.nullable for column in constraint.columns) else "||"
                yield f"    {_name(constraint.referred_table)} {optional}--o{{ {_name(table)} : {by}"


def _name(table: Table) -> str:
    return table.fullname.replace(".", "_")
