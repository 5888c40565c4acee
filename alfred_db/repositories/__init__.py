"""Who asks: the repositories. `_async` is written by hand; `_sync` is generated from it by tools/unasync.py."""

from __future__ import annotations

from ._async import AsyncAgentRepository, AsyncUnitOfWork
from ._sync import AgentRepository, UnitOfWork

__all__ = ["AgentRepository", "AsyncAgentRepository", "AsyncUnitOfWork", "UnitOfWork"]
