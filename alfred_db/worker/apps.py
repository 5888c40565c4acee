"""Tasks as functions: `Tasks` and `AsyncTasks` register functions, enqueue tasks and make workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack

from ..database import AsyncDatabase, Database
from ..durable import WorkflowFunction
from ..errors import ConfigurationError
from ..models.tasks import DEFAULT_QUEUE
from ..retention import RetentionPolicy
from ..values.tasks import TaskBackoff
from ._app import App, Function, caller
from .functions import AsyncTaskFunction, TaskFunction
from .retry import Retry
from .workers import AsyncWorker, Worker

__all__ = ["AsyncTasks", "Tasks", "WorkerOptions"]

P = ParamSpec("P")
R = TypeVar("R")


class WorkerOptions(TypedDict, total=False):
    """The settings of a worker; see `Worker`."""

    concurrency: int
    lease: float
    grace: float
    poll: float
    upkeep: float
    schedules: bool
    queues: Sequence[str] | None
    assigned_to: str | None
    backoff: TaskBackoff
    retention: RetentionPolicy | None
    retention_every: float
    workflows: Sequence[WorkflowFunction[..., Any]]


class Tasks(App):
    """The tasks of an application as functions.

        app = Tasks(db)

        @app.task(queue="gpu", retry=Retry(max=5))
        def summarise(url: str) -> str: ...

        summarise.enqueue("https://example.org")
        app.worker(concurrency=4).run()

    Functions may be plain or coroutine functions: the worker runs both.

    Args:
        db: The database in which tasks are enqueued, and whose tasks the worker runs.
        name: Marks the schedules that the application declares, so that it pauses its own only. None is the name of the
            calling module.
    """

    db: Database

    def __init__(self, db: Database, name: str | None = None) -> None:
        if not isinstance(db, Database):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"Tasks: expected a Database, got {type(db).__name__}; AsyncTasks takes others"
            )
        super().__init__(caller() if name is None else name)
        self.db = db

    def task(
        self,
        *,
        intent: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 1,
        retry: Retry = Retry(),
        timeout: int = 300,
        unique: bool | timedelta = False,
    ) -> Callable[[Callable[P, R]], TaskFunction[P, R]]:
        """Register a function whose tasks are enqueued by its `enqueue`.

        Args:
            intent: The intent of its tasks; None is the name of the function in capitals.
            queue: The queue of its tasks.
            priority: Their priority, 1 to 5.
            retry: When a failed task is tried again.
            timeout: Seconds that an attempt may take.
            unique: Enqueue no second task with the same arguments while one is live, or in each period, which is counted
                from 1970 by the database's clock.

        Raises:
            ConfigurationError: An argument of the function has a type that cannot be stored as JSON, or the intent is taken.
        """

        def register(function: Callable[P, R]) -> TaskFunction[P, R]:
            one = Function(
                function,
                intent=intent,
                queue=queue,
                priority=priority,
                retry=retry,
                timeout=timeout,
                unique=unique,
            )
            self.register(one)
            return TaskFunction(self, one)

        return register

    def worker(self, **options: Unpack[WorkerOptions]) -> Worker:
        """Return a worker that runs the tasks and schedules of this application."""
        return Worker(self.db, self, **options)


class AsyncTasks(App):
    """The `Tasks` for asyncio: `enqueue` is awaited, and `worker` returns an `AsyncWorker`.

    Coroutine functions run in the event loop of the worker, plain functions in its threads.

    Args:
        db: The database in which tasks are enqueued, and whose tasks the worker runs.
        name: Marks the schedules that the application declares, so that it pauses its own only. None is the name of the
            calling module.
    """

    db: AsyncDatabase

    def __init__(self, db: AsyncDatabase, name: str | None = None) -> None:
        if not isinstance(db, AsyncDatabase):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"AsyncTasks: expected an AsyncDatabase, got {type(db).__name__}; pass it to Tasks"
            )
        super().__init__(caller() if name is None else name)
        self.db = db

    def task(
        self,
        *,
        intent: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 1,
        retry: Retry = Retry(),
        timeout: int = 300,
        unique: bool | timedelta = False,
    ) -> Callable[[Callable[P, R]], AsyncTaskFunction[P, R]]:
        """Register a function whose tasks are enqueued by its `enqueue`; see `Tasks.task`.

        Args:
            intent: The intent of its tasks; None is the name of the function in capitals.
            queue: The queue of its tasks.
            priority: Their priority, 1 to 5.
            retry: When a failed task is tried again.
            timeout: Seconds that an attempt may take.
            unique: Enqueue no second task with the same arguments while one is live, or in each period.

        Raises:
            ConfigurationError: An argument of the function has a type that cannot be stored as JSON, or the intent is taken.
        """

        def register(function: Callable[P, R]) -> AsyncTaskFunction[P, R]:
            one = Function(
                function,
                intent=intent,
                queue=queue,
                priority=priority,
                retry=retry,
                timeout=timeout,
                unique=unique,
            )
            self.register(one)
            return AsyncTaskFunction(self, one)

        return register

    def worker(self, **options: Unpack[WorkerOptions]) -> AsyncWorker:
        """Return a worker that runs the tasks and schedules of this application."""
        return AsyncWorker(self.db, self, **options)
