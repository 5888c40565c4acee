"""Ending tasks whose handlers have ended."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence

import psycopg
from sqlalchemy import exc, text

from ..database import Database
from ..errors import AlfredDBError, ConflictError, DatabaseUnavailable, LeaseLost
from ..repositories import TaskRepository, UnitOfWork
from ..values.tasks import TaskBackoff
from ._lease import AnyLease, TaskFailed
from ._log import log
from ._outcome import RESULT, Ended, Failure, described, failed

__all__ = ["is_transient", "settled"]

LOCK_TIMEOUT = "200ms"
"""How long the end of one task waits for a transaction that has locked its row, while others wait for theirs."""

UNTOLD = failed("the handler raised an error that cannot be stored; the worker's log has it")


def settled(db: Database, ended: list[Ended], backoff: TaskBackoff) -> Iterator[AnyLease]:
    """End the tasks, and yield the lease of each one when it has ended and left the list.

    After an error of the database, which leaves open whether a commit went through, call it again with the same
    list: to end a task twice with one token changes nothing. The one that met the error is then the last.
    """
    done = sorted((one for one in ended if one.failure is None), key=lambda one: one.lease.task.id)
    # Tasks with results in a separate transaction: rows are locked in the order of the ids, as heartbeats do.
    for group in ([one for one in done if not one.results], [one for one in done if one.results]):
        if len(group) < 2 and (not group or group[0].results):
            continue
        try:
            # One statement, which can be repeated, commits by itself.
            with db.begin() if group[0].results else db.autocommit() as uow:
                completed = _complete(uow, group)
        except Exception as error:
            if is_transient(error) and not isinstance(error, ConflictError):
                raise
            # One by one, then, to find out whose it was.
        else:
            over = {one.lease for one in group if one.lease.task.id in completed}
            ended[:] = [one for one in ended if one.lease not in over]
            for one in group:
                if one.lease in over:
                    _report(logging.INFO, one, _completed(one))
                    yield one.lease
    for one in list(ended):
        try:
            _settle(db, one, backoff)
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


def _settle(db: Database, one: Ended, backoff: TaskBackoff) -> None:
    """End one task, and raise only transient errors.

    What cannot be stored fails the attempt, in the end without a message.
    """
    try:
        with db.begin() as uow:
            uow.session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            outcome = _write(uow.tasks, one, backoff)
    except LeaseLost:
        if one.lease.completing and one.error is not None:
            _report(logging.WARNING, one, "raised after it had completed the task, or lost it", one.error)
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
        _settle(db, Ended(one.lease, failure=refused, error=one.error), backoff)
    else:
        well = one.lease.given_back or one.failure is None
        _report(logging.INFO if well else logging.WARNING, one, outcome, one.error)


def _complete(uow: UnitOfWork, done: Sequence[Ended]) -> set[uuid.UUID]:
    """Complete the tasks and return their ids, without those that another transaction has locked."""
    plain = [one.lease.task for one in done if not one.results]
    completed = {task.id for task in uow.tasks.complete_many(plain)}
    if len(plain) < len(done):
        uow.session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    for one in done:
        if one.results:
            uow.tasks.complete(one.lease.task, one.results)
            completed.add(one.lease.task.id)
    return completed


def _completed(one: Ended) -> str:
    return f"attempt {one.lease.task.attempt} completed{_took(one)}"


def _took(one: Ended) -> str:
    return "" if one.lease.took is None else f" in {one.lease.took:.3f} s"


def _write(tasks: TaskRepository, one: Ended, backoff: TaskBackoff) -> str:
    """End the task and return the text to log about it."""
    lease, failure = one.lease, one.failure
    if failure is None:
        tasks.complete(lease.task, one.results)
        return _completed(one)
    if lease.given_back:
        return f"released, now {tasks.release(lease.task)}"
    status = tasks.fail(
        lease.task,
        failure.message,
        code=failure.code,
        retry=failure.retry,
        delay=failure.delay,
        backoff=backoff,
    )
    return f"attempt {lease.task.attempt} failed ({failure.code}){_took(one)}, now {status}"


def _report(level: int, one: Ended, what: str, error: BaseException | None = None) -> None:
    task = one.lease.task
    trace = error if level > logging.INFO and not issubclass(type(error), TaskFailed) else None
    log(level, "%s %s: %s", task.intent, task.task_id, what, error=trace)
