"""Agents: registered by name, alive while they say so."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...errors import LeaseLost, NotFoundError
from ...execution._async.base import AsyncRepository
from ...models import Agent, AgentStatus
from ...queries import agents as queries
from ...queries.shapes.paging import as_page
from ...values import Page


class AsyncAgentRepository(AsyncRepository):
    """The agents of the platform."""

    async def register(
        self,
        name: str,
        *,
        type: str,
        version: str,
        capabilities: Sequence[str] = (),
        endpoint_url: str | None = None,
        health_check_url: str | None = None,
        configuration: Mapping[str, Any] | None = None,
        status: AgentStatus = AgentStatus.ACTIVE,
    ) -> Agent:
        """File the agent; a known name keeps its id and gets a new incarnation, which shuts out the old process."""
        agent = await self._write(
            queries.register(
                name,
                type=type,
                version=version,
                incarnation=uuid.uuid4(),
                status=status,
                capabilities=capabilities,
                endpoint_url=endpoint_url,
                health_check_url=health_check_url,
                configuration=configuration or {},
            )
        )
        assert agent is not None
        return agent

    async def get(self, agent_id: uuid.UUID) -> Agent | None:
        """The agent of that id."""
        return await self._first(queries.get(agent_id))

    async def get_by_name(self, name: str) -> Agent | None:
        """The agent of that name."""
        return await self._first(queries.get_by_name(name))

    async def heartbeat(self, agent_id: uuid.UUID, incarnation: uuid.UUID) -> datetime:
        """Say that the agent is alive; gives the database's time.

        Raises LeaseLost when another process has registered under its name, or it was deregistered.
        """
        beat = await self._write(queries.heartbeat(agent_id, incarnation))
        if beat is None:
            raise _replaced(agent_id)
        return beat

    async def set_status(self, agent_id: uuid.UUID, status: AgentStatus) -> None:
        """Change what the agent says of itself; raises NotFoundError."""
        if await self._write(queries.set_status(agent_id, status)) is None:
            raise NotFoundError(f"agent {agent_id}: not registered; register it first")

    async def deregister(self, agent_id: uuid.UUID, incarnation: uuid.UUID) -> None:
        """Remove the agent; raises LeaseLost when another process has registered under its name."""
        if await self._write(queries.deregister(agent_id, incarnation)) is None:
            raise _replaced(agent_id)

    async def list_alive(self, *, within: float = 60.0, type: str | None = None) -> Sequence[Agent]:
        """The active agents whose last heartbeat is at most `within` seconds old, by the database's clock."""
        return await self._all(queries.alive(within=within, type=type))

    async def find_by_capability(self, *names: str, alive_within: float | None = None) -> Sequence[Agent]:
        """The agents that have all these capabilities; `alive_within` seconds leaves out the silent ones."""
        return await self._all(queries.with_capabilities(names, alive_within=alive_within))

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page[Agent]:
        """The agents by name, a page at a time."""
        rows = await self._all(queries.list_(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)


def _replaced(agent_id: uuid.UUID) -> LeaseLost:
    return LeaseLost(
        f"agent {agent_id}: this incarnation is not the registered one; another process took its name over or"
        " it was deregistered: stop, or register again"
    )
