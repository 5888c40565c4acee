"""The server of the pages."""

from __future__ import annotations

from collections.abc import Collection

import uvicorn
from sqlalchemy import text

from ..database import Database
from ..errors import translated
from .app import create_app

__all__ = ["serve"]

GRACE = 5
"""Seconds that running requests have to end after SIGTERM or SIGINT."""


def serve(
    db: Database, *, host: str, port: int, token: str | None = None, allowed_hosts: Collection[str] = ()
) -> None:
    """Serve until SIGTERM or SIGINT. The arguments are those of `create_app`, and the port.

    Raises:
        DatabaseUnavailable: The database cannot be reached.
    """
    app = create_app(db, host=host, token=token, allowed_hosts=allowed_hosts)
    with translated(), db.session() as session:
        session.execute(text("SELECT 1"))
    uvicorn.run(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=GRACE, server_header=False
    )
