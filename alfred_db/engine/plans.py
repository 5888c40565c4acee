"""How long a connection keeps the plans of its prepared statements.

The driver prepares what runs often, and the server then keeps one plan of it. The plan is for the size that the tables
had when it was made: of an almost empty table it reads every row. The server replaces it only after ANALYZE, which
autovacuum may run a minute later, when a queue has grown by a hundred thousand rows. So each connection drops its plans
now and then, and the server makes each of them again with the next call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, event

from .status import status_of

__all__ = ["DROP_PLANS", "KeptPlans", "can_drop", "drop_plans_of"]

DROP_PLANS = "DISCARD PLANS"
"""The statement that drops the plans of a session, but not its prepared statements."""

FIRST = 32
"""The number of statements after which the plans are dropped first; then after twice as many, and so on."""

MOST = 4096
"""The number of statements after which they are dropped at the latest; making them again takes about a thousandth."""

SECONDS = 5.0
"""The time after which they are dropped at the latest, on a connection that is in use."""

LOOK = 16
"""The number of statements between two looks at the clock."""


@dataclass(slots=True)
class KeptPlans:
    """Counts the statements of one connection, and decides when to drop its plans."""

    _count: int = 0
    _next: int = FIRST
    _since: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Count a statement, and return whether to drop the plans now."""
        self._count = count = self._count + 1
        if count % LOOK:
            return False
        if count < self._next and time.monotonic() - self._since < SECONDS:
            return False
        self._next = count + min(count, MOST)
        self._since = time.monotonic()
        return True


def can_drop(driver: Any) -> bool:
    """Return whether the connection keeps plans and can run a statement."""
    return driver.prepare_threshold is not None and status_of(driver) in (
        TransactionStatus.IDLE,
        TransactionStatus.INTRANS,
    )


def drop_plans_of(engine: Engine, plans_of: Callable[[dict[Any, Any]], KeptPlans]) -> None:
    """Drop the plans of a connection when they are due, after a statement that SQLAlchemy runs.

    It is after the statement, because SET TRANSACTION must be the first one of a transaction.

    Args:
        engine: The engine whose connections are concerned.
        plans_of: Returns the `KeptPlans` of a connection with this `info`.
    """

    def after(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not plans_of(connection.info).due() or statement.startswith("SET "):
            return
        raw = connection.connection
        # A connection that was detached from the pool knows only the second.
        if can_drop(raw.driver_connection or raw.dbapi_connection):
            dropping = raw.cursor()
            try:
                dropping.execute(DROP_PLANS)
            finally:
                dropping.close()

    event.listen(engine, "after_cursor_execute", after)
