"""The transaction status of a connection, as the code that uses the connection sees it."""

from __future__ import annotations

from typing import Any

__all__ = ["status_of"]


def status_of(driver: Any) -> int:
    """Return whether a transaction is open, has failed, or runs a statement.

    It is libpq's status, except for the connections of a test (`alfred_db.testing`), whose transactions are savepoints.
    """
    status: int | None = getattr(driver, "transaction_status", None)
    return driver.pgconn.transaction_status if status is None else status
