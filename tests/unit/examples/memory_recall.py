"""Example calls of the statements of recall."""

from __future__ import annotations

from unit.examples import Call, call
from unit.examples.spaces import SPACES

EXAMPLES: dict[str, list[Call]] = {"recall": [call(7, 47)], "recall_exactly": [call(7), call(7, SPACES[1])]}
