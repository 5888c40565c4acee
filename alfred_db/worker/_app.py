"""What applications of decorated tasks have in common: their functions, and what a worker makes of them."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from datetime import datetime, timedelta
from typing import Any, TypeVar

from ..checks import check_text, within
from ..cron import first_slot
from ..database import Database
from ..errors import ConfigurationError, InvalidInputError, shown
from ..models import MisfirePolicy, OverlapPolicy
from ..values.scheduler import NewSchedule
from ..values.task_columns import MAX_KEY_BYTES
from ..values.tasks import ClaimedTask, NewTaskResult
from ._dead_letters import DeadLetterHook
from ._lease import AnyLease, TaskFailed
from ._log import log
from ._outcome import RESULT
from ._runner import is_asynchronous
from ._signature import RETURNED, TaskSignature
from .retry import Retry

__all__ = ["App", "Function", "Middleware", "caller", "unique_keys", "window"]

ARGUMENTS = "arguments"
"""The `error_code` of a task whose content does not fit the arguments of its function."""

Middleware = Callable[
    [ClaimedTask, Any],
    Iterator[None] | AsyncIterator[None] | AbstractContextManager[Any] | AbstractAsyncContextManager[Any],
]
"""Wraps each task: what stands before `yield` runs before the function, and what stands behind it afterwards."""


M = TypeVar("M", bound=Middleware)


class Function:
    """A function that is registered with an application, as the worker sees it."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        intent: str | None,
        queue: str,
        priority: int,
        retry: Retry,
        timeout: int,
        unique: bool | timedelta,
    ) -> None:
        self.function = function
        self.asynchronous = is_asynchronous(function)
        self.intent = getattr(function, "__name__", "").upper() if intent is None else intent
        check_text("intent", self.intent)
        within("priority", priority, 1, 5)
        within("timeout", timeout, 1, 2**31 - 1)
        if isinstance(unique, timedelta) and unique < timedelta(seconds=1):
            raise InvalidInputError("unique: expected True, or a period of at least a second")
        self.queue = queue
        self.priority = priority
        self.retry = retry
        self.timeout = timeout
        self.unique = unique
        self.signature = TaskSignature(function, self.intent)
        self.signature.check_lease(self.asynchronous)

    def columns(self) -> dict[str, Any]:
        """Return the arguments of `enqueue` that the function decides."""
        return {
            "queue": self.queue,
            "priority": self.priority,
            "max_retries": self.retry.max,
            "timeout_seconds": self.timeout,
        }


