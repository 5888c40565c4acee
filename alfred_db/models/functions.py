"""The database functions that the tables need, as of the newest revision."""

from __future__ import annotations

__all__ = ["FUNCTIONS", "OWNER_FUNCTIONS", "OWN_FUNCTIONS"]

FUNCTIONS = (
    "extensions.sign(json, text, text)",
    "extensions.verify(text, text, text)",
)
"""Functions of an extension, or substitutes by this library: only their existence matters.

`extensions.uuid_generate_v4()` is not listed: it exists for raw SQL, and the library does not call it.
"""

OWN_FUNCTIONS = {
    "extensions.set_updated_at()": "cabacfaf24f2e283763d258ca4872f2e",
    "extensions.set_status_times()": "169aa489c82558c0798a631802b336bc",
    "extensions.make_month_partitions(regclass, integer)": "e4619d99e605f07614b16b5c6cd5e9d0",
}
"""Functions of this library, with the MD5 of their bodies."""

OWNER_FUNCTIONS = {
    "alfred_create_collection": ("text", "text"),
    "alfred_drop_collection": ("text", "text"),
    "alfred_create_space": ("bigint",),
    "alfred_index_space": ("bigint",),
    "alfred_drop_space": ("bigint",),
    "alfred_make_partitions": ("text", "integer"),
    "alfred_detach_partition": ("text", "text"),
    "alfred_drop_partition": ("text", "text"),
}
"""Functions in the schema of a tenant that run as its owner, with the types of their arguments.

`alfred-db grants` creates them for roles that use every table but own none; no revision does.
"""
