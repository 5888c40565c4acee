"""What is stored: one module a noun. Importing this package makes the metadata complete."""

from __future__ import annotations

from .agents import Agent, AgentStatus
from .base import Base
from .tasks import Task, TaskResult, TaskStatus

__all__ = ["Agent", "AgentStatus", "Base", "Task", "TaskResult", "TaskStatus"]
