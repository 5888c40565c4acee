"""Example calls of the statement that precedes upkeep."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {"due": [call(True), call(False), call(True, True)]}
