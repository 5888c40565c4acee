"""Filters of Qdrant, translated to filters of this library.

qdrant_filter({"must": [{"key": "lang", "match": {"value": "en"}}], "must_not": [{"has_id": [42]}]})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..queries.shapes.payload import read
from ..search.filters import Filter

__all__ = ["qdrant_filter"]


def qdrant_filter(data: Mapping[str, Any]) -> Filter:
    """Read a filter in Qdrant's JSON form, such as `models.Filter(...).model_dump()`.

    Keys are paths into the payload: `lang`, `author.name`, `tags[]`, `parts[0].name`, `"two words"`. A filter selects
    the points that Qdrant selects without a payload index; docs/howto/search.md lists the few differences.

    Args:
        data: `must`, `should`, `must_not` and `min_should`, with conditions `match` (value, any, except, text,
            text_any, phrase, prefix, substring), `range` (numbers or times), `values_count`, `geo_radius`,
            `geo_bounding_box`, `is_null`, `is_empty`, `has_id`, `nested`, and filters inside filters.

    Returns:
        A filter for `where=` of every method of `uow.knowledge`.

    Raises:
        InvalidFilter: The filter has something else; the message names it, and where.
    """
    return read(data)
