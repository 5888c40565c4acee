"""The replication of a move: a publication of the tenant, a subscription to it, and the wait for its copy."""

from __future__ import annotations

import time
from typing import Any

from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, text

from ..errors import DatabaseUnavailable
from ..sql import literal, quoted
from .move_ends import Ends, Progress, alone, is_subscribed, run

__all__ = ["end_replication", "replicate", "wait_for_copy"]


def replicate(ends: Ends, address: URL) -> None:
    """Publish the tenant on the source, and subscribe to it on the target; rows are copied first."""
    with ends.source.begin() as source:
        if not source.scalar(
            text("SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = CAST(:name AS name))"),
            {"name": ends.name},
        ):
            run(
                source,
                f"CREATE PUBLICATION {ends.name} FOR TABLES IN SCHEMA {quoted(ends.tenant)}"
                " WITH (publish_via_partition_root = true)",
            )
    with alone(ends.target) as target:
        if not is_subscribed(target, ends):
            run(
                target,
                f"CREATE SUBSCRIPTION {ends.name} CONNECTION {literal(_conninfo(address))}"
                f" PUBLICATION {ends.name} WITH (copy_data = true, streaming = off)",
            )


def _conninfo(url: URL) -> str:
    given: dict[str, Any] = {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username}
    given |= {"password": url.password, **url.query, "options": None}
    return make_conninfo(**{name: value for name, value in given.items() if value is not None})


def wait_for_copy(ends: Ends, deadline: float, say: Progress) -> None:
    """Wait until the rows that were there are on the target.

    Raises:
        DatabaseUnavailable: They are not by the deadline.
    """
    shown: int | None = None
    while True:
        with ends.target.connect() as target:
            ready, total = target.execute(text(_COPIED), {"name": ends.name}).one()
        if ready != shown:
            say(f"copied {ready} of {total} tables")
            shown = ready
        if total and ready == total:
            return
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(
                f"tenant {ends.tenant!r}: its rows are not copied in time ({ready} of {total} tables); the log of the target"
                " names what fails; run the move again to go on, or abort it",
                retryable=True,
            )
        time.sleep(0.2)


_COPIED = """
    SELECT pg_catalog.count(*) FILTER (WHERE srsubstate = 'r'), pg_catalog.count(*) FROM pg_catalog.pg_subscription_rel
    JOIN pg_catalog.pg_subscription ON pg_subscription.oid = srsubid WHERE subname = CAST(:name AS name)
"""


def end_replication(ends: Ends) -> None:
    """Drop the subscription with its slot, and the publication."""
    with alone(ends.target) as target:
        if is_subscribed(target, ends):
            run(target, f"DROP SUBSCRIPTION {ends.name}")
    with ends.source.begin() as source:
        run(source, f"DROP PUBLICATION IF EXISTS {ends.name}")
