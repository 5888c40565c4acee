"""Decorated functions: `TaskFunction` and `AsyncTaskFunction` are called as before, and enqueued as tasks."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from ..checks import check_keys
from ..database import AsyncDatabase, Database
from ..models import MisfirePolicy, OverlapPolicy, Task
from ..queries.scheduler import now
from ..repositories import AsyncUnitOfWork, UnitOfWork
from ..values.scheduler import NewSchedule
from ..values.tasks import NewTask
from ._app import App, Function, unique_keys

__all__ = ["AsyncTaskFunction", "TaskFunction", "TaskOptions"]

P = ParamSpec("P")
R = TypeVar("R")


class TaskOptions(TypedDict, total=False):
    """What a single call may set of its task, beside what the function decides: arguments of `enqueue`."""

    task_id: str | None
    priority: int
    delay: float
    available_at: datetime | None
    max_retries: int
    timeout_seconds: int
    assigned_to: str | None
    created_by: str | None
    parent_task_id: uuid.UUID | None
    dedupe_key: str | None
    queue: str
    concurrency_key: str | None
    metadata: Mapping[str, Any] | None
    ordering_key: str | None
    after: Sequence[uuid.UUID | str]


class _Decorated(Generic[P, R]):
    """What a decorated function is: a call is the plain call."""

    def __init__(self, app: App, registered: Function, chosen: TaskOptions | None = None) -> None:
        self._app = app
        self._registered = registered
        self._chosen: TaskOptions = chosen or {}
        update_wrapper(self, registered.function)

    @property
    def intent(self) -> str:
        """The intent of its tasks."""
        return self._registered.intent

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now."""
        return cast("R", self._registered.function(*args, **kwargs))

    def schedule(
        self,
        cron: str,
        timezone: str = "UTC",
        *,
        key: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        misfire_policy: MisfirePolicy = MisfirePolicy.LATEST,
        overlap_policy: OverlapPolicy = OverlapPolicy.ALLOW,
    ) -> None:
        """Declare a schedule whose slots each enqueue a task of this function.

        It is created or updated when a worker of the application starts. One that is not declared any more is paused
        then, and resumed when it is declared again.

        Args:
            cron: A cron expression of five fields.
            timezone: An IANA name.
            key: The `schedule_key`, unique among all schedules of the database; None is the intent.
            arguments: The arguments of the function.
            misfire_policy: What to do with slots that passed while no scheduler ran.
            overlap_policy: What to do with a slot while the task of an earlier one is live.

        Raises:
            InvalidCron: The expression or the time zone is invalid.
            InvalidInputError: An argument is missing, unknown, or not of its type.
            ConfigurationError: The key is declared twice.
        """
        one = self._registered
        name = one.intent if key is None else key
        self._app.declare(
            NewSchedule(
                name=name,
                schedule_key=name,
                schedule=cron,
                timezone=timezone,
                intent=one.intent,
                content=one.signature.content((), arguments or {}),
                queue=one.queue,
                priority=one.priority,
                max_retries=one.retry.max,
                timeout=one.timeout,
                misfire_policy=misfire_policy,
                overlap_policy=overlap_policy,
            )
        )

    def _task(self, content: dict[str, Any], at: datetime | None) -> NewTask:
        one = self._registered
        values = {**one.columns(), **unique_keys(one, content, at), **self._chosen}
        return cast("NewTask", {"intent": one.intent, "content": content, **values})

    @property
    def _needs_time(self) -> bool:
        return isinstance(self._registered.unique, timedelta)

    def _with(self, options: TaskOptions) -> Any:
        check_keys("options", options, TaskOptions)
        return type(self)(self._app, self._registered, cast("TaskOptions", {**self._chosen, **options}))

    def _content(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return self._registered.signature.content(args, kwargs)


class TaskFunction(_Decorated[P, R]):
    """A function decorated by `Tasks.task`: called as before, and enqueued as a task."""

    @overload
    def enqueue(self, uow: UnitOfWork, /, *args: P.args, **kwargs: P.kwargs) -> tuple[Task, bool]: ...

    @overload
    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Task, bool]: ...

    def enqueue(self, *args: Any, **kwargs: Any) -> tuple[Task, bool]:  # type: ignore[misc]
        """Enqueue a task of these arguments, in the transaction of a unit of work, or alone.

        A unit of work is the first argument, or `uow=`.

        Returns:
            The task and whether this call created it, as `uow.tasks.enqueue` does.

        Raises:
            InvalidInputError: An argument is missing, unknown, or not of its type.
        """
        uow, args = _unit(UnitOfWork, args, kwargs)
        content = self._content(args, kwargs)
        if uow is not None:
            return self._enqueue(uow, content)
        with cast("Database", self._app.db).autocommit() as alone:
            return self._enqueue(alone, content)

    def enqueue_many(
        self, items: Iterable[Mapping[str, Any]], *, uow: UnitOfWork | None = None
    ) -> list[tuple[uuid.UUID, bool]]:
        """Enqueue a task for each mapping of arguments, in the transaction of a unit of work, or in a separate one.

        Returns:
            For each task, in order, its `id` and whether this call created it.

        Raises:
            InvalidInputError: An argument is missing, unknown, or not of its type; nothing is enqueued.
        """
        contents = [self._content((), item) for item in items]
        if uow is not None:
            return self._enqueue_many(uow, contents)
        with cast("Database", self._app.db).begin() as alone:
            return self._enqueue_many(alone, contents)

    def options(self, **options: Unpack[TaskOptions]) -> TaskFunction[P, R]:
        """Return this function with other options for the tasks that it enqueues, such as `delay=60`."""
        return cast("TaskFunction[P, R]", self._with(options))

    def _enqueue(self, uow: UnitOfWork, content: dict[str, Any]) -> tuple[Task, bool]:
        at = uow.session.scalar(now()) if self._needs_time else None
        values: dict[str, Any] = dict(self._task(content, at))
        return uow.tasks.enqueue(values.pop("intent"), **values)

    def _enqueue_many(
        self, uow: UnitOfWork, contents: Sequence[dict[str, Any]]
    ) -> list[tuple[uuid.UUID, bool]]:
        at = uow.session.scalar(now()) if self._needs_time else None
        return uow.tasks.enqueue_many([self._task(content, at) for content in contents])


