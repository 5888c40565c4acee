"""`Worker` and `AsyncWorker`: their settings, and how each starts handlers."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from ..database import AsyncDatabase, Database
from ..errors import ConfigurationError
from ..values.tasks import ClaimedTask, NewTaskResult
from ._lease import AsyncLease, Lease
from ._loop import Loop, worker_name
from ._runner import Runner, is_asynchronous
from ._source import Source
from ._tasks import TaskSource
from .settings import Settings

__all__ = ["AsyncHandler", "AsyncWorker", "Handler", "Worker", "is_asynchronous"]

Handler = Callable[[ClaimedTask, Lease], Sequence[NewTaskResult] | None]
"""Runs a task. What it returns is stored as the task is completed; what it raises fails the attempt."""

AsyncHandler = Callable[[ClaimedTask, AsyncLease], Awaitable[Sequence[NewTaskResult] | None]]
"""The same for asyncio. It is cancelled when its task is to be cancelled or its lease is lost."""

H = TypeVar("H", bound=Callable[..., object])


@dataclass(eq=False, repr=False)
class Worker(Settings):
    """Runs tasks of some intents, each with the handler of its intent, in threads.

    It opens its own connections to the database of `db`: three in a pool, and one that listens.
    """

    db: Database
    """The database whose tasks are run."""
    handlers: Mapping[str, Handler]
    """The handler of each intent. Tasks of other intents are not claimed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        handlers = _checked(self.handlers, asynchronous=False, wrap=self.db.wrap_handler)
        self._name = worker_name()
        self._runner = Runner(self.concurrency)
        self._loop = Loop(self.db, _sources(self._name, handlers, self._runner, self), self, list(handlers))

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
    """The same for asyncio: handlers are tasks of the event loop that `run` is awaited in.

    Everything else is done in threads: a handler that blocks the event loop holds up the others, but no heartbeat.
    """

    db: AsyncDatabase
    """The database whose tasks are run."""
    handlers: Mapping[str, AsyncHandler]
    """The handler of each intent. Tasks of other intents are not claimed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        handlers = _checked(self.handlers, asynchronous=True, wrap=self.db.wrap_handler)
        self._name = worker_name()
        self._runner = Runner(self.concurrency)
        self._loop = Loop(self.db, _sources(self._name, handlers, self._runner, self), self, list(handlers))

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


def _sources(
    worker: str, handlers: Mapping[str, Callable[..., Any]], runner: Runner, settings: Settings
) -> list[Source[Any]]:
    """Return the kinds of work that a worker runs."""
    return [TaskSource(worker, handlers, runner, settings)]


def _checked(
    handlers: Mapping[str, H], *, asynchronous: bool, wrap: Callable[[Any], Any] | None = None
) -> dict[str, H]:
    """Return the handlers, each wrapped by `wrap`, if each can be run by this worker.

    Raises:
        ConfigurationError: `handlers` is empty, or one is asynchronous where a function is expected, or the reverse.
    """
    if not handlers:
        raise ConfigurationError("worker: there are no handlers; pass a mapping from intents to functions")
    for intent, handler in handlers.items():
        if not callable(handler):
            raise ConfigurationError(
                f"worker: the handler of {intent!r} is {type(handler).__name__}; pass a function of (task, lease)"
            )
        if is_asynchronous(handler) != asynchronous:
            other = "Worker" if asynchronous else "AsyncWorker"
            raise ConfigurationError(
                f"worker: the handler of {intent!r} is {'not ' if asynchronous else ''}asynchronous; pass it to {other}"
            )
    return {intent: handler if wrap is None else wrap(handler) for intent, handler in handlers.items()}


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
