"""The server: the groups of tools that were asked for, over one database or tenant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mcp.server import MCPServer

from ..database import AsyncDatabase
from ..errors import ConfigurationError, translated
from . import GROUPS, agent_memory, postgres, prompts, rag, resources, scheduler, testing, vector_store
from .embedding import Embedder
from .tools import Tools

__all__ = ["check_reachable", "create_server", "serve_stdio"]

_REGISTER: dict[str, Callable[[Tools], None]] = {
    "vector-store": vector_store.register,
    "agent-memory": agent_memory.register,
    "rag": rag.register,
    "testing": testing.register,
    "scheduler": scheduler.register,
    "postgres": postgres.register,
}

INSTRUCTIONS = (
    "Tools over the data of an agent platform in one PostgreSQL database. Lists have pages: pass `next` as"
    " `after`. A result with a `note` was cut. An error message says what to do next."
)


def create_server(
    database: AsyncDatabase,
    *,
    groups: Sequence[str] = GROUPS,
    embedder: Embedder | None = None,
    read_only: bool = False,
    sql_role: str | None = None,
    sql_timeout: float = 5.0,
    reader: AsyncDatabase | None = None,
) -> MCPServer[Any]:
    """Return a server of the SDK with groups of tools; it runs nothing.

    Args:
        database: The database, or one tenant of it. The caller closes it.
        groups: The names of the groups.
        embedder: A function, plain or async, from a list of texts to one vector for each.
        read_only: Leave out all tools that write.
        sql_role: The role that SQL of the group postgres runs as; None is that of the connection.
        sql_timeout: Seconds that it may take.
        reader: The same database with `read_only=True`, for the tools that only read: its connections are read-only
            already. Otherwise each of these tools sets its transaction READ ONLY first. The caller closes it.

    Raises:
        ConfigurationError: A group is unknown, or none was named.
    """
    server: MCPServer[Any] = MCPServer("alfred-db", instructions=INSTRUCTIONS, log_level="WARNING")
    tools = Tools(server, database, embedder, read_only, sql_role, sql_timeout, reader)
    chosen = checked_groups(groups)
    for name in chosen:
        _REGISTER[name](tools)
    resources.register(tools, chosen)
    prompts.register(tools, chosen)
    return server


def checked_groups(groups: Sequence[str]) -> list[str]:
    """Return the names in the order of `GROUPS`, each once.

    Raises:
        ConfigurationError: A group is unknown, or none was named.
    """
    unknown = sorted(set(groups) - set(_REGISTER))
    if unknown or not groups:
        raise ConfigurationError(
            f"--tools: unknown group {', '.join(unknown) or '(none)'}; expected some of {','.join(_REGISTER)}"
        )
    return [name for name in _REGISTER if name in groups]


async def serve_stdio(server: MCPServer[Any], database: AsyncDatabase) -> None:
    """Serve one client over stdin and stdout until it closes them.

    Raises:
        DatabaseUnavailable: The database cannot be reached.
    """
    async with database:
        await check_reachable(database)
        await server.run_stdio_async()


async def check_reachable(database: AsyncDatabase) -> None:
    """Open a connection, so that a wrong URL is an error at the start and not of each tool.

    Raises:
        DatabaseUnavailable: The database cannot be reached.
    """
    async with database.session() as session:
        with translated():
            await session.connection()
