"""Resources: what a person can attach to a conversation, as JSON."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from pydantic import TypeAdapter

from .postgres import tables
from .reader import Reader
from .tools import Tools, refused

__all__ = ["register"]

MOST = 100
"""The number of items in a resource."""

_JSON: TypeAdapter[Any] = TypeAdapter(Any)


def register(tools: Tools, groups: Sequence[str]) -> None:
    """Register the resources of the groups."""

    def resource(group: str, name: str, description: str) -> Callable[[Callable[[], Awaitable[Any]]], None]:
        def add(read: Callable[[], Awaitable[Any]]) -> None:
            if group in groups:
                tools.server.resource(
                    f"alfred-db://{name}",
                    name=name,
                    description=f"{description}, at most {MOST}.",
                    mime_type="application/json",
                )(_json(read))

        return add

    @resource(
        "postgres",
        "tables",
        "Tables with estimated numbers of rows; describe_table has columns and relations",
    )
    async def _tables() -> Any:
        reader = Reader(tools.database, tools.sql_role, tools.sql_timeout)
        return (await tables(reader)).model_dump()["tables"][: 10 * MOST]

    @resource("vector-store", "collections", "Collections of knowledge with their dimensions")
    async def _collections() -> Any:
        async with tools.reading() as uow:
            page = await uow.knowledge.list_collections(limit=MOST)
            return [
                {"name": found.name, "dimensions": found.dimensions, "distance": str(found.distance)}
                for found in page
            ]

    @resource("agent-memory", "banks", "Memory banks with the number of their memories")
    async def _banks() -> Any:
        async with tools.reading() as uow:
            return [
                {"name": bank.name[:1_000], "memories": bank.memories}
                for bank in await uow.memory_banks.list(up_to=None, limit=MOST)
            ]

    @resource("testing", "suites", "Test suites")
    async def _suites() -> Any:
        async with tools.reading() as uow:
            return [
                {"suite_id": suite.id, "name": suite.name[:1_000]}
                for suite in await uow.validation.list_suites(limit=MOST)
            ]

    @resource("scheduler", "schedules", "Schedules with their next time")
    async def _schedules() -> Any:
        async with tools.reading() as uow:
            return [
                {
                    "schedule_id": task.id,
                    "name": task.name[:1_000],
                    "cron": task.schedule,
                    "is_active": task.is_active,
                    "next_run_at": task.next_run_at,
                }
                for task in await uow.scheduler.list(limit=MOST)
            ]


def _json(read: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[str]]:
    @functools.wraps(read)
    async def written() -> str:
        try:
            return _JSON.dump_json(await refused(read)(), indent=1).decode()
        except ToolError as error:
            raise ResourceError(str(error)) from None

    written.__annotations__["return"] = str
    return written
