"""`Worker` and `AsyncWorker`: their settings, and how each starts handlers."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from ..checks import check_text
from ..database import AsyncDatabase, Database
from ..errors import ConfigurationError, InvalidInputError
from ..values.scheduler import ClaimedExecution
from ..values.tasks import ClaimedTask, NewTaskResult
from ._app import App
from ._executions import ExecutionLease, ExecutionSource
from ._lease import AsyncLease, Lease
from ._loop import Loop, worker_name
from ._runner import Runner, is_asynchronous
from ._source import Source
from ._tasks import TaskSource
from ._workflows import WorkflowSource
from .settings import Settings

__all__ = ["App", "AsyncHandler", "AsyncWorker", "CommandHandler", "Handler", "Worker", "is_asynchronous"]

Handler = Callable[[ClaimedTask, Lease], Sequence[NewTaskResult] | None]
"""Runs a task, in a thread. What it returns is stored as the task is completed; what it raises fails the attempt."""

AsyncHandler = Callable[[ClaimedTask, AsyncLease], Awaitable[Sequence[NewTaskResult] | None]]
"""The same for asyncio. It is cancelled when its task is to be cancelled or its lease is lost."""

CommandHandler = (
    Callable[[ClaimedExecution, ExecutionLease], str | None]
    | Callable[[ClaimedExecution, ExecutionLease], Awaitable[str | None]]
)
"""Runs an execution of a schedule. What it returns is the output of the execution; what it raises fails the attempt."""


@dataclass(eq=False, repr=False)
class Worker(Settings):
    """Runs tasks of some intents, each with the handler of its intent, and executions of schedules.

    Plain functions run in threads, coroutine functions in an event loop of the worker, in a thread too. It opens its own
    connections to the database of `db`: three in a pool, a fourth when a handler reports progress, and one that listens.
    """

    db: Database
    """The database whose tasks are run."""
    handlers: Mapping[str, Handler | AsyncHandler] | App
    """The handler of each intent, or an application. Tasks of other intents are not claimed."""
    commands: Mapping[str, CommandHandler] = field(default_factory=dict[str, CommandHandler])
    """The handler of each command of schedules. Executions of other commands are not claimed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._name = worker_name()
        self._runner = Runner(self.concurrency)
        self._loop = _loop_of(self._name, self.db, self.handlers, self.commands, self._runner, self)

    @property
    def name(self) -> str:
        """The `worker_id` of its tasks: new for each worker."""
        return self._name

    def run(self, *, drain: bool = False, signals: bool = True) -> None:
        """Claim and run tasks until the worker is stopped.

        While the database is unavailable, the worker waits for it.

        Args:
            drain: Return once nothing can be claimed and nothing runs.
            signals: In the main thread, have SIGINT and SIGTERM stop the worker; a second one stops it at once.

        Raises:
            AlfredDBError: An error that does not pass by waiting, such as SchemaOutdatedError.
        """
        with self._runner, _stopped_by_signals(self._loop, signals):
            self._loop.run(drain=drain)

    def stop(self, *, at_once: bool = False) -> None:
        """Have `run` claim no more, and return when the running tasks have ended or been released.

        May be called from any thread and any signal handler.

        Args:
            at_once: Release running tasks almost at once, instead of after the grace period.
        """
        self._loop.stop(at_once=at_once)


