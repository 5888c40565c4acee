"""Example calls of the statements of recall."""

from __future__ import annotations

from unit.examples import Call, call

EXAMPLES: dict[str, list[Call]] = {"recall": [call(7, 47)], "recall_exactly": [call(7)]}
