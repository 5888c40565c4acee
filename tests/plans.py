"""How the server would run a statement, and with how many rows that is tested."""

from __future__ import annotations

import os

from alfred_db.queries.shapes.explain import Explain

__all__ = ["SIZES", "Explain"]

SIZES = (0, 10_000, 300_000 if "ALFRED_DB_FAULTS" in os.environ else 60_000)
"""Rows of tables whose statements have to go by their indexes; to fill a table takes most of the time of such a test."""
