"""The lease under tasks and executions: kept by heartbeats, ended once, refused to whoever has lost it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import ClauseElement

from ...checks import check_text, plain_text, within
from ...errors import LeaseLost, lease_lost, shown, translated
from ...queries import leases as queries
from ...queries.leases import Leased, S
from ...queries.shapes.functions import func
from ...values.scheduler import ClaimedExecution
from ...values.task_columns import MAX_SECONDS
from ...values.tasks import ClaimedTask, TaskBackoff
from ...values.workflows import ClaimedWorkflow
from .driver import fetch

__all__ = ["PAUSES", "AsyncLeases", "lost", "taking", "waiting"]

C = TypeVar("C", ClaimedTask, ClaimedExecution, ClaimedWorkflow)

Claimed = ClaimedTask | ClaimedExecution | ClaimedWorkflow

PAUSES = (0.0, 0.02, 0.05, 0.1)
"""Seconds before each try of a call for several rows at those that other transactions have locked. Between them it waits
for no lock, which would be out of the order of the keys, and could end in a deadlock."""

_log = logging.getLogger("alfred_db")


class AsyncLeases(Generic[C, S]):
    """What the holders of the rows of one table do, in the caller's session and transaction.

    Each method is one statement that requires the token of the claim. When it finds no such row, a second one reads
    whether the caller ended it before: to repeat a call, as after a commit whose answer was lost, changes nothing.
    """

    def __init__(self, session: AsyncSession, leased: Leased[S]) -> None:
        self._session = session
        self._leased = leased

    async def heartbeat(self, claimed: C, lease: float | None) -> C:
        """Extend one lease; raises LeaseLost."""
        kept = await self.heartbeat_many([claimed], lease)
        if not kept:
            raise lost(self._leased, claimed)
        return kept[0]

    async def heartbeat_many(self, claimed: Sequence[C], lease: float | None) -> list[C]:
        """Extend several leases and return the new state of what is still held.

        By default each is extended to as long as it was claimed for. What another transaction has locked is
        returned as it was: neither extended nor lost.
        """
        kept: dict[Any, C] = {}
        for seconds in dict.fromkeys(one.lease if lease is None else lease for one in claimed):
            _check_lease(seconds)
            some = [one for one in claimed if lease is not None or one.lease == seconds]
            # Counted from before the statement: the local end must not be later than the database's.
            until = time.monotonic() + seconds
            span = {"lease": timedelta(seconds=seconds)}
            extended, locked, _ = await self._each(queries.heartbeat(self._leased), some, span)
            for one in some:
                if one.id in locked:
                    kept[one.id] = one
                elif one.id in extended:
                    _, expires, cancelled = extended[one.id]
                    kept[one.id] = one._replace(
                        lease=seconds,
                        held_until=until,
                        lease_expires_at=expires,
                        cancel_requested=cancelled is not None,
                    )
        return [kept[one.id] for one in claimed if one.id in kept]

    async def complete(self, claimed: C, values: Mapping[str, Any]) -> bool:
        """Complete one row, and return whether this call did so; raises LeaseLost."""
        if await fetch(self._session, queries.complete(self._leased), {**_key(claimed), **values}):
            return True
        await self._repeated(claimed, "completed")
        return False

    async def complete_many(self, claimed: Sequence[C]) -> list[C]:
        """Complete several rows, and return those that this call completed; raises LeaseLost if one is lost.

        What another transaction has locked is left out: it is still held.
        """
        if not claimed:
            return []
        done, locked, ended = await self._each(queries.complete_many(self._leased), claimed, {})
        for one in claimed:
            if one.id in locked:
                name = _name(self._leased, one)
                _log.warning("%s: another transaction has locked it; it is not completed yet", name)
            elif one.id not in done and ended.get(one.id) != "completed":
                raise lost(self._leased, one)
        return [one for one in claimed if one.id in done]

    async def fail(
        self, claimed: C, error: str | None, code: str, values: Mapping[str, Any], *, retry: bool = True
    ) -> S:
        """End a failed attempt and return what the row is now; raises LeaseLost."""
        code = plain_text(code)
        check_text("code", code)
        parameters = {
            **_key(claimed),
            "code": code,
            "message": error and plain_text(error),
            "retry": retry,
            **values,
        }
        rows = await fetch(self._session, queries.fail(self._leased), parameters)
        if rows:
            return self._leased.status(rows[0][0])
        return await self._repeated(claimed, "pending", "failed", "cancelled")

    async def release(self, claimed: C, delay: float) -> S:
        """Return a row unfinished, to wait for its next holder, and return what it is now; raises LeaseLost."""
        within("delay", delay, 0, MAX_SECONDS)
        parameters = _key(claimed)
        if delay:
            parameters["delay"] = timedelta(seconds=delay)
        rows = await fetch(self._session, queries.release(self._leased, delayed=bool(delay)), parameters)
        if rows:
            return self._leased.status(rows[0][0])
        return await self._repeated(claimed, "pending", "cancelled")

    async def reap(self, limit: int, backoff: TaskBackoff | None = None) -> dict[Any, S]:
        """Take rows from holders whose lease or attempt has run out, and return what they are now."""
        spread = {} if backoff is None else _numbers(backoff) | {"jitter": float(backoff.jitter)}
        rows = await fetch(self._session, queries.reap(self._leased, limit), spread)
        return {row[0]: self._leased.status(row[1]) for row in rows}

    async def _each(
        self, statement: ClauseElement, claimed: Sequence[C], parameters: Mapping[str, Any]
    ) -> tuple[dict[Any, Sequence[Any]], dict[Any, C], dict[Any, str]]:
        """Run a statement over rows that are held, and again over those of them that others have locked.

        Returns what it wrote, what is still locked, and the statuses of what the caller ended before. What is in
        none of these is lost.
        """
        written: dict[Any, Sequence[Any]] = {}
        ended: dict[Any, str] = {}
        left: dict[Any, C] = {one.id: one for one in claimed}
        for pause in PAUSES:
            if pause:
                await self._pause(pause)
            rows = await fetch(self._session, statement, {**_keys(left.values()), **parameters})
            for row in rows:
                written[row[0]] = row
                del left[row[0]]
            if left:
                found = await self._standing(left.values())
                ended |= {id: status for id, status in found.items() if status != self._leased.running}
                left = {id: one for id, one in left.items() if found.get(id) == self._leased.running}
            if not left:
                break
        return written, left, ended

    async def _repeated(self, claimed: C, *statuses: str) -> S:
        """The status of a row that its last holder has ended before; to all others it is lost."""
        status = (await self._standing([claimed])).get(claimed.id)
        if status not in statuses:
            raise lost(self._leased, claimed)
        return self._leased.status(status)

    async def _standing(self, claimed: Collection[C]) -> dict[Any, str]:
        rows = await fetch(self._session, queries.standing(self._leased), _keys(claimed))
        return {row[0]: row[1] for row in rows}

    async def _pause(self, seconds: float) -> None:
        """Let other transactions end."""
        with translated():
            await self._session.execute(select(func.pg_sleep(seconds)))


def lost(leased: Leased[Any], claimed: Claimed) -> LeaseLost:
    """The error for a row that the caller does not hold any more."""
    return lease_lost(_name(leased, claimed))


def taking(worker: str, lease: float) -> dict[str, Any]:
    """The parameters of a claim: one token for all that it takes, which no other claim has."""
    _check_lease(lease)
    check_text("worker", worker)
    return {"worker": worker, "token": uuid.uuid4(), "lease": timedelta(seconds=lease)}


def waiting(delay: float | None, backoff: TaskBackoff) -> dict[str, float]:
    """The parameters of a wait for the next attempt: so many seconds, or the back-off."""
    if delay is not None:
        within("delay", delay, 0, MAX_SECONDS)
        backoff = TaskBackoff(delay, delay, 0)
    return _numbers(backoff) | {"spread": backoff.spread()}


def _check_lease(seconds: float) -> None:
    within("lease", seconds, 0.001, MAX_SECONDS)


def _numbers(backoff: TaskBackoff) -> dict[str, float]:
    return {"base": float(backoff.base), "cap": float(backoff.cap)}


def _name(leased: Leased[Any], claimed: Claimed) -> str:
    key = getattr(claimed, leased.key)
    return f"{leased.noun} {shown(key) if isinstance(key, str) else key}"


def _key(claimed: Claimed) -> dict[str, Any]:
    return {"id": claimed.id, "token": claimed.lease_token}


def _keys(claimed: Collection[Claimed]) -> dict[str, str]:
    """Arrays as the server reads them; the driver would look in each of their texts for what is to be escaped."""
    ids = [one.id.hex if isinstance(one.id, uuid.UUID) else str(one.id) for one in claimed]
    return {
        "ids": f"{{{','.join(ids)}}}",
        "tokens": f"{{{','.join([one.lease_token.hex for one in claimed])}}}",
    }
