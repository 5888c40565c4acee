"""FastAPI with this library; see `alfred_db.integrations.fastapi`. Needs the extra `fastapi`."""

from __future__ import annotations

from .integrations.fastapi import (
    STATUS,
    AsyncDatabaseSession,
    AsyncUnit,
    DatabaseSession,
    Unit,
    add_exception_handlers,
    async_session,
    async_unit_of_work,
    get_database,
    lifespan,
    session,
    status_of_error,
    unit_of_work,
)

__all__ = [
    "STATUS",
    "AsyncDatabaseSession",
    "AsyncUnit",
    "DatabaseSession",
    "Unit",
    "add_exception_handlers",
    "async_session",
    "async_unit_of_work",
    "get_database",
    "lifespan",
    "session",
    "status_of_error",
    "unit_of_work",
]