class App:
    """The tasks of an application, the commands of its schedules, and what surrounds them."""

    db: Any
    """The database in which its functions enqueue: `Database` or `AsyncDatabase`."""

    def __init__(self, name: str) -> None:
        check_text("name", name, MAX_KEY_BYTES)
        self.name = name
        """Marks the schedules that it declares."""
        self.functions: dict[str, Function] = {}
        """The functions by intent."""
        self.commands: dict[str, Callable[..., Any]] = {}
        """The handlers of commands of schedules."""
        self.schedules: dict[str, NewSchedule] = {}
        """The schedules that it declares when a worker starts, by key."""
        self.dead_letter_hooks: list[DeadLetterHook] = []
        """What is called for each task that has failed for good."""
        self._middleware: list[Callable[..., Any]] = []

    def middleware(self, wrap: M) -> M:
        """Have a generator function of the task and its lease surround each task, the first one outermost.

            @app.middleware
            def timed(task, lease):
                started = time.monotonic()
                try:
                    yield
                finally:
                    print(task.intent, time.monotonic() - started)

        What the function raises is raised at `yield`, and may be replaced there. A function that returns a context
        manager does as well. An asynchronous one surrounds coroutine functions only.

        Raises:
            ConfigurationError: It is not a function.
        """
        made: Callable[..., Any] = wrap
        if inspect.isgeneratorfunction(wrap):
            made = contextmanager(wrap)
        elif inspect.isasyncgenfunction(wrap):
            made = asynccontextmanager(wrap)
        elif not callable(wrap):
            raise ConfigurationError("middleware: expected a generator function of (task, lease)")
        self._middleware.append(made)
        return wrap

    def on_dead_letter(self, hook: DeadLetterHook) -> DeadLetterHook:
        """Call a function for each task of this application that has failed for good, also one taken from a dead worker.

        One worker of the application calls it, in a thread, within about `upkeep` seconds, once for each failure: it is
        recorded before the call, so that a worker that is killed in between calls it no more. What it raises is logged.
        """
        self.dead_letter_hooks.append(hook)
        return hook

    def command(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a function of (execution, lease) that runs the slots of schedules with this command.

        Raises:
            ConfigurationError: The command has a handler already.
        """
        check_text("name", name)
        if name in self.commands:
            raise ConfigurationError(f"command {shown(name)}: has a handler already; use another name")

        def register(handler: Callable[..., Any]) -> Callable[..., Any]:
            self.commands[name] = handler
            return handler

        return register

    def schedule(
        self,
        key: str,
        cron: str,
        timezone: str = "UTC",
        *,
        command: str | None = None,
        intent: str | None = None,
        content: Mapping[str, Any] | None = None,
        max_retries: int = 3,
        retry_delay: int = 60,
        timeout: int = 300,
        misfire_policy: MisfirePolicy = MisfirePolicy.LATEST,
        overlap_policy: OverlapPolicy = OverlapPolicy.ALLOW,
    ) -> None:
        """Declare a schedule of a command or an intent of this application.

        It is created or updated when a worker of the application starts. One that is not declared any more is paused
        then, and resumed when it is declared again.

        Args:
            key: The `schedule_key`, unique among all schedules of the database.
            cron: A cron expression of five fields.
            timezone: An IANA name.
            command: The command that each slot runs. Pass it or an `intent`.
            intent: The intent of the task that each slot enqueues.
            content: The content of the task.
            max_retries: How many failures are followed by another attempt.
            retry_delay: Seconds between attempts of a command.
            timeout: Seconds that an attempt may take.
            misfire_policy: What to do with slots that passed while no scheduler ran.
            overlap_policy: What to do with a slot while an earlier one is live.

        Raises:
            InvalidCron: The expression or the time zone is invalid.
            ConfigurationError: The key is declared twice, or there are both a command and an intent, or neither.
        """
        self.declare(
            NewSchedule(
                name=key,
                schedule_key=key,
                schedule=cron,
                timezone=timezone,
                command=command,
                intent=intent,
                content=content,
                max_retries=max_retries,
                retry_delay=retry_delay,
                timeout=timeout,
                misfire_policy=misfire_policy,
                overlap_policy=overlap_policy,
            )
        )

    def handlers(self) -> dict[str, Callable[..., Any]]:
        """Return the handler of each intent, for a worker.

        Raises:
            ConfigurationError: A schedule names a command or an intent that has no function, or an asynchronous
                middleware would surround a plain function.
        """
        for key, one in self.schedules.items():
            command, intent = one.get("command"), one.get("intent")
            if command is not None and command not in self.commands:
                raise ConfigurationError(
                    f"schedule {shown(key)}: no function is registered for its command {shown(command)};"
                    f" register one with @app.command, or correct the name (there are: {_known(self.commands)})"
                )
            if intent is not None and intent not in self.functions:
                raise ConfigurationError(
                    f"schedule {shown(key)}: no function is registered for its intent {shown(intent)}; register one"
                    f" with @app.task, or correct the name (there are: {_known(self.functions)})"
                )
        for wrap in self._middleware:
            plain = [one.intent for one in self.functions.values() if not one.asynchronous]
            if plain and inspect.isasyncgenfunction(inspect.unwrap(wrap)):
                raise ConfigurationError(
                    f"middleware {getattr(wrap, '__name__', wrap)}: is asynchronous, and cannot surround the plain"
                    f" function of {shown(plain[0])}; write it as a plain generator function, which surrounds both"
                )
        return {intent: self._handler(function) for intent, function in self.functions.items()}

    def prepare(self, db: Database) -> None:
        """Declare the schedules. Called by each worker when it starts."""
        with db.begin() as uow:
            outcomes = uow.scheduler.declare(self.name, list(self.schedules.values()))
        for key, outcome in outcomes.items():
            if outcome != "unchanged":
                log(20, "schedule %s: %s", shown(key), outcome)

    def register(self, function: Function) -> None:
        """Add a function. For the decorators only.

        Raises:
            ConfigurationError: A function is registered for the intent already.
        """
        if function.intent in self.functions:
            raise ConfigurationError(
                f"task {shown(function.intent)}: a function is registered for this intent already; use another `intent`"
            )
        self.functions[function.intent] = function

    def declare(self, schedule: NewSchedule) -> None:
        """Add a schedule to those that are declared. For the decorated functions only.

        Raises:
            InvalidCron: The expression or the time zone is invalid.
            ConfigurationError: The key is declared twice, or there are both a command and an intent, or neither.
        """
        key = schedule["schedule_key"]
        if key in self.schedules:
            raise ConfigurationError(f"schedule {shown(key)}: is declared twice; pass another `key`")
        if (schedule.get("command") is None) == (schedule.get("intent") is None):
            raise ConfigurationError(f"schedule {shown(key)}: expected either a `command` or an `intent`")
        first_slot(
            schedule["schedule"], schedule.get("timezone", "UTC"), after=datetime(2026, 1, 1).astimezone()
        )
        self.schedules[key] = schedule

    def _handler(self, function: Function) -> Callable[..., Any]:
        """Return the handler of a function: it reads the arguments, and returns the result as the task's."""

        def handler(task: ClaimedTask, lease: AnyLease) -> list[NewTaskResult] | None:
            lease.policy = function.retry
            bound = _arguments(function, task, lease)
            with ExitStack() as around:
                for wrap in self._middleware:
                    around.enter_context(wrap(task, lease))
                value = function.function(*bound.args, **bound.kwargs)
            return _results(function, value)

        async def awaited(task: ClaimedTask, lease: AnyLease) -> list[NewTaskResult] | None:
            lease.policy = function.retry
            bound = _arguments(function, task, lease)
            async with AsyncExitStack() as around:
                for wrap in self._middleware:
                    context = wrap(task, lease)
                    if hasattr(context, "__aenter__"):
                        await around.enter_async_context(context)
                    else:
                        around.enter_context(context)
                value = await function.function(*bound.args, **bound.kwargs)
            return _results(function, value)

        return awaited if function.asynchronous else handler


def _arguments(function: Function, task: ClaimedTask, lease: AnyLease) -> inspect.BoundArguments:
    try:
        return function.signature.bound(task, lease)
    except InvalidInputError as error:
        raise TaskFailed(str(error), code=ARGUMENTS, retry=False) from None


def _results(function: Function, value: Any) -> list[NewTaskResult] | None:
    """Return the result of a function as that of its task. The work is done, so that it is not tried again."""
    try:
        stored = function.signature.result(value)
    except InvalidInputError as error:
        raise TaskFailed(str(error), code=RESULT, retry=False) from None
    return None if stored is None else [{"result_type": RETURNED, "content": {"value": stored}}]


def unique_keys(function: Function, content: Mapping[str, Any], now: datetime | None) -> dict[str, str]:
    """Return the key that makes a task unique: while it is live, or in a period of the database's clock.

    Args:
        function: The function.
        content: Its arguments, all of which count.
        now: The time of the database, for a period.
    """
    if not function.unique:
        return {}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    key = f"{function.intent[:1000]}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
    if isinstance(function.unique, timedelta) and now is not None:
        return {"task_id": f"{key}:{window(now, function.unique)}"}
    return {"dedupe_key": key}


def window(now: datetime, period: timedelta) -> int:
    """Return the number of the period that a time is in, counted from 1970."""
    return int(now.timestamp() // period.total_seconds())


def caller() -> str:
    """Return the name of the module that calls the caller of this function, which names an application."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame and frame.f_back
    module: Mapping[str, Any] = frame.f_globals if frame else {}
    name = str(module.get("__name__") or "app")
    if name != "__main__":
        return name
    spec, file = module.get("__spec__"), module.get("__file__")
    if spec is not None:
        return str(spec.name)
    return os.path.splitext(os.path.basename(str(file)))[0] if file else "app"


def _known(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(shown, names)) or "none"
