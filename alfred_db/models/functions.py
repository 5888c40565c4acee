"""The database functions that the tables rely on, as the newest revision leaves them."""

from __future__ import annotations

__all__ = ["FUNCTIONS", "OWN_FUNCTIONS"]

FUNCTIONS = (
    "extensions.sign(json, text, text)",
    "extensions.verify(text, text, text)",
)
"""Functions that an extension provides, or a stand-in of ours: only their presence matters.

`extensions.uuid_generate_v4()` is not among them: it is there for raw SQL, and nothing of ours calls it.
"""

OWN_FUNCTIONS = {
    "extensions.set_updated_at()": "cabacfaf24f2e283763d258ca4872f2e",
    "extensions.make_month_partitions(regclass, integer)": "e4619d99e605f07614b16b5c6cd5e9d0",
}
"""Functions of ours, with the MD5 of their bodies."""
