"""Example arguments of every function of `alfred_db.queries`, one module a noun.

Each module holds `EXAMPLES: dict[str, list[Call]]`: the name of the function, and the calls that take each of its
branches. Use values that no column or table is named after: a test looks for them in the SQL text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Name(str):
    """An argument that belongs into the text of the statement: an identifier, or a choice between statements."""


def call(*args: Any, **kwargs: Any) -> Call:
    """The arguments of one call, as they would be written."""
    return Call(args, kwargs)
