"""FastAPI: lifespan, units of work that commit before the response is sent, and errors as status codes.

Needs the extra `fastapi`. It is imported as `alfred_db.fastapi`:

    from alfred_db.fastapi import AsyncUnit, add_exception_handlers, lifespan

    app = FastAPI(lifespan=lifespan(AsyncDatabase()))
    add_exception_handlers(app)

    @app.post("/tasks", status_code=201)
    async def create(uow: AsyncUnit) -> dict[str, str]:
        task, _ = await uow.tasks.enqueue("SUMMARISE", {})
        return {"id": str(task.id)}

The unit of work is committed when the function has returned, and before the response is sent: after a commit that
fails, the client gets the status of the error, never a 200.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse
from psycopg import Error
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection, Request

from ..database import AsyncDatabase, Database
from ..errors import (
    AlfredDBError,
    ConfigurationError,
    ConflictError,
    DatabaseUnavailable,
    InvalidInputError,
    InvalidTransition,
    LeaseLost,
    LimitReached,
    MigrationLockTimeout,
    NotFoundError,
    SchemaError,
    SchemaOutdatedError,
    SchemaTooNewError,
    UnreadableRow,
    WaitTimeout,
    WorkflowChildFailed,
    WorkflowStepFailed,
    translate,
)
from ..repositories import AsyncUnitOfWork, UnitOfWork

__all__ = [
    "STATUS",
    "AsyncDatabaseSession",
    "AsyncUnit",
    "DatabaseSession",
    "Unit",
    "add_exception_handlers",
    "async_session",
    "async_unit_of_work",
    "get_database",
    "lifespan",
    "session",
    "status_of_error",
    "unit_of_work",
]

_log = logging.getLogger("alfred_db")

STATUS: Mapping[type[AlfredDBError], int] = {
    AlfredDBError: 500,
    ConfigurationError: 500,
    ConflictError: 409,
    DatabaseUnavailable: 503,
    InvalidInputError: 422,
    InvalidTransition: 409,
    LeaseLost: 409,
    LimitReached: 422,
    MigrationLockTimeout: 503,
    NotFoundError: 404,
    SchemaError: 500,
    SchemaOutdatedError: 503,
    SchemaTooNewError: 503,
    UnreadableRow: 500,
    WaitTimeout: 504,
    WorkflowChildFailed: 500,
    WorkflowStepFailed: 500,
}
"""The status of each error; a class that is not here has that of its base class."""

_SAID = {
    500: "the request failed; the log of the server has the reason",
    503: "the database cannot be used at the moment; try again later",
    504: "what the request waited for has not ended in time; ask again later",
}


def status_of_error(error: AlfredDBError, table: Mapping[type[AlfredDBError], int] = STATUS) -> int:
    """Return the status code for an error."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


def lifespan(
    database: AsyncDatabase | Database,
    *,
    upgrade: bool = False,
    verify: bool = True,
    then: Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any] | None]] | None = None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return the lifespan of an application that uses a database, which the dependencies below take.

    Args:
        database: The database; it is closed when the application stops.
        upgrade: Migrate the schema first. Several processes may start at once: one migrates, the others wait.
        verify: Refuse to start if the schema is not the one that this version needs.
        then: Another lifespan, which starts after this one and ends before it.
    """

    @asynccontextmanager
    async def managed(app: FastAPI) -> AsyncGenerator[Mapping[str, Any]]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_called, database.close)
            if upgrade:
                await _called(database.upgrade)
            if verify:
                await _called(database.verify)
            app.state.alfred_db = database
            state = None if then is None else await stack.enter_async_context(then(app))
            yield state or {}

    return managed


async def _called(call: Callable[[], Any]) -> None:
    """Call a method of either database; that of the synchronous one runs in a thread."""
    if inspect.iscoroutinefunction(call):
        await call()
    else:
        await asyncio.to_thread(call)


def get_database(connection: HTTPConnection) -> Any:
    """Return the database of the application, as a dependency; override it in tests.

    Raises:
        ConfigurationError: The application was not started with `lifespan`.
    """
    database = getattr(connection.app.state, "alfred_db", None)
    if database is None:
        raise ConfigurationError(
            "the application has no database: start it with lifespan=lifespan(database), or set app.state.alfred_db"
        )
    return database


async def async_unit_of_work(
    database: Annotated[Any, Depends(get_database)],
) -> AsyncIterator[AsyncUnitOfWork]:
    """Yield a unit of work of an `AsyncDatabase`: commit after the function, roll back after an exception."""
    async with _is(AsyncDatabase, database).begin() as uow:
        yield uow


def unit_of_work(database: Annotated[Any, Depends(get_database)]) -> Iterator[UnitOfWork]:
    """Yield a unit of work of a `Database`, for functions without `async`."""
    with _is(Database, database).begin() as uow:
        yield uow


async def async_session(database: Annotated[Any, Depends(get_database)]) -> AsyncIterator[AsyncSession]:
    """Yield a plain session of an `AsyncDatabase`; what the function does not commit is rolled back."""
    async with _is(AsyncDatabase, database).session() as opened:
        yield opened


def session(database: Annotated[Any, Depends(get_database)]) -> Iterator[Session]:
    """Yield a plain session of a `Database`; what the function does not commit is rolled back."""
    with _is(Database, database).session() as opened:
        yield opened


def _is(kind: type[Any], database: Any) -> Any:
    if not isinstance(database, kind):
        other = "Unit or DatabaseSession" if kind is AsyncDatabase else "AsyncUnit or AsyncDatabaseSession"
        raise ConfigurationError(
            f"the application's database is a {type(database).__name__}, the dependency needs {kind.__name__}; use {other}"
        )
    return database


# With the scope `request`, which is the default, FastAPI would commit after the response is sent.
AsyncUnit = Annotated[AsyncUnitOfWork, Depends(async_unit_of_work, scope="function")]
"""A parameter: the unit of work of the request, of an `AsyncDatabase`."""
Unit = Annotated[UnitOfWork, Depends(unit_of_work, scope="function")]
"""A parameter: the unit of work of the request, of a `Database`."""
AsyncDatabaseSession = Annotated[AsyncSession, Depends(async_session, scope="function")]
"""A parameter: a plain session of an `AsyncDatabase`."""
DatabaseSession = Annotated[Session, Depends(session, scope="function")]
"""A parameter: a plain session of a `Database`."""


def add_exception_handlers(app: FastAPI, statuses: Mapping[type[AlfredDBError], int] | None = None) -> None:
    """Have the errors of the library and of the database answered with a status code and JSON.

    The body is `{"detail": ..., "error": ..., "retryable": ...}`. The detail of a status below 500 is the message of the
    error; that of others is general, and the message goes to the log `alfred_db`. A 503 that may be repeated has the
    header `Retry-After`.

    Args:
        app: The application.
        statuses: Statuses of some errors, beside or instead of those of `STATUS`.
    """
    table = {**STATUS, **(statuses or {})}

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, SQLAlchemyError | Error):
            found = translate(error)
            if found is None:
                raise error  # a mistake in a statement
            error = found
        assert isinstance(error, AlfredDBError)
        status = status_of_error(error, table)
        if status >= 500:
            _log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
        body = {
            "detail": str(error) if status < 500 else _SAID.get(status, _SAID[500]),
            "error": type(error).__name__,
            "retryable": error.retryable,
        }
        headers = {"Retry-After": "1"} if status == 503 and error.retryable else None
        return JSONResponse(body, status, headers)

    for kind in (AlfredDBError, SQLAlchemyError, Error):
        app.add_exception_handler(kind, answer)
