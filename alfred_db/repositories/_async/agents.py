"""Agents: registered by name, alive while their heartbeats arrive."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ...errors import LeaseLost
from ...execution._async.base import AsyncRepository
from ...execution.missing import not_found
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
        """Register the agent, or update the one with this name.

        A known agent keeps its id and gets a new incarnation, so that the process that registered before is
        shut out.

        Args:
            name: The unique name.
            type: The kind of agent.
            version: The version of its code.
            capabilities: What it can do; `find_by_capability` searches them.
            endpoint_url: Where it is reached.
            health_check_url: Where its health is checked.
            configuration: Any JSON.
            status: The status that it reports.

        Returns:
            The agent, with the incarnation to pass to `heartbeat`.
        """
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
        """Return the agent with this id."""
        return await self._first(queries.get(agent_id))

    async def get_by_name(self, name: str) -> Agent | None:
        """Return the agent with this name."""
        return await self._first(queries.get_by_name(name))

    async def heartbeat(self, agent_id: uuid.UUID, incarnation: uuid.UUID) -> datetime:
        """Record that the agent is alive.

        Returns:
            The database's time.

        Raises:
            LeaseLost: Another process has registered under the name, or the agent was deregistered.
        """
        beat = await self._write(queries.heartbeat(agent_id, incarnation))
        if beat is None:
            raise _replaced(agent_id)
        return beat

    async def set_status(self, agent_id: uuid.UUID, status: AgentStatus) -> None:
        """Change the status that the agent reports.

        Raises:
            NotFoundError: The agent is not registered.
        """
        if await self._write(queries.set_status(agent_id, status)) is None:
            raise not_found("agent", agent_id)

    async def deregister(self, agent_id: uuid.UUID, incarnation: uuid.UUID) -> None:
        """Remove the agent.

        Raises:
            LeaseLost: Another process has registered under the name, or the agent was deregistered.
        """
        if await self._write(queries.deregister(agent_id, incarnation)) is None:
            raise _replaced(agent_id)

    async def list_alive(
        self, *, within: float = 60.0, type: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[Agent]:
        """Return a page of the active agents that are alive, by name.

        Args:
            within: The maximum age of the last heartbeat in seconds, by the database's clock.
            type: Only agents of this type.
            after: `next` of the previous page.
            limit: The maximum number of agents.
        """
        rows = await self._all(queries.alive(within=within, type=type, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def find_by_capability(
        self, *names: str, alive_within: float | None = None, after: str | None = None, limit: int = 100
    ) -> Page[Agent]:
        """Return a page of the agents that have all these capabilities, by name.

        Args:
            names: The capabilities.
            alive_within: Only agents whose last heartbeat is at most this many seconds old.
            after: `next` of the previous page.
            limit: The maximum number of agents.
        """
        statement = queries.with_capabilities(names, alive_within=alive_within, after=after, limit=limit)
        return as_page(await self._all(statement), queries.LIST_KEY, limit)

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page[Agent]:
        """Return a page of the agents, by name."""
        rows = await self._all(queries.list_(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)


def _replaced(agent_id: uuid.UUID) -> LeaseLost:
    return LeaseLost(
        f"agent {agent_id}: this incarnation is not the registered one; another process took its name over or"
        " it was deregistered: stop, or register again"
    )
