"""Hostile values, and a call of every repository method that can be given one.

A specimen is the arguments of a call that works. Each text in them, and each key of a mapping, is replaced by each
hostile value in turn; what must happen then is said in tests/_async/test_injection.py. To add a method, add a specimen
of it: a key that ends in `, something` is another specimen of the same method.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from alfred_db.search.filters import Filter, FilterCondition
from alfred_db.values.rag import RagContext

from .ground import Ground

__all__ = [
    "HOSTILE",
    "JSON",
    "NO_JSON",
    "Lines",
    "Path",
    "Returns",
    "Specimens",
    "hostile",
    "leaf",
    "paths",
    "replaced",
]

Path = tuple[str | int, ...]
"""Where in the arguments a text is; `KEY` is the first key of a mapping, and not what it holds."""

Specimens = dict[str, Callable[[Ground], dict[str, Any]]]

KEY = "<key>"
JSON = {"k": "v"}
"""A JSON value in a specimen: any text can be its key, and any JSON its value."""

HOSTILE = {
    "text": """x'); DROP TABLE agent_registry; -- " ' '' $$ $1 /* */ \n#'; DELETE FROM agent_registry; COMMIT; --"""
    """ %s %(name)s %% %d :name ::text :1 {0} {name} ${x} %_\\%[a-z]*? \\n \\x00 \\u0000 E'\\'' {"a": 1} """
    "żółć 日本語 🦉 \u202e\u200b\ufeff a\u0301 \U0010ffff a\tb\nc\rd\x01\x1b\x7f\u0085\u2028",
    "empty": "",
    "nul": "a\x00b",
    "surrogate": "a\ud800b",
    "megabyte": "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(350_000)),
}
HOSTILE["long"] = HOSTILE["megabyte"][:10_000]

HALVES = {"_async": ("text", "megabyte"), "_sync": ("text", "empty", "nul", "surrogate")}


def hostile(half: str) -> dict[str, str]:
    """What a half of the generated suite yields, as the two are one code; with ALFRED_DB_TEST_ALL=1 both yield all."""
    return HOSTILE if os.environ.get("ALFRED_DB_TEST_ALL") else {kind: HOSTILE[kind] for kind in HALVES[half]}


_deep: list[Any] = []
for _ in range(100_000):
    _deep = [_deep]

NO_JSON = {"nan": float("nan"), "infinity": float("inf"), "object": object(), "bytes": b"x", "deep": _deep}


@dataclass
class Returns:
    """A callback that returns a text."""

    text: str

    def __call__(self, *_: object) -> str:
        return self.text


@dataclass
class Lines:
    """A file with one JSON object in it, as lines."""

    content: Mapping[str, Any]

    def __iter__(self) -> Iterator[str]:
        return iter([json.dumps(self.content)])


_WALKED = (FilterCondition, RagContext, Filter, Lines, Returns)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where texts and keys are; of a long list only the last element is looked at."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, Mapping):
        if value and path:
            yield (*path, KEY)
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        for place in range(len(value)) if len(value) < 100 else [len(value) - 1]:
            yield from paths(value[place], (*path, place))
    elif isinstance(value, _WALKED):
        for one in fields(value):
            yield from paths(getattr(value, one.name), (*path, one.name))


def replaced(value: Any, path: Path, new: Any) -> Any:
    """The arguments with another text there; the name of a JSON field keeps its column."""
    if not path:
        prefix = value.split(".")[0] + "." if isinstance(value, _Field) else ""
        return prefix + new if prefix else new
    first, *rest = path
    if first == KEY:
        (_, inner), *others = value.items()
        return {new: inner, **dict(others)}
    if isinstance(value, Mapping):
        return {**value, first: replaced(value.get(first), tuple(rest), new)}
    if isinstance(value, Sequence):
        changed = list(value)
        changed[int(first)] = replaced(value[int(first)], tuple(rest), new)
        return changed
    inner = getattr(value, str(first))
    if isinstance(value, FilterCondition) and first == "field" and "." in inner:
        inner = _Field(inner)
    return replace(value, **{str(first): replaced(inner, tuple(rest), new)})


class _Field(str):
    """A path into a JSON column."""


def leaf(found: Any, value: Any) -> bool:
    """Whether JSON that came from the database holds the value, or has it as a key."""
    if isinstance(found, dict):
        return value in found or any(leaf(inner, value) for inner in found.values())
    if isinstance(found, list):
        return any(leaf(inner, value) for inner in found)
    return bool(found == value)
