"""Keys that start with a prefix, as a range of an index whose collation is C.

`starts_with` and LIKE use an index only while the planner knows the prefix, which it does not in a plan that is kept.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, bindparam

from ...types import Text
from .functions import func

__all__ = ["prefix_end", "prefixed"]

_SURROGATES = range(0xD800, 0xE000)


def prefixed(key: ColumnElement[Any], *, bounded: bool) -> list[ColumnElement[bool]]:
    """Return the conditions of a key that starts with `prefix`, and, if `bounded`, is before `end`."""
    prefix = bindparam("prefix", type_=Text)
    within = [key >= prefix, *([key < bindparam("end", type_=Text)] if bounded else [])]
    return [*within, func.starts_with(key, prefix)]


def prefix_end(prefix: str) -> str | None:
    """Return the first text, by code points, after all that start with a prefix; None if it has no such text."""
    for place in reversed(range(len(prefix))):
        after = ord(prefix[place]) + 1
        if after <= 0x10FFFF:
            return prefix[:place] + chr(_SURROGATES.stop if after in _SURROGATES else after)
    return None
