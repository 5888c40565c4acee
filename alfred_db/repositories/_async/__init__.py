"""The repositories, as they are written."""

from __future__ import annotations

from .agents import AsyncAgentRepository
from .unit_of_work import AsyncUnitOfWork

__all__ = ["AsyncAgentRepository", "AsyncUnitOfWork"]
