"""How a handler ended, as plain data.

What a handler returns or raises is the caller's: its methods may raise anything, `SystemExit` included, whenever they
are called. So they are called once, where the handler ran, and what is passed on are texts and JSON values.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from ..checks import MAX_SECONDS, check_text, has_keys, json_text
from ..errors import InvalidInputError, LeaseLost
from ..execution.error_texts import MAX_CODE, described, plain, text_of
from ..queries.leases import HANDLER, TIMEOUT
from ..values.task_columns import MAX_JSON_BYTES
from ..values.tasks import NewTaskResult
from ._lease import Held, TaskFailed

__all__ = ["RESULT", "SNOOZED", "Ended", "Failure", "described", "failed", "plain", "raised", "returned"]

RESULT = "result"
"""The `error_code` of a task whose handler returned what cannot be stored."""

CANCELLED = "cancelled"


class Failure(NamedTuple):
    """The arguments that end a failed attempt: those of `TaskRepository.fail`."""

    message: str
    code: str = HANDLER
    retry: bool = True
    delay: float | None = None


SNOOZED = Failure("put off by the handler", "snoozed")
"""Stands for the end of a handler that put its work off: it is released."""


class Ended(NamedTuple):
    """A handler that returned or raised."""

    lease: Held[Any]
    results: Sequence[NewTaskResult] = ()
    failure: Failure | None = None
    error: BaseException | None = None
    """What the log shows the traceback of."""
    value: Any = None
    """What else the handler returned, for kinds of work other than tasks."""


def returned(lease: Held[Any], value: object) -> Ended:
    """Return the end of a handler that returned: a failure when its value cannot be stored."""
    if lease.snoozed is not None:
        return Ended(lease, failure=SNOOZED)
    if value is None:
        return Ended(lease)
    try:
        return Ended(lease, _results(value))
    except BaseException as error:
        # Not tried again: the work is done, and the same result would be refused once more.
        return Ended(lease, failure=Failure(described(error), RESULT, retry=False))


def raised(lease: Held[Any], error: BaseException) -> Ended:
    """Return the end of a handler that raised."""
    try:
        return Ended(lease, failure=_failure(lease, error), error=error)
    except BaseException:
        return Ended(lease, failure=failed(described(error)), error=error)


def failed(message: str) -> Failure:
    """Return a failure like that of any exception."""
    return Failure(message)


def _failure(lease: Held[Any], error: BaseException) -> Failure:
    """Return the failure that an exception stands for.

    `issubclass`, because `isinstance` asks the exception for its `__class__`.
    """
    kind = type(error)
    if issubclass(kind, asyncio.CancelledError | LeaseLost) and lease.time_left <= 0:
        return Failure("the attempt took longer than its timeout", TIMEOUT)
    if issubclass(kind, asyncio.CancelledError) and lease.cancel_requested:
        return Failure("its cancellation was asked for", CANCELLED, retry=False)
    if not issubclass(kind, TaskFailed):
        retry = lease.policy is None or lease.policy.retries(error)
        return Failure(described(error), retry=retry)
    asked = cast("TaskFailed", error)
    message = text_of(error)[1]
    asked_code: Any = asked.code
    code = plain(asked_code, MAX_CODE) if issubclass(type(asked_code), str) else ""
    return Failure(message, code or HANDLER, _asked(asked.retry), _delay(asked.delay))


def _asked(retry: object) -> bool:
    """Return whether to try again; a value without a truth value means yes."""
    try:
        return bool(retry)
    except BaseException:
        return True


def _delay(delay: object) -> float | None:
    """Return the requested delay within what can be stored; None, the back-off, if it is not a number."""
    try:
        seconds = float(cast("float", delay))
    except BaseException:
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), float(MAX_SECONDS))


def _results(value: object) -> list[NewTaskResult]:
    """Return copies of the results that a handler returned, after checking them."""
    several = isinstance(value, list | tuple)
    return [
        _result(result, type(value).__name__) for result in (cast("list[Any]", value) if several else [value])
    ]


def _result(result: object, kind: str) -> NewTaskResult:
    returned: Mapping[str, Any] = cast("Mapping[str, Any]", result) if isinstance(result, Mapping) else {}
    if not has_keys(returned, NewTaskResult, "result_type", "content"):
        raise InvalidInputError(
            f"the handler returned {kind}: expected None, or a list of results, each with the"
            " keys result_type, content and perhaps metadata"
        )
    check_text("result_type", returned["result_type"])
    return {
        "result_type": str.__str__(returned["result_type"]),
        "content": _json("content", returned["content"]),
        "metadata": _json("metadata", returned.get("metadata", {})),
    }


def _json(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{name}: the handler returned {type(value).__name__}; expected a mapping")
    copied: dict[str, Any] = dict(cast("Mapping[str, Any]", value))
    text = json_text(name, copied, MAX_JSON_BYTES)
    return cast("dict[str, Any]", json.loads(text or "{}"))
