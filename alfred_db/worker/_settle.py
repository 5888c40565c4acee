"""Ending tasks whose handlers have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import psycopg
from sqlalchemy import exc

from ..database import Database
from ..errors import AlfredDBError, DatabaseUnavailable, InvalidInputError, LeaseLost, conceal
from ..repositories import TaskRepository
from ..results.tasks import Backoff, NewResult
from ._lease import AnyLease, TaskFailed

__all__ = ["Ended", "GivenBack", "is_transient", "settled"]

MAX_MESSAGE = 10_000
"""Characters of an error that are stored."""

_log = logging.getLogger("alfred_db.worker")


class GivenBack(Exception):
    """The worker stops before the handler has ended."""


class Ended(NamedTuple):
    """A handler that returned or raised."""

    lease: AnyLease
    value: object
    error: BaseException | None


def settled(db: Database, ended: list[Ended], backoff: Backoff) -> Iterator[AnyLease]:
    """End the tasks, and gives the lease of each one as it is ended and taken out of the list.

    After an error of the database, which leaves open whether a commit went through, call it again with the same
    list: to end a task twice with one token changes nothing.
    """
    done = sorted((one for one in ended if one.error is None), key=lambda one: one.lease.task.id)
    # Those with results in a transaction of their own: rows are locked in the order of the ids, as heartbeats do.
    for group in ([one for one in done if one.value is None], [one for one in done if one.value is not None]):
        if len(group) < 2:
            continue
        try:
            with db.begin() as uow:
                _complete(uow.tasks, group)
        except Exception as error:
            if is_transient(error):
                raise
            # One by one, then, to find out whose it was.
        else:
            over = {one.lease for one in group}
            ended[:] = [one for one in ended if one.lease not in over]
            yield from over
    while ended:
        _settle(db, ended[0], backoff)
        yield ended.pop(0).lease


def is_transient(error: Exception) -> bool:
    """Whether it is over when the server is back, or another transaction is gone."""
    if isinstance(error, AlfredDBError):
        return error.retryable or isinstance(error, DatabaseUnavailable)
    return isinstance(
        error, exc.OperationalError | exc.InterfaceError | psycopg.OperationalError | psycopg.InterfaceError
    )


def _settle(db: Database, one: Ended, backoff: Backoff) -> None:
    try:
        with db.begin() as uow:
            told = _write(uow.tasks, one, backoff)
    except LeaseLost:
        if one.lease.completing and one.error is not None:
            _tell(logging.WARNING, one, "raised after it had completed the task, or lost it", one.error)
        else:
            _tell(logging.WARNING, one, "its lease was lost, others may have it: nothing is stored for it")
    except Exception as error:
        if is_transient(error) or not (one.error is None or isinstance(one.error, TaskFailed)):
            raise
        _settle(db, Ended(one.lease, None, error), backoff)  # what it returned or asked for cannot be stored
    else:
        if told is not None:
            _tell(logging.INFO if one.lease.given_back else logging.WARNING, one, told, one.error)


def _complete(tasks: TaskRepository, done: Sequence[Ended]) -> None:
    tasks.complete_many([one.lease.task for one in done if one.value is None])
    for one in done:
        if one.value is not None:
            tasks.complete(one.lease.task, _results(one.value))


def _write(tasks: TaskRepository, one: Ended, backoff: Backoff) -> str | None:
    """End the task; gives what is to be told about it."""
    lease, error = one.lease, one.error
    if error is None:
        _complete(tasks, [one])
        return None
    conceal(error, statements=False)  # a row's values are for neither the task nor the log
    if lease.given_back:
        return f"given back, now {tasks.release(lease.task)}"
    if isinstance(error, asyncio.CancelledError):
        if lease.time_left <= 0:
            error = TaskFailed("the attempt took longer than timeout_seconds", code="timeout")
        elif lease.cancel_requested:
            error = TaskFailed("its cancellation was asked for", code="cancelled", retry=False)
    if isinstance(error, TaskFailed):
        status = tasks.fail(
            lease.task, str(error), code=error.code, retry=error.retry, delay=error.delay, backoff=backoff
        )
    else:
        status = tasks.fail(lease.task, f"{type(error).__name__}: {error}"[:MAX_MESSAGE], backoff=backoff)
    return f"attempt {lease.task.attempt} failed, now {status}"


def _results(value: object) -> Sequence[NewResult]:
    """What a handler returned, if it is what a handler may return."""
    if value is None:
        return ()
    kind = type(value).__name__
    results = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else [value]
    for result in results:
        if not isinstance(result, Mapping) or not {"result_type", "content"} <= result.keys():
            raise InvalidInputError(
                f"the handler returned {kind}: expected None, or a list of results, each with the"
                " keys result_type, content and perhaps metadata"
            )
    return cast("Sequence[NewResult]", results)


def _tell(level: int, one: Ended, what: str, error: BaseException | None = None) -> None:
    task = one.lease.task
    conceal(error, statements=False)
    trace = error if level > logging.INFO and not isinstance(error, TaskFailed) else None
    _log.log(level, "%s %s: %s", task.intent, task.task_id, what, exc_info=trace)
