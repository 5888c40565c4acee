"""How a tool reaches the database: transactions, annotations, and errors that a model can act on."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from psycopg import Error
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ..database import AsyncDatabase
from ..errors import AlfredDBError, translated
from ..repositories import AsyncUnitOfWork
from .embedding import Embedder

__all__ = ["Tools", "refused"]

log = logging.getLogger("alfred_db.mcp")

Call = TypeVar("Call", bound=Callable[..., Awaitable[Any]])

_READ_ONLY = text("SET TRANSACTION READ ONLY")


class Tools:
    """Register tools at a server, and open their transactions.

    A tool that is annotated as read-only runs in a READ ONLY transaction, so that the annotation is true.

    Args:
        server: The server of the SDK.
        database: The database, or one tenant of it.
        embedder: The caller's function from texts to vectors.
        read_only: Leave out all tools that write.
        sql_role: The role that SQL of the group postgres runs as.
        sql_timeout: Seconds that it may take.
        reader: The same database with `read_only=True`, for the tools that only read.
    """

    def __init__(
        self,
        server: MCPServer[Any],
        database: AsyncDatabase,
        embedder: Embedder | None = None,
        read_only: bool = False,
        sql_role: str | None = None,
        sql_timeout: float = 5.0,
        reader: AsyncDatabase | None = None,
    ) -> None:
        self.server = server
        self.database = database
        self._reader = database if reader is None else reader
        self.embedder = embedder
        self.read_only = read_only
        self.sql_role = sql_role
        self.sql_timeout = sql_timeout
        self._names: set[str] = set()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncUnitOfWork]:
        """Open a READ ONLY transaction."""
        async with self._reader.begin() as uow:
            if not self._reader.read_only:
                with translated():
                    await uow.session.execute(_READ_ONLY)
            yield uow

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncUnitOfWork]:
        """Open a transaction that writes; it commits at the end."""
        if self.read_only:
            raise ToolError("this server is read-only; ask the user to start it without --read-only")
        async with self.database.begin() as uow:
            yield uow

    def reads(self, title: str) -> Callable[[Call], Call]:
        """Register a tool that writes nothing."""
        return self._registered(
            title,
            ToolAnnotations(
                read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
            ),
        )

    def writes(
        self, title: str, *, destructive: bool = False, idempotent: bool = False
    ) -> Callable[[Call], Call]:
        """Register a tool that writes; a read-only server leaves it out.

        Args:
            title: The title for people.
            destructive: Whether it deletes or replaces what was stored.
            idempotent: Whether repeating a call changes nothing more.
        """
        return self._registered(
            title,
            ToolAnnotations(
                read_only_hint=False,
                destructive_hint=destructive,
                idempotent_hint=idempotent,
                open_world_hint=False,
            ),
        )

    def _registered(self, title: str, annotations: ToolAnnotations) -> Callable[[Call], Call]:
        def register(call: Call) -> Call:
            name = call.__name__
            # Two groups may offer the same tool: a server has it once.
            if name not in self._names and (annotations.read_only_hint or not self.read_only):
                self._names.add(name)
                self.server.add_tool(
                    refused(call),
                    title=title,
                    description=_description(call),
                    annotations=annotations,
                    structured_output=True,
                )
            return call

        return register


def _description(call: Callable[..., Any]) -> str:
    return "\n".join(line.strip() for line in (call.__doc__ or "").strip().splitlines())


def refused(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return the function with errors of the library and the database as errors of a tool."""

    @functools.wraps(call)
    async def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            with translated():
                return await call(*arguments, **options)
        except AlfredDBError as error:
            raise ToolError(str(error)) from None
        except (SQLAlchemyError, Error, OSError) as error:
            # The message of the driver may hold values or the address of the server.
            log.warning("%s: %s", call.__name__, type(error).__name__)
            raise ToolError(
                f"the database refused this call ({type(error).__name__}); try again later"
            ) from None

    return guarded
