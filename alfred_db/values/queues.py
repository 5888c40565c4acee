"""Arguments and results of the repository of queues."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ..checks import whole, within

__all__ = ["LONGEST_PERIOD", "MOST_RUNNING", "QueueRate", "QueueSettings"]

MOST_RUNNING = 1_000_000
"""The largest limit of a queue; one without a limit has None."""

LONGEST_PERIOD = 1e8
"""The longest period of a rate, in seconds; about three years."""


@dataclass(frozen=True, slots=True)
class QueueRate:
    """How many tasks of a queue may be claimed: in no span of `period` seconds more than `jobs`.

    Up to `burst` of them are claimed at once; then one more becomes due in each `period / (jobs - burst + 1)` seconds. So a
    larger burst means a slower rate after it, and with the burst 1 the claims are evenly spaced.
    """

    jobs: int
    """The most claims in any span of `period`, retries included."""
    period: float = 60.0
    """Seconds."""
    burst: int | None = None
    """How many may be claimed at once; None is a tenth of `jobs`, at least one."""

    def __post_init__(self) -> None:
        whole("QueueRate.jobs", self.jobs)
        within("QueueRate.jobs", self.jobs, 1, MOST_RUNNING)
        within("QueueRate.period", self.period, 0.001, LONGEST_PERIOD)
        if self.burst is not None:
            whole("QueueRate.burst", self.burst)
            within("QueueRate.burst", self.burst, 1, self.jobs)

    @property
    def capacity_us(self) -> int:
        """The microseconds after which all of the burst is due again once it is used up."""
        burst = max(1, self.jobs // 10) if self.burst is None else self.burst
        return burst * ceil(self.period * 1_000_000 / (self.jobs - burst + 1))


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The settings of a queue; None is no such limit."""

    name: str
    """Name of the queue."""
    paused: bool
    """Whether no task of it is claimed."""
    max_running: int | None
    """How many of its tasks may be held at the same time."""
    max_running_per_key: int | None
    """How many of its tasks with the same `concurrency_key` may be held at the same time."""
    rate: QueueRate | None
    """How many of its tasks may be claimed in a time."""
    ageing: float | None
    """Seconds after which the priority of a waiting task is raised by one."""

    @property
    def restricted(self) -> bool:
        """Whether claims from the queue are restricted."""
        limits = (self.max_running, self.max_running_per_key, self.rate)
        return self.paused or any(limit is not None for limit in limits)
