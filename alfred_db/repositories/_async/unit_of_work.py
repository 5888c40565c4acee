"""One transaction, and every repository in it."""

from __future__ import annotations

from functools import cached_property

from sqlalchemy.ext.asyncio import AsyncSession

from .agents import AsyncAgentRepository


class AsyncUnitOfWork:
    """The repositories of one session; each is made when it is first used."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        """The SQLAlchemy session, for anything that the repositories do not offer."""

    @cached_property
    def agents(self) -> AsyncAgentRepository:
        """Agents and their heartbeats."""
        return AsyncAgentRepository(self.session)
