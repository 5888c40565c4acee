"""Migrations: where the revisions live, and how they are run safely.

Every door (plain `alembic`, `alfred-db upgrade`, `Database.upgrade()`) leads to alfred_db/migrate/env.py, so all share
one lock, one fast path and one set of time limits. Alembic is imported only when something is to be migrated.
"""

from __future__ import annotations

from ..server.databases import VERSION_TABLE
from .autogenerate import include_name, include_object
from .commands import check, downgrade, sql, upgrade
from .version import Revision, current, head, history, home, location

__all__ = [
    "VERSION_TABLE",
    "Revision",
    "check",
    "current",
    "downgrade",
    "head",
    "history",
    "home",
    "include_name",
    "include_object",
    "location",
    "sql",
    "upgrade",
]
