"""The leases of tasks and executions: extended by heartbeats, ended once, refused once they are lost."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import MAX_SECONDS, check_text, plain_text, within
from ...errors import LeaseLost, UnreadableRow, lease_lost, shown, translated
from ...queries import lease_endings as endings
from ...queries import leases as queries
from ...queries.leases import Leased, StatusT
from ...queries.shapes.driver_statement import DriverStatement
from ...queries.shapes.functions import func
from ...values.scheduler import ClaimedExecution
from ...values.tasks import ClaimedTask, TaskBackoff
from ...values.workflows import ClaimedWorkflow
from .base import AsyncRepository
from .driver import commits_alone, driver_of, fetch, together
from .settling import is_awaited, note_unawaited, settle
from .unreadable import unreadable

__all__ = ["PAUSES", "AsyncLeaseHolder", "AsyncLeases", "lost", "taking", "waiting"]

ClaimedT = TypeVar("ClaimedT", ClaimedTask, ClaimedExecution, ClaimedWorkflow)

Claimed = ClaimedTask | ClaimedExecution | ClaimedWorkflow

PAUSES = (0.0, 0.02, 0.05, 0.1)
"""Seconds before each retry of rows that other transactions have locked, in a call for several rows.

Between the retries it waits for no lock: that would be out of the order of the keys and could deadlock.
"""

_log = logging.getLogger("alfred_db")


class AsyncLeases(Generic[ClaimedT, StatusT]):
    """The operations of workers on the rows of one table that they hold, in the caller's transaction.

    Each method is one statement that requires the token of the claim. If it finds no such row, a second
    statement reads whether the caller has ended the row before. So a repeated call, as after a commit whose
    answer was lost, changes nothing.
    """

    def __init__(self, session: AsyncSession, leased: Leased[StatusT]) -> None:
        self._session = session
        self._leased = leased

    async def heartbeat(self, claimed: ClaimedT, lease: float | None) -> ClaimedT:
        """Extend one lease.

        Raises:
            LeaseLost: The caller no longer holds the row.
        """
        kept = await self.heartbeat_many([claimed], lease)
        if not kept:
            raise lost(self._leased, claimed)
        return kept[0]

    async def heartbeat_many(self, claimed: Sequence[ClaimedT], lease: float | None) -> list[ClaimedT]:
        """Extend several leases and return the new state of the rows that are still held.

        By default each lease is extended to its length at the claim. A row that another transaction has
        locked is returned
        unchanged: its lease is neither extended nor lost.
        """
        kept: dict[Any, ClaimedT] = {}
        for seconds in dict.fromkeys(one.lease if lease is None else lease for one in claimed):
            _check_lease(seconds)
            some = [one for one in claimed if lease is not None or one.lease == seconds]
            # Measured before the statement: the local end of the lease must not be later than the database's.
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
                        cancel_requested=cancelled,
                    )
        return [kept[one.id] for one in claimed if one.id in kept]

    async def complete(self, claimed: ClaimedT, values: Mapping[str, Any]) -> bool:
        """Complete one row and return whether this call did so.

        Raises:
            LeaseLost: The caller no longer holds the row.
        """
        if await self._end(endings.complete, claimed, values):
            return True
        await self._repeated(claimed, "completed")
        return False

    async def complete_many(self, claimed: Sequence[ClaimedT]) -> list[ClaimedT]:
        """Complete several rows and return those that this call completed.

        A row that another transaction has locked is omitted: it is still held.

        Raises:
            LeaseLost: The caller no longer holds one of the rows.
        """
        if not claimed:
            return []
        done, locked, ended = await self._complete_many(claimed)
        for one in claimed:
            if one.id in locked:
                name = _name(self._leased, one)
                _log.warning("%s: another transaction has locked it; it is not completed yet", name)
            elif one.id not in done and ended.get(one.id) != "completed":
                raise lost(self._leased, one)
        return [one for one in claimed if one.id in done]

    async def fail(
        self,
        claimed: ClaimedT,
        error: str | None,
        code: str,
        values: Mapping[str, Any],
        *,
        retry: bool = True,
    ) -> StatusT:
        """End a failed attempt and return the new status of the row.

        Raises:
            LeaseLost: The caller no longer holds the row.
        """
        code = plain_text(code)
        check_text("code", code)
        parameters = {"code": code, "message": error and plain_text(error), "retry": retry, **values}
        rows = await self._end(endings.fail, claimed, parameters)
        if rows:
            return self._leased.status(rows[0][0])
        return await self._repeated(claimed, "pending", "failed", "cancelled")

    async def release(self, claimed: ClaimedT, delay: float) -> StatusT:
        """Return a row unfinished, so that it can be claimed again, and return its new status.

        Raises:
            LeaseLost: The caller no longer holds the row.
        """
        within("delay", delay, 0, MAX_SECONDS)
        parameters = {"delay": timedelta(seconds=delay)} if delay else {}
        rows = await self._end(partial(endings.release, delayed=bool(delay)), claimed, parameters)
        if rows:
            return self._leased.status(rows[0][0])
        return await self._repeated(claimed, "pending", "cancelled")

    async def reap(
        self,
        limit: int,
        backoff: TaskBackoff | None = None,
        statement: DriverStatement[*tuple[Any, ...]] | None = None,
    ) -> dict[Any, StatusT]:
        """Take rows from workers whose lease or attempt has expired, and return their new statuses.

        Args:
            limit: The maximum number of rows.
            backoff: The wait before another attempt, unless the table has it.
            statement: The statement, if it does more than that of the endings.
        """
        spread = {} if backoff is None else _numbers(backoff) | {"jitter": float(backoff.jitter)}

        async def taken() -> Sequence[Sequence[Any]]:
            rows = await fetch(self._session, statement or endings.reap(self._leased, limit), spread)
            await self._settle(rows)
            return rows

        # Tasks and what waits for them in one transaction; what nothing waits for needs none.
        rows: Sequence[Sequence[Any]] = (
            await together(self._session, taken) if self._leased.awaited else await taken()
        )
        return {row[0]: self._leased.status(row[1]) for row in rows}

    async def claim(
        self,
        limit: int,
        token: uuid.UUID,
        claim: Callable[[int], Any],
        again: Callable[[uuid.UUID, Sequence[Any]], Select[*tuple[Any, ...]]],
    ) -> Sequence[Sequence[Any]]:
        """Return the rows of a claim. A row that cannot be read fails, and others are claimed instead.

        Args:
            limit: The maximum number of rows.
            token: The token of the claim.
            claim: Runs the claim, with its limit.
            again: Selects the same columns of the rows that a token has taken, except those that are known.
        """
        try:
            rows: Sequence[Sequence[Any]] = await claim(limit)
        except UnreadableRow as error:
            rows = await self._beside(error, limit, token, claim, again)
        return rows

    async def _beside(
        self,
        error: UnreadableRow,
        limit: int,
        token: uuid.UUID,
        claim: Callable[[int], Any],
        again: Callable[[uuid.UUID, Sequence[Any]], Select[*tuple[Any, ...]]],
    ) -> list[Sequence[Any]]:
        """Return the rows of a claim that has met one that cannot be read, and others claimed instead of it."""
        rows: list[Sequence[Any]] = []
        while True:
            # The server has done its part of the claim: what it took is found again by its token.
            taken = again(token, [row[0] for row in rows])
            found = await unreadable(self._session, await driver_of(self._session), taken)
            if not found:
                raise error
            for one in found:
                (key,) = one.key.values()
                await self._set_aside(key, token, f"it cannot be read: column {one.column}, {one.reason}")
            with translated():
                rows += (await self._session.execute(taken)).all()
            if len(rows) >= limit:
                return rows
            try:
                return [*rows, *await claim(limit - len(rows))]
            except UnreadableRow as another:
                error = another

    async def _set_aside(self, key: str, token: uuid.UUID, message: str) -> None:
        id = self._leased.table.c.id.type.python_type(key)
        statement = endings.set_aside(self._leased, id, token, code=queries.UNREADABLE, message=message)

        async def failed() -> None:
            with translated():
                rows = (await self._session.execute(statement)).all()
            await self._settle(rows)

        await together(self._session, failed, joins=True)
        _log.warning("%s %s: failed, as %s", self._leased.noun, key, message)

    async def _end(
        self,
        build: Callable[..., DriverStatement[*tuple[Any, ...]]],
        claimed: ClaimedT,
        values: Mapping[str, Any],
    ) -> Sequence[Sequence[Any]]:
        """Run a statement that may end a row, and release what waited for its end; return what the statement returns.

        Both are one transaction. In AUTOCOMMIT a statement for rows that nothing waits for, as are nearly all, commits by
        itself; only if it finds none, a transaction is begun. Once that was needed, it is for a while the first choice.
        """
        parameters = {**_key(claimed), **values}
        if not self._leased.awaited:
            return await fetch(self._session, build(self._leased), parameters)
        rows: Sequence[Sequence[Any]] = ()
        if await commits_alone(self._session):
            if not is_awaited(self._session):
                rows = await fetch(self._session, build(self._leased, alone=True), parameters)
            if not rows:
                rows = await together(self._session, lambda: self._end(build, claimed, values))
                if rows and not rows[0][-1]:
                    note_unawaited(self._session)
            return rows
        rows = await fetch(self._session, build(self._leased), parameters)
        if rows and rows[0][-1]:
            await self._settle([(claimed.id, *rows[0])])
        return rows

    async def _complete_many(
        self, claimed: Sequence[ClaimedT]
    ) -> tuple[dict[Any, Sequence[Any]], dict[Any, ClaimedT], dict[Any, str]]:
        """Complete several rows, and release what waited for them, as `_end` does; returns what `_each` returns."""
        if self._leased.awaited and await commits_alone(self._session):
            alone: dict[Any, Sequence[Any]] = {}
            if not is_awaited(self._session):
                statement = endings.complete_many(self._leased, alone=True)
                alone = {row[0]: row for row in await fetch(self._session, statement, _keys(claimed))}
            left = [one for one in claimed if one.id not in alone]
            if not left:
                return alone, {}, {}
            done, locked, ended = await together(self._session, lambda: self._complete_many(left))
            if done and not any(row[-1] for row in done.values()):
                note_unawaited(self._session)
            return alone | done, locked, ended
        done, locked, ended = await self._each(endings.complete_many(self._leased), claimed, {})
        await self._settle(done.values())
        return done, locked, ended

    async def _each(
        self,
        statement: DriverStatement[*tuple[Any, ...]],
        claimed: Sequence[ClaimedT],
        parameters: Mapping[str, Any],
    ) -> tuple[dict[Any, Sequence[Any]], dict[Any, ClaimedT], dict[Any, str]]:
        """Run a statement over held rows, and again over those that others have locked.

        Returns the rows written, the rows still locked, and the statuses of rows that the caller has ended
        before. A row in none of these is lost.
        """
        written: dict[Any, Sequence[Any]] = {}
        ended: dict[Any, str] = {}
        left: dict[Any, ClaimedT] = {one.id: one for one in claimed}
        for pause in PAUSES:
            if pause:
                await self.pause(pause)
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

    async def _repeated(self, claimed: ClaimedT, *statuses: str) -> StatusT:
        """Return the status of a row that the caller has ended before; raises LeaseLost for any other row."""
        status = (await self._standing([claimed])).get(claimed.id)
        if status not in statuses:
            raise lost(self._leased, claimed)
        return self._leased.status(status)

    async def _standing(self, claimed: Collection[ClaimedT]) -> dict[Any, str]:
        rows = await fetch(self._session, queries.standing(self._leased), _keys(claimed))
        return {row[0]: row[1] for row in rows}

    async def _settle(self, rows: Collection[Sequence[Any]]) -> None:
        """Release what waited for those of the rows that have ended.

        Args:
            rows: The id, perhaps the new status, and whether something may wait for the end of the row.
        """
        if self._leased.awaited and (
            awaited := [row[0] for row in rows if row[-1] and row[1] not in ("pending", self._leased.running)]
        ):
            await settle(self._session, awaited)

    async def pause(self, seconds: float) -> None:
        """Wait, so that other transactions can end."""
        with translated():
            await self._session.execute(select(func.pg_sleep(seconds)))


class AsyncLeaseHolder(AsyncRepository, Generic[ClaimedT, StatusT]):
    """What workers do with the rows of a table that they hold, whichever table it is."""

    _leased: ClassVar[Leased[Any]]

    async def heartbeat(self, claimed: ClaimedT, *, lease: float | None = None) -> ClaimedT:
        """Extend a lease and return the new state; stop the work if `cancel_requested` is true.

        What another transaction has locked is returned unchanged: see `heartbeat_many`.

        Args:
            claimed: What `claim` or the last heartbeat returned.
            lease: Seconds from now; None is the length of the claimed lease.

        Raises:
            LeaseLost: Another worker may own it: stop, and discard the work.
        """
        return await self._leases.heartbeat(claimed, lease)

    async def heartbeat_many(
        self, claimed: Sequence[ClaimedT], *, lease: float | None = None
    ) -> list[ClaimedT]:
        """Extend several leases in one statement, and return the new state of what is still held.

        Stop the work on what is missing from the result or has `cancel_requested`. The call waits only
        briefly for what another transaction has locked, after the others. Then it returns it unchanged: the
        lease is neither extended nor lost. Try again soon, and stop when its `is_over` is true.

        Args:
            claimed: What `claim` or the last heartbeat returned.
            lease: Seconds from now; None is the length of each claimed lease.
        """
        return await self._leases.heartbeat_many(claimed, lease)

    async def release(self, claimed: ClaimedT, *, delay: float = 0.0) -> StatusT:
        """Return work unfinished, as at a shutdown, without using a retry. Idempotent.

        Args:
            claimed: What `claim` or the last heartbeat returned.
            delay: Seconds before it can be claimed again; with 0 it keeps its place.

        Returns:
            The new status: `pending`, or `cancelled` if that was requested.

        Raises:
            LeaseLost: Another worker may own it: discard the work.
        """
        return await self._leases.release(claimed, delay)

    @property
    def _leases(self) -> AsyncLeases[ClaimedT, StatusT]:
        return AsyncLeases(self._session, self._leased)


def lost(leased: Leased[Any], claimed: Claimed) -> LeaseLost:
    """Return the error for a row that the caller no longer holds."""
    return lease_lost(_name(leased, claimed))


def taking(worker: str, lease: float) -> dict[str, Any]:
    """Return the parameters of a claim: one new token for all rows that it takes."""
    _check_lease(lease)
    check_text("worker", worker)
    return {"worker": worker, "token": uuid.uuid4(), "lease": timedelta(seconds=lease)}


def waiting(delay: float | None, backoff: TaskBackoff) -> dict[str, float]:
    """Return the parameters of the wait before the next attempt: `delay` seconds, or the back-off."""
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
    """Return arrays as text in the server's format; the driver would search each element for escapes."""
    ids = [one.id.hex if isinstance(one.id, uuid.UUID) else str(one.id) for one in claimed]
    return {
        "ids": f"{{{','.join(ids)}}}",
        "tokens": f"{{{','.join([one.lease_token.hex for one in claimed])}}}",
    }
