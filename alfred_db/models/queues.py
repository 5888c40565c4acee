"""Queues: settings of the queues of tasks, which are optional, and the state of their limits."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Double, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, CreatedAt

__all__ = ["Queue"]

RESTRICTED = "paused OR max_running IS NOT NULL OR max_running_per_key IS NOT NULL OR rate_jobs IS NOT NULL"
"""The condition of a queue whose claims are restricted, as the index has it."""


class Queue(Base):
    """Settings of a queue. A queue without a row has none: it needs no row to be used.

    Added: the platform has no queues. A claim from a queue with a limit locks the row and updates the last two
    columns, which have no index, so that the update can be heap-only (HOT).
    """

    __tablename__ = "queues"
    __table_args__ = (
        CheckConstraint("octet_length(name) BETWEEN 1 AND 200", name="name"),
        CheckConstraint("max_running > 0 AND max_running_per_key > 0", name="running"),
        CheckConstraint(
            "(rate_jobs IS NULL) = (rate_period IS NULL) AND rate_jobs > 0 AND rate_period > 0"
            " AND rate_period <= 100000000 AND rate_burst BETWEEN 1 AND rate_jobs",
            name="rate",
        ),
        CheckConstraint("ageing > 0", name="ageing"),
        Index("idx_queues_restricted", "name", postgresql_where=text(RESTRICTED)),
        {
            "postgresql_with": {
                "fillfactor": 50,
                "autovacuum_vacuum_scale_factor": 0.01,
                "autovacuum_vacuum_threshold": 1000,
                "autovacuum_vacuum_cost_delay": 0,
            }
        },
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    """Name of the queue, at most 200 bytes, as in `tasks.queue`."""
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether no task of it is claimed; what runs goes on."""
    max_running: Mapped[int | None]
    """How many of its tasks may be held at the same time; NULL is any number."""
    max_running_per_key: Mapped[int | None]
    """How many of its tasks with the same `concurrency_key` may be held at the same time; NULL is any number."""
    rate_jobs: Mapped[int | None]
    """How many of its tasks may be claimed in each span of `rate_period`; NULL is any number."""
    rate_period: Mapped[float | None] = mapped_column(Double)
    """The seconds of the rate."""
    rate_burst: Mapped[int | None]
    """How many of `rate_jobs` may be claimed at once; NULL is a tenth of them, at least one."""
    ageing: Mapped[float | None] = mapped_column(Double)
    """Seconds after which the priority of a waiting task is raised by one; NULL means never."""
    claimed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Counts the claims under a limit, for claims that began before another one was committed."""
    tat_us: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """The theoretical arrival time of the rate (GCRA), in microseconds since 1970."""
    created_at: Mapped[CreatedAt]
    """When the row was created."""
