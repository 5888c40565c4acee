"""Example calls of the statements of those who run workflows."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {
    "claim": [call([4711, 4712], limit=471)],
    "get": [call(4711)],
}