@dataclass(eq=False, repr=False)
class AsyncWorker(Settings):
    """The same for asyncio: coroutine functions are tasks of the event loop that `run` is awaited in.

    Everything else is done in threads, and plain functions run in threads too: a handler that blocks the event loop
    holds up the others, but no heartbeat.
    """

    db: AsyncDatabase
    """The database whose tasks are run."""
    handlers: Mapping[str, Handler | AsyncHandler] | App
    """The handler of each intent, or an application. Tasks of other intents are not claimed."""
    commands: Mapping[str, CommandHandler] = field(default_factory=dict[str, CommandHandler])
    """The handler of each command of schedules. Executions of other commands are not claimed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._name = worker_name()
        self._runner = Runner(self.concurrency)
        self._loop = _loop_of(self._name, self.db, self.handlers, self.commands, self._runner, self)

    @property
    def name(self) -> str:
        """The `worker_id` of its tasks: new for each worker."""
        return self._name

    async def run(self, *, drain: bool = False, signals: bool = True) -> None:
        """Claim and run tasks until the worker is stopped.

        While the database is unavailable, the worker waits for it. Cancelling the task that awaits `run` stops the
        worker at once.

        Args:
            drain: Return once nothing can be claimed and nothing runs.
            signals: In the main thread, have SIGINT and SIGTERM stop the worker; a second one stops it at once.

        Raises:
            AlfredDBError: An error that does not pass by waiting, such as SchemaOutdatedError.
        """
        events = asyncio.get_running_loop()
        with (
            ThreadPoolExecutor(1, "alfred-db worker") as executor,
            self._runner,
            _stopped_by_signals(self._loop, signals),
        ):
            self._runner.use(events)
            done = events.run_in_executor(executor, lambda: self._loop.run(drain=drain))
            try:
                await asyncio.shield(done)
            except asyncio.CancelledError:
                self.stop(at_once=True)
                await done
                raise

    def stop(self, *, at_once: bool = False) -> None:
        """Have `run` claim no more, and return when the running tasks have ended or been released.

        May be called from any thread and any signal handler.

        Args:
            at_once: Release running tasks almost at once, instead of after the grace period.
        """
        self._loop.stop(at_once=at_once)


def _loop_of(
    name: str,
    db: Database | AsyncDatabase,
    handlers: Mapping[str, Callable[..., Any]] | App,
    commands: Mapping[str, Callable[..., Any]],
    runner: Runner,
    settings: Settings,
) -> Loop:
    """Return the loop of a worker, with a source for each kind of work that it runs.

    Raises:
        ConfigurationError: There are no handlers, or one cannot be called.
    """
    app = handlers if isinstance(handlers, App) else None
    if isinstance(handlers, App):
        commands = {**handlers.commands, **commands}
        handlers = handlers.handlers()
    if not handlers and not commands and not settings.workflows:
        raise ConfigurationError("worker: there are no handlers; pass a mapping from intents to functions")
    tasks = _checked("intent", "task", handlers, db.wrap_handler)
    executions = _checked("command", "execution", commands, None)
    sources: list[Source[Any]] = []
    if tasks:
        sources.append(TaskSource(name, tasks, runner, settings))
    if executions:
        sources.append(ExecutionSource(name, executions, runner, settings))
    if settings.workflows:
        sources.append(WorkflowSource(name, db, runner, settings))
    return Loop(db, sources, settings, intents=list(tasks), commands=list(executions), app=app)


def _checked(
    key: str, noun: str, handlers: Mapping[str, Callable[..., Any]], wrap: Callable[[Any], Any] | None
) -> dict[str, Callable[..., Any]]:
    """Return the handlers, each wrapped by `wrap`.

    Raises:
        ConfigurationError: One cannot be called with its two arguments, or has a name that no row can have.
    """
    for name, handler in handlers.items():
        try:
            check_text(key, name)
        except InvalidInputError as error:
            raise ConfigurationError(f"worker: {error}; correct the names of the handlers") from None
        if not callable(handler):
            raise ConfigurationError(
                f"worker: the handler of {key} {name!r} is {type(handler).__name__}; pass a function of ({noun}, lease)"
            )
        if not _takes_two(handler):
            raise ConfigurationError(
                f"worker: the handler of {key} {name!r} does not take two arguments; pass a function of ({noun}, lease)"
            )
    return {name: handler if wrap is None else wrap(handler) for name, handler in handlers.items()}


def _takes_two(handler: Callable[..., Any]) -> bool:
    """Return whether a handler can be called with two arguments, as far as its signature shows."""
    try:
        signature = inspect.signature(handler)
    except Exception:  # it has none, or one that raises
        return True
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return True


@contextmanager
def _stopped_by_signals(loop: Loop, wanted: bool) -> Generator[None]:
    """Have SIGINT and SIGTERM stop the loop.

    A handler set by `signal.signal` fits asyncio too: it only fills a queue, and runs while the event loop is blocked.
    """
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        loop.stop(at_once=loop.stopping)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
