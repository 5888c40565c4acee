"""Storing how the work ended whose handlers have ended: tasks, and what all kinds share."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from sqlalchemy import exc, text

from ..database import Database
from ..errors import AlfredDBError, ConflictError, DatabaseUnavailable, LeaseLost
from ..repositories import UnitOfWork
from ..values.tasks import TaskBackoff
from ._lease import Held, TaskFailed
from ._log import is_logged, log
from ._outcome import RESULT, SNOOZED, Ended, Failure, described, failed

__all__ = ["Write", "completed", "failed_as", "is_transient", "one_by_one", "settled"]

LOCK_TIMEOUT = "200ms"
"""How long the end of one task waits for a transaction that has locked its row, while others wait for theirs."""

Write = Callable[[UnitOfWork, Ended], str]
"""Stores how one piece of work ended, in a separate transaction, and returns the text for the log."""

UNTOLD = failed("the handler raised an error that cannot be stored; the worker's log has it")


def settled(db: Database, ended: list[Ended], backoff: TaskBackoff) -> Iterator[Held[Any]]:
    """End the tasks, and yield the lease of each one when it has ended and left the list.

    After an error of the database, which leaves open whether a commit went through, call it again with the same
    list: to end a task twice with one token changes nothing. The one that met the error is then the last.
    """
    done = sorted((one for one in ended if one.failure is None), key=lambda one: one.lease.claimed.id.int)
    # Tasks with results in a separate transaction: rows are locked in the order of the ids, as heartbeats do.
    for group in ([one for one in done if not one.results], [one for one in done if one.results]):
        if len(group) < 2 and (not group or group[0].results):
            continue
        try:
            # One statement, which can be repeated, commits by itself.
            with db.begin() if group[0].results else db.autocommit() as uow:
                ids = _complete(uow, group)
        except Exception as error:
            if is_transient(error) and not isinstance(error, ConflictError):
                raise
            # One by one, then, to find out whose it was.
        else:
            over = {one.lease for one in group if one.lease.claimed.id in ids}
            ended[:] = [one for one in ended if one.lease not in over]
            logged = is_logged(logging.INFO)
            for one in group:
                if one.lease in over:
                    if logged:
                        _report(logging.INFO, one, completed(one))
                    yield one.lease
    yield from one_by_one(db, ended, lambda uow, one: _write(uow, one, backoff))


def one_by_one(db: Database, ended: list[Ended], write: Write) -> Iterator[Held[Any]]:
    """Store the ends with `write`, each in its own transaction; yield the leases of those that left the list.

    What cannot be stored fails the attempt, in the end without a message. A lost lease is logged. Transient errors are
    raised, as by `settled`.
    """
    for one in list(ended):
        try:
            _settle(db, one, write)
        except ConflictError as error:
            # Another transaction has locked the row. The others are settled, and then this one is tried again.
            _report(logging.DEBUG, one, f"not ended yet: {error}")
        except Exception:
            ended.remove(one)
            ended.append(one)
            raise
        else:
            ended.remove(one)
            yield one.lease


def is_transient(error: Exception) -> bool:
    """Whether the error passes by itself once the server is back or another transaction has ended."""
    if isinstance(error, AlfredDBError):
        return error.retryable or isinstance(error, DatabaseUnavailable)
    return isinstance(
        error, exc.OperationalError | exc.InterfaceError | psycopg.OperationalError | psycopg.InterfaceError
    )


def _settle(db: Database, one: Ended, write: Write) -> None:
    """Store one end, and raise only transient errors.

    What cannot be stored fails the attempt, in the end without a message.
    """
    try:
        with db.begin() as uow:
            uow.session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            outcome = write(uow, one)
    except LeaseLost:
        if one.lease.completing and one.error is not None:
            _report(
                logging.WARNING,
                one,
                f"raised after it had completed the {one.lease.noun}, or lost it",
                one.error,
            )
        else:
            _report(logging.WARNING, one, "its lease was lost, others may have it: nothing is stored for it")
    except Exception as error:
        if is_transient(error):
            raise
        if one.failure is None:
            refused = Failure(described(error), RESULT, retry=False)
        elif one.failure.message != UNTOLD.message:
            refused = UNTOLD._replace(retry=one.failure.retry)
        else:
            one.lease.revoke()
            _report(logging.ERROR, one, "cannot be ended: left to its lease", error)
            return
        _settle(db, Ended(one.lease, failure=refused, error=one.error), write)
    else:
        well = one.lease.given_back or one.failure is None or one.failure is SNOOZED
        _report(logging.INFO if well else logging.WARNING, one, outcome, one.error)


def _complete(uow: UnitOfWork, done: Sequence[Ended]) -> set[uuid.UUID]:
    """Complete the tasks and return their ids, without those that another transaction has locked."""
    plain = [one.lease.claimed for one in done if not one.results]
    ids = {task.id for task in uow.tasks.complete_many(plain)}
    if len(plain) < len(done):
        uow.session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    for one in done:
        if one.results:
            uow.tasks.complete(one.lease.claimed, one.results)
            ids.add(one.lease.claimed.id)
    return ids


def completed(one: Ended) -> str:
    """Return the text for the log about work that was completed."""
    return f"attempt {one.lease.claimed.attempt} completed{_took(one)}"


def failed_as(one: Ended, code: str, status: str) -> str:
    """Return the text for the log about an attempt that failed."""
    return f"attempt {one.lease.claimed.attempt} failed ({code}){_took(one)}, now {status}"


def _took(one: Ended) -> str:
    return "" if one.lease.took is None else f" in {one.lease.took:.3f} s"


def _write(uow: UnitOfWork, one: Ended, backoff: TaskBackoff) -> str:
    """End the task and return the text to log about it."""
    lease, failure, tasks = one.lease, one.failure, uow.tasks
    if failure is None:
        tasks.complete(lease.claimed, one.results)
        return completed(one)
    if lease.given_back:
        return f"released, now {tasks.release(lease.claimed)}"
    if failure is SNOOZED:
        status = tasks.release(lease.claimed, delay=lease.snoozed or 0.0)
        return f"put off for {lease.snoozed:g} s, now {status}"
    status = tasks.fail(
        lease.claimed,
        failure.message,
        code=failure.code,
        retry=failure.retry,
        delay=failure.delay,
        backoff=backoff if lease.policy is None else lease.policy.delays(backoff),
    )
    return failed_as(one, failure.code, status)


def _report(level: int, one: Ended, what: str, error: BaseException | None = None) -> None:
    trace = error if level > logging.INFO and not issubclass(type(error), TaskFailed) else None
    log(level, "%s: %s", one.lease.label, what, error=trace)
