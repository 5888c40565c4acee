"""Statements about agents."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import Agent, AgentStatus
from .shapes.functions import func
from .shapes.literals import seconds_ago
from .shapes.paging import page

LIST_KEY = ("name",)


def register(
    name: str,
    *,
    type: str,
    version: str,
    incarnation: uuid.UUID,
    status: AgentStatus,
    capabilities: Sequence[str],
    endpoint_url: str | None,
    health_check_url: str | None,
    configuration: Mapping[str, Any],
) -> ReturningInsert[Agent]:
    """Insert an agent, or update the row with its name for a new incarnation."""
    statement = insert(Agent).values(
        name=name,
        type=type,
        version=version,
        incarnation=incarnation,
        status=status,
        capabilities=list(capabilities),
        endpoint_url=endpoint_url,
        health_check_url=health_check_url,
        configuration=dict(configuration),
        last_heartbeat=func.now(),
        updated_at=func.now(),
    )
    kept = {"id", "name", "registered_at"}
    return statement.on_conflict_do_update(
        index_elements=[Agent.name],
        set_={
            column.name: statement.excluded[column.name]
            for column in Agent.__table__.c
            if column.name not in kept
        },
    ).returning(Agent)


def get(agent_id: uuid.UUID) -> Select[Agent]:
    """Select an agent by its id."""
    return select(Agent).where(Agent.id == agent_id)


def get_by_name(name: str) -> Select[Agent]:
    """Select an agent by its name."""
    return select(Agent).where(Agent.name == name)


def heartbeat(agent_id: uuid.UUID, incarnation: uuid.UUID) -> ReturningUpdate[datetime | None]:
    """Set the time of the last heartbeat, if the incarnation is the current one.

    No indexed column changes, so the update can be heap-only (HOT).
    """
    return (
        update(Agent)
        .where(Agent.id == agent_id, Agent.incarnation == incarnation)
        .values(last_heartbeat=func.statement_timestamp())
        .returning(Agent.last_heartbeat)
    )


def set_status(agent_id: uuid.UUID, status: AgentStatus) -> ReturningUpdate[uuid.UUID]:
    """Set the status of an agent."""
    return update(Agent).where(Agent.id == agent_id).values(status=status).returning(Agent.id)


def deregister(agent_id: uuid.UUID, incarnation: uuid.UUID) -> ReturningDelete[uuid.UUID]:
    """Delete an agent, if the incarnation is the current one."""
    return delete(Agent).where(Agent.id == agent_id, Agent.incarnation == incarnation).returning(Agent.id)


def alive(*, within: float, type: str | None, after: str | None, limit: int) -> Select[Agent]:
    """Select a page of the active agents whose last heartbeat is at most `within` seconds old, ordered by name."""
    statement = _alive(within)
    if type is not None:
        statement = statement.where(Agent.type == type)
    return page(statement, [Agent.name], after=after, limit=limit)


def _alive(within: float) -> Select[Agent]:
    return select(Agent).where(
        Agent.status == AgentStatus.ACTIVE, Agent.last_heartbeat >= seconds_ago(within)
    )


def with_capabilities(
    names: Sequence[str], *, alive_within: float | None, after: str | None, limit: int
) -> Select[Agent]:
    """Select a page of the agents that have all capabilities in `names`, ordered by name.

    The containment test uses the GIN index.

    Args:
        names: The capabilities that an agent must have.
        alive_within: Maximum age of the last heartbeat in seconds; None also selects agents that are not
            alive.
        after: Cursor of the previous page.
        limit: Size of the page.
    """
    statement = select(Agent) if alive_within is None else _alive(alive_within)
    statement = statement.where(Agent.capabilities.contains(list(names)))
    return page(statement, [Agent.name], after=after, limit=limit)


def list_(*, after: str | None, limit: int) -> Select[Agent]:
    """Select a page of agents, ordered by name."""
    return page(select(Agent), [Agent.name], after=after, limit=limit)
