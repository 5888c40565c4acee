"""Paths into JSON as Qdrant writes them: `author.name`, `tags[]`, `parts[0].name`, `"two words".x`.

They are strict, as in Qdrant: `a.b` selects nothing if `a` is an array, and `a[].b` selects from each
element.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias, TypeGuard

from sqlalchemy import Boolean, ColumnElement, FromClause, column, literal, literal_column
from sqlalchemy import cast as cast_to
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, JSONPATH

from ...errors import InvalidFilter, shown
from ...types import Text
from .functions import func

Step: TypeAlias = str | int | None
"""A key, the index of an element, or None for each element."""

_STEP = re.compile(r'\.?(?:"(?P<quoted>[^"]*)"|(?P<key>[\w-]+))|\[(?P<place>[0-9]{0,9})\]')
_NO_VARIABLES = literal_column("'{}'::jsonb", JSONB)
WHOLE = literal_column("'{}'::text[]", ARRAY(Text))
"""The path of `#>>` that selects the value itself."""
_SILENT: ColumnElement[bool] = literal_column("true", Boolean)


@lru_cache(maxsize=1024)
def steps(key: str) -> tuple[Step, ...]:
    """Return the steps of a path.

    Raises:
        InvalidFilter: The text is not a path.
    """
    found: list[Step] = []
    end = 0
    while end < len(key):
        step = _STEP.match(key, end)
        # The first step is a key, and a key after another one has a dot before it.
        if step is None or (step[0][0] == ".") != (step["place"] is None and end > 0):
            break
        if step["place"] is None:
            found.append(step["key"] if step["quoted"] is None else step["quoted"])
        elif end:
            found.append(int(step["place"]) if step["place"] else None)
        else:
            break
        end = step.end()
    if not key or end < len(key) or "\0" in key:
        raise InvalidFilter(
            f"key: expected a path such as language, author.name or tags[], got {shown(key)}; put a key with other"
            " characters than letters, digits, _ and - into double quotes"
        )
    return tuple(found)


def jsonpath(text: str) -> ColumnElement[Any]:
    """Return a text as a bound jsonpath."""
    return cast_to(literal(text), JSONPATH)


def first_key(key: str) -> str:
    """Return the first step of a path, which is always a key."""
    first = steps(key)[0]
    assert isinstance(first, str)
    return first


@lru_cache(maxsize=1024)
def _path(key: str, start: int = 0) -> str:
    """Return the steps of a path from `start` on as jsonpath.

    Values that a step does not apply to are skipped, because an error would end the search.
    """
    parts = ["strict $"]
    for step in steps(key)[start:]:
        if step is None:
            parts.append('? (@.type() == "array")[*]')
        else:
            accessor = f"[{step}]" if isinstance(step, int) else f".{json.dumps(step)}"
            parts.append(f"? (exists (@{accessor})){accessor}")
    return " ".join(parts)


def found(document: ColumnElement[Any], key: str, start: int = 0) -> ColumnElement[Any]:
    """Return the values that a path selects, as one JSON array; `start` is the first step that is applied."""
    return query_array(document, _path(key, start))


def values(document: ColumnElement[Any], key: str, start: int = 0) -> ColumnElement[Any]:
    """Return the values that a path selects, with each array replaced by its elements.

    These are the values that conditions test.
    """
    # Lax: a value that is not an array is treated as an array of one element.
    return query_array(found(document, key, start), "lax $[*][*]")


def query_array(document: ColumnElement[Any], path: str) -> ColumnElement[Any]:
    """Return the values that a jsonpath selects, as one JSON array."""
    return func.jsonb_path_query_array(document, jsonpath(path), _NO_VARIABLES, _SILENT, type_=JSONB)


def path_exists(
    document: ColumnElement[Any], path: str, variables: Mapping[str, Any] | None = None
) -> ColumnElement[bool]:
    """Whether a jsonpath selects anything in a document."""
    given = literal(dict(variables), JSONB) if variables else _NO_VARIABLES
    result: ColumnElement[bool] = func.jsonb_path_exists(document, jsonpath(path), given, _SILENT)
    return result


def elements(array: ColumnElement[Any]) -> tuple[FromClause, ColumnElement[Any]]:
    """Return the elements of a JSON array as rows, and their column."""
    rows = func.jsonb_array_elements(array).table_valued(column("element", JSONB)).render_derived()
    return rows, rows.c.element


def containing(key: str, value: Any) -> list[Any] | None:
    """Return documents of which every match contains one, for the GIN index.

    None if containment cannot express the path, because it has an index of an element.
    """
    path = steps(key)
    if any(isinstance(step, int) for step in path):
        return None
    forms: list[Any] = [value, [value]]
    for step in reversed(path):
        forms = [[form] if step is None else {step: form} for form in forms]
    return forms


def values_at(payload: Any, key: str) -> list[Any]:
    """Return what `values` selects, for a document in Python."""
    found: list[Any] = [payload]
    for step in steps(key):
        if step is None:
            found = [element for one in found if is_list(one) for element in one]
        elif isinstance(step, int):
            found = [one[step] for one in found if is_list(one) and step < len(one)]
        else:
            found = [one[step] for one in found if isinstance(one, Mapping) and step in one]
    flat: list[Any] = []
    for one in found:
        flat += one if is_list(one) else [one]
    return flat


def is_list(value: Any) -> TypeGuard[list[Any]]:
    """Whether a value is a JSON array, as the driver returns one."""
    return isinstance(value, list)
