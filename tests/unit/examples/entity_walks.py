"""Example calls of the statements that walk through the entity graph."""

from __future__ import annotations

from unit.examples import Call, call

_SHAPES = [
    call("out", typed=False, dated=False),
    call("in", typed=True, dated=False),
    call("both", typed=True, dated=True),
]

EXAMPLES: dict[str, list[Call]] = {
    "neighbours": _SHAPES,
    "subgraph": _SHAPES,
    "steps": _SHAPES,
    "way": _SHAPES,
}
