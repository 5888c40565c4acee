"""The figures of a database: queues, workers, schedules, workflows, events, tables, the server, and the pool.

They are read in short read-only transactions, one for each part. A part that cannot be read is left out, and the figure
`alfred_db_part_up` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Double, Pool, QueuePool, cast, extract, select, text
from sqlalchemy.orm import Session

from ..database import Database
from ..errors import AlfredDBError, ConfigurationError, translated
from ..execution._sync.copy import table_name
from ..models import (
    Agent,
    ExecutionStatus,
    KnowledgeCollection,
    ScheduledExecution,
    ScheduledTask,
    WorkflowExecution,
    WorkflowExecutionStatus,
)
from ..models.base import Base, table_of
from ..queries import task_figures as queries
from ..queries.shapes.functions import func
from ..queries.task_maintenance import oldest_snapshot
from ..repositories import UnitOfWork
from ._statements import SERVER, TABLES

__all__ = ["PARTS", "Figure", "figures"]

STATEMENT_TIMEOUT = "10s"
"""How long a statement of a figure may take: an operator who looks must not add to the load."""

UNHANDLED_AFTER = 300.0
"""Seconds that a task waits before its intent is taken for one that nobody handles."""


class Figure(NamedTuple):
    """One figure, with a value for each combination of labels."""

    name: str
    """Name, with the unit; a counter ends in `_total`."""
    help: str
    """What it means."""
    labels: tuple[str, ...]
    """Names of the labels."""
    samples: Sequence[tuple[tuple[str, ...], float]]
    """Values of the labels, and the value."""

    @property
    def kind(self) -> Literal["counter", "gauge"]:
        """Whether it only grows."""
        return "counter" if self.name.endswith("_total") else "gauge"


def figures(db: Database, *, pool: Pool | None = None) -> list[Figure]:
    """Return the figures of a database, also of one that cannot be reached.

    Args:
        db: The database, or one tenant of it.
        pool: The pool whose connections are counted; by default that of `db`.

    Raises:
        ConfigurationError: The connection cannot be used, such as because of its encoding.
    """
    found: list[Figure] = []
    up: list[tuple[tuple[str, ...], float]] = []
    reached = 0.0
    for name, part in PARTS.items():
        try:
            with translated(), db.begin() as uow:
                uow.session.execute(text("SET TRANSACTION READ ONLY"))
                reached = 1.0
                uow.session.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
                found += part(uow)
        except AlfredDBError as error:
            if isinstance(error, ConfigurationError) and not reached:
                raise  # of the connection, such as its encoding: no scrape will mend it
            up.append(((name,), 0))
            if not reached:  # no other part can be read either
                break
        else:
            up.append(((name,), 1))
    found += _pool(db.engine.pool if pool is None else pool)
    return [
        _gauge("alfred_db_up", "Whether the database can be reached.", reached),
        Figure("alfred_db_part_up", "Whether a part of the figures can be read.", ("part",), up),
        *found,
    ]


def _gauge(name: str, words: str, value: float | None) -> Figure:
    return Figure(name, words, (), [] if value is None else [((), float(value))])


def _by(name: str, words: str, label: str | tuple[str, ...], rows: Iterable[Any]) -> Figure:
    """Return a figure from rows whose last column is the value; None is left out."""
    labels = (label,) if isinstance(label, str) else label
    samples = [
        (tuple(map(str, row[: len(labels)])), float(row[len(labels)]))
        for row in rows
        if row[len(labels)] is not None
    ]
    return Figure(name, words, labels, samples)


def _tasks(uow: UnitOfWork) -> list[Figure]:
    waiting = uow.session.execute(queries.waiting()).all()
    running = uow.session.execute(queries.running()).all()
    failed = uow.session.execute(queries.failed()).all()
    states = [
        *((row.queue, "ready", row.ready) for row in waiting),
        *((row.queue, "delayed", row.delayed) for row in waiting),
        *((row.queue, "running", row.running) for row in running),
        *((row.queue, "expired", row.expired) for row in running),
        *((row.queue, "failed", row.failed) for row in failed),
    ]
    return [
        _by(
            "alfred_db_queue_tasks",
            "Tasks of a queue: ready to be claimed, delayed, running, running with an expired lease, or failed.",
            ("queue", "state"),
            states,
        ),
        _by(
            "alfred_db_queue_oldest_ready_seconds",
            "How long the longest-waiting task of a queue is ready.",
            "queue",
            ((row.queue, row.oldest) for row in waiting),
        ),
        _by(
            "alfred_db_queue_longest_running_seconds",
            "How long the longest-running attempt of a queue takes so far.",
            "queue",
            ((row.queue, row.longest) for row in running),
        ),
    ]


def _queues(uow: UnitOfWork) -> list[Figure]:
    settings = uow.queues.list()
    limits = [
        *((one.name, "running", one.max_running) for one in settings),
        *((one.name, "running_per_key", one.max_running_per_key) for one in settings),
        *((one.name, "per_second", one.rate and one.rate.jobs / one.rate.period) for one in settings),
    ]
    return [
        _by(
            "alfred_db_queue_paused",
            "Whether a queue is paused.",
            "queue",
            ((one.name, one.paused) for one in settings),
        ),
        _by(
            "alfred_db_queue_limit",
            "The limits of a queue: tasks that run, that run with one key, or that are claimed in a second.",
            ("queue", "limit"),
            limits,
        ),
    ]


def _workers(uow: UnitOfWork) -> list[Figure]:
    busy, listening, overdue = uow.session.execute(queries.workers()).one()
    unhandled = uow.session.execute(queries.unhandled(UNHANDLED_AFTER)).all()
    return [
        _gauge("alfred_db_workers_busy", "Workers that hold a task.", busy),
        _gauge(
            "alfred_db_workers_listening",
            "Workers of all tenants that listen; those behind a pooler do not.",
            listening,
        ),
        _gauge(
            "alfred_db_handlers_overdue", "Handlers that run on although their attempt has ended.", overdue
        ),
        _by(
            "alfred_db_unhandled_intent_seconds",
            "How long a task waits whose intent no worker seems to handle.",
            "intent",
            unhandled,
        ),
    ]


def _schedules(uow: UnitOfWork) -> list[Figure]:
    session, task, execution = uow.session, ScheduledTask, ScheduledExecution
    due = (task.is_active, task.next_run_at <= func.statement_timestamp())
    late = extract("epoch", func.statement_timestamp() - func.min(task.next_run_at))
    live = [ExecutionStatus.PENDING, ExecutionStatus.RUNNING]
    return [
        _by(
            "alfred_db_schedules",
            "Schedules, by whether they are active.",
            "active",
            (
                (str(row[0]).lower(), row[1])
                for row in session.execute(select(task.is_active, func.count()).group_by(task.is_active))
            ),
        ),
        _gauge(
            "alfred_db_schedules_due",
            "Schedules whose slot has come, and that no worker has run.",
            session.scalar(select(func.count()).select_from(task).where(*due)),
        ),
        _gauge(
            "alfred_db_schedule_lag_seconds",
            "How long the slot has passed that waits longest; 0 if none waits.",
            session.scalar(select(func.coalesce(cast(late, Double), 0.0)).where(*due)),
        ),
        _statuses(
            session,
            "alfred_db_executions",
            "Executions of schedules that have not ended, by status.",
            execution,
            live,
        ),
    ]


def _workflows(uow: UnitOfWork) -> list[Figure]:
    live = [
        status
        for status in WorkflowExecutionStatus
        if status not in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.CANCELLED)
    ]
    return [
        _statuses(
            uow.session,
            "alfred_db_workflow_executions",
            "Executions of workflows that have failed or not ended, by status.",
            WorkflowExecution,
            live,
        )
    ]


def _statuses(session: Session, name: str, words: str, model: Any, statuses: Sequence[Any]) -> Figure:
    """Count the rows with these statuses; one without rows is 0."""
    statement = select(model.status, func.count()).where(model.status.in_(statuses)).group_by(model.status)
    counted = {str(status): number for status, number in session.execute(statement)}
    return _by(name, words, "status", ((str(status), counted.get(str(status), 0)) for status in statuses))


def _events(uow: UnitOfWork) -> list[Figure]:
    consumers = uow.events.consumers()
    horizon = uow.events.horizon()
    return [
        _by(
            "alfred_db_consumer_unread_events",
            "Events that a consumer has still to read; 10,000 is that many or more.",
            "consumer",
            ((one.name, one.behind) for one in consumers),
        ),
        _by(
            "alfred_db_consumer_lag_seconds",
            "How long the first unread event of a consumer waits; 0 if it has read all.",
            "consumer",
            ((one.name, one.oldest_unread_age or 0) for one in consumers),
        ),
        _gauge(
            "alfred_db_event_horizon_seconds",
            "How long the transaction is open that holds back all readers of events; 0 if none does.",
            0 if horizon is None else horizon.age,
        ),
    ]


def _agents(uow: UnitOfWork) -> list[Figure]:
    rows = uow.session.execute(select(Agent.status, func.count()).group_by(Agent.status))
    return [_by("alfred_db_agents", "Registered agents, by status.", "status", rows)]


def _knowledge(uow: UnitOfWork) -> list[Figure]:
    count = uow.session.scalar(select(func.count()).select_from(KnowledgeCollection))
    return [_gauge("alfred_db_knowledge_collections", "Collections of knowledge.", count)]


def _tables(uow: UnitOfWork) -> list[Figure]:
    """Read the statistics of the server; a partitioned table is the sum of its partitions."""
    tables = sorted(
        (table_of(mapper.class_) for mapper in Base.registry.mappers), key=lambda one: one.fullname
    )
    given = {
        "labels": [one.fullname for one in tables],
        "names": [table_name(uow.session, one) for one in tables],
    }
    rows = uow.session.execute(text(TABLES), given).all()
    shown = (
        ("alfred_db_table_rows", "Live rows of a table, as the server estimates.", "live"),
        ("alfred_db_table_dead_rows", "Row versions of a table that wait for vacuum.", "dead"),
        ("alfred_db_table_bytes", "Bytes of a table with its indexes.", "bytes"),
        ("alfred_db_table_scans_total", "Scans of a table and its indexes.", "scans"),
        ("alfred_db_table_writes_total", "Rows inserted, updated and deleted in a table.", "writes"),
    )
    return [
        _by(name, words, "table", ((row.name, getattr(row, key)) for row in rows))
        for name, words, key in shown
    ]


def _server(uow: UnitOfWork) -> list[Figure]:
    row = uow.session.execute(text(SERVER)).one()
    oldest = uow.session.execute(oldest_snapshot()).first()
    snapshot = None if oldest is None else oldest[0]
    return [
        _gauge("alfred_db_connections", "Connections to the server.", row.connections),
        _gauge("alfred_db_connections_max", "The most connections that the server accepts.", row.most),
        _gauge("alfred_db_locks", "Locks that are held or waited for in the database.", row.locks),
        _gauge("alfred_db_locks_waiting", "Locks that are waited for in the database.", row.waiting),
        _gauge(
            "alfred_db_longest_transaction_seconds",
            "How long the longest transaction of the database is open.",
            row.longest,
        ),
        _gauge(
            "alfred_db_oldest_snapshot_seconds",
            "How long the transaction is open that holds back vacuum; 0 if none does.",
            snapshot or 0,
        ),
        _by(
            "alfred_db_transactions_total",
            "Transactions of the database, by outcome.",
            "outcome",
            [("commit", row.commits), ("rollback", row.rollbacks)],
        ),
        _gauge("alfred_db_deadlocks_total", "Deadlocks of the database.", row.deadlocks),
        _gauge("alfred_db_size_bytes", "Bytes of the database.", row.size),
    ]


def _pool(pool: Pool) -> list[Figure]:
    if not isinstance(pool, QueuePool):
        return []
    states = [("used", pool.checkedout()), ("idle", pool.checkedin())]
    return [
        _by("alfred_db_pool_connections", "Connections of this process, by state.", "state", states),
        _gauge("alfred_db_pool_size", "Connections that the pool of this process keeps open.", pool.size()),
    ]


PARTS: dict[str, Callable[[UnitOfWork], list[Figure]]] = {
    "tasks": _tasks,
    "queues": _queues,
    "workers": _workers,
    "schedules": _schedules,
    "workflows": _workflows,
    "events": _events,
    "agents": _agents,
    "knowledge": _knowledge,
    "tables": _tables,
    "server": _server,
}
"""What reads the figures, part by part."""
