"""Migrations: where the revisions live, and how they are run safely.

Every door (plain `alembic`, `alfred-db upgrade`, `Database.upgrade()`) leads to alfred_db/migrate/env.py, so all share
one lock, one fast path and one set of time limits. Alembic is imported only when something is to be migrated.
"""

from __future__ import annotations

from ..server.databases import VERSION_TABLE
from .autogenerate import include_name, include_object
from .catalog_link import CatalogLink, check_catalog, link_catalog, refresh_catalog, unlink_catalog
from .commands import check, downgrade, sql, upgrade
from .distribute import Stage, distribute
from .version import Revision, current, head, history, home, location

__all__ = [
    "VERSION_TABLE",
    "CatalogLink",
    "Revision",
    "Stage",
    "check",
    "check_catalog",
    "current",
    "distribute",
    "downgrade",
    "head",
    "history",
    "home",
    "include_name",
    "include_object",
    "link_catalog",
    "location",
    "refresh_catalog",
    "sql",
    "unlink_catalog",
    "upgrade",
]
