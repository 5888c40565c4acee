"""Which tenants a half of the generated suite runs for.

The two halves are one code, so one runs for the default tenant and the other for a named one; with
ALFRED_DB_TEST_ALL=1 both run for both.
"""

from __future__ import annotations

import os

TENANTS: dict[str, list[str | None]] = {"_async": [None], "_sync": ["acme"]}


def tenants(half: str) -> list[str | None]:
    """The schemas of the tenants; None is the default one."""
    return [None, "acme"] if os.environ.get("ALFRED_DB_TEST_ALL") else TENANTS[half]