class AsyncTaskFunction(_Decorated[P, R]):
    """A function decorated by `AsyncTasks.task`: called as before, and enqueued as a task."""

    @overload
    def enqueue(
        self, uow: AsyncUnitOfWork, /, *args: P.args, **kwargs: P.kwargs
    ) -> Awaitable[tuple[Task, bool]]: ...

    @overload
    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[tuple[Task, bool]]: ...

    def enqueue(self, *args: Any, **kwargs: Any) -> Awaitable[tuple[Task, bool]]:  # type: ignore[misc]
        """Enqueue a task of these arguments, in the transaction of a unit of work, or alone.

        A unit of work is the first argument, or `uow=`.

        Returns:
            The task and whether this call created it, as `uow.tasks.enqueue` does.

        Raises:
            InvalidInputError: An argument is missing, unknown, or not of its type.
        """
        uow, args = _unit(AsyncUnitOfWork, args, kwargs)
        return self._enqueue(uow, self._content(args, kwargs))

    async def enqueue_many(
        self, items: Iterable[Mapping[str, Any]], *, uow: AsyncUnitOfWork | None = None
    ) -> list[tuple[uuid.UUID, bool]]:
        """Enqueue a task for each mapping of arguments, in the transaction of a unit of work, or in a separate one.

        Returns:
            For each task, in order, its `id` and whether this call created it.

        Raises:
            InvalidInputError: An argument is missing, unknown, or not of its type; nothing is enqueued.
        """
        contents = [self._content((), item) for item in items]
        if uow is not None:
            return await self._enqueue_many(uow, contents)
        async with cast("AsyncDatabase", self._app.db).begin() as alone:
            return await self._enqueue_many(alone, contents)

    def options(self, **options: Unpack[TaskOptions]) -> AsyncTaskFunction[P, R]:
        """Return this function with other options for the tasks that it enqueues, such as `delay=60`."""
        return cast("AsyncTaskFunction[P, R]", self._with(options))

    async def _enqueue(self, uow: AsyncUnitOfWork | None, content: dict[str, Any]) -> tuple[Task, bool]:
        if uow is None:
            async with cast("AsyncDatabase", self._app.db).autocommit() as alone:
                return await self._enqueue(alone, content)
        at = await uow.session.scalar(now()) if self._needs_time else None
        values: dict[str, Any] = dict(self._task(content, at))
        return await uow.tasks.enqueue(values.pop("intent"), **values)

    async def _enqueue_many(
        self, uow: AsyncUnitOfWork, contents: Sequence[dict[str, Any]]
    ) -> list[tuple[uuid.UUID, bool]]:
        at = await uow.session.scalar(now()) if self._needs_time else None
        return await uow.tasks.enqueue_many([self._task(content, at) for content in contents])


U = TypeVar("U")


def _unit(kind: type[U], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[U | None, tuple[Any, ...]]:
    """Return the unit of work among the arguments of a call, and the other positional arguments."""
    if args and isinstance(args[0], kind):
        return args[0], args[1:]
    if isinstance(kwargs.get("uow"), kind):
        return cast("U", kwargs.pop("uow")), args
    return None, args
