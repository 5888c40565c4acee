"""The options of a run, and the rehearsal of downgrades, which finds what they would drop.

Revisions import frozen operations (`operations_v1`) and nothing else of this library. They and the code that runs them
meet in the attributes of Alembic's configuration, which `operations_v1` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from alembic import context

from .ddl import Look, name_tables_with_rows

__all__ = ["look_for_rows", "option"]


def option(name: str) -> str | None:
    """Return an option of this run: `-x name=value` of any Alembic command, or a setting of `alfred_db.migrate`."""
    value: Any = context.config.attributes.get(name)
    if value is None:
        value = context.get_x_argument(as_dictionary=True).get(name)
    return None if value is None else str(value)


def look_for_rows(downgrades: Sequence[Callable[[], None]]) -> str | None:
    """Return the statement that fails with the names of all tables whose rows these downgrades would drop.

    None when nothing would be dropped, or rows may be. The downgrades are called, and execute nothing.
    """
    if not downgrades or option("allow_data_loss"):
        return None
    attributes: dict[str, Any] = context.config.attributes
    doomed: list[tuple[str, ...]] = []
    attributes["rehearsal"] = doomed
    try:
        for downgrade in downgrades:
            downgrade()
    finally:
        del attributes["rehearsal"]
    looks = _looks(doomed)
    return name_tables_with_rows(looks) if looks else None


def _looks(doomed: Iterable[tuple[str, ...]]) -> list[Look]:
    """What to look at; rows that a downgrade deletes itself are not data, as a revision put them there."""
    tables: dict[str, str] = {}
    if_made_here: dict[str, str] = {}
    not_data: dict[str, str] = {}
    values: list[Look] = []
    for kind, table, *rest in doomed:
        match kind:
            case "drop":
                tables[table] = rest[0]
            case "drop if made here":
                if_made_here[table] = rest[0]
            case "delete":
                not_data[table] = rest[0]
            case "forget":
                name, condition, what = rest
                values.append(Look(table, name, condition, what))
            case _:
                raise AssertionError(f"rehearsal: unknown entry {kind!r}")
    looks = [
        Look(table, name, f"NOT ({not_data[table]})" if table in not_data else "true")
        for table, name in tables.items()
    ]
    looks += [Look(table, name, only_if_made_here=True) for table, name in if_made_here.items()]
    return [*looks, *values]
