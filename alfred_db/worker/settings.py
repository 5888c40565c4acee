"""The settings of workers, defined once: `Worker`, `AsyncWorker` and the command have them from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import within
from ..durable import WorkflowFunction
from ..errors import ConfigurationError
from ..retention import RetentionPolicy
from ..values.tasks import TaskBackoff


@dataclass(kw_only=True, eq=False, repr=False)
class Settings:
    """The settings of a worker."""

    concurrency: int = 4
    """The most tasks that run at once; no more are claimed."""
    lease: float = 60.0
    """Seconds after which another worker takes the tasks of a worker that fell silent."""
    grace: float = 25.0
    """Seconds that running tasks have when the worker is stopped."""
    poll: float = 5.0
    """The longest time between two looks for tasks, in seconds."""
    upkeep: float = 5.0
    """Seconds between two sweeps for tasks of vanished workers and for due slots of schedules."""
    schedules: bool = True
    """Whether the sweeps include the slots of schedules."""
    queues: Sequence[str] | None = None
    """The queues to claim from; None is all."""
    assigned_to: str | None = None
    """Claim only the tasks assigned to this agent."""
    backoff: TaskBackoff = TaskBackoff()
    """The delays before a failed task is tried again."""
    workflows: Sequence[WorkflowFunction[..., Any]] = ()
    """The durable functions whose executions are run. Executions of other versions are not claimed."""
    retention: RetentionPolicy | None = None
    """What to delete from time to time; None only cached values, rate limits and web sessions that have expired."""
    retention_every: float = 600.0
    """Seconds between two purges by the policy."""

    def __post_init__(self) -> None:
        within("concurrency", self.concurrency, 1, 10_000)
        within("lease", self.lease, 0.1, 86_400)
        within("grace", self.grace, 0, 86_400)
        within("poll", self.poll, 0.01, 86_400)
        within("upkeep", self.upkeep, 0.01, 86_400)
        within("retention_every", self.retention_every, 0.01, 86_400)
        if isinstance(self.queues, str) or (self.queues is not None and not self.queues):
            raise ConfigurationError("worker: queues: expected a list of names, or None for all queues")
