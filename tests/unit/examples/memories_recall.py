"""Example calls of the statement of recall."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {"recall": [call(7, 47), call(7, None)]}
