"""What there is to see at one moment: queues, workers, tasks, schedules, workflows, consumers, agents and indexes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import Double, cast, extract, select, text

from ..database import Database
from ..errors import AlfredDBError, ConfigurationError, translated
from ..indexes import status
from ..models import Agent, ScheduledTask, Workflow, WorkflowExecution, WorkflowExecutionStatus
from ..queries import task_figures as queries
from ..queries.shapes.functions import func
from ..queries.shapes.literals import number
from ..repositories import UnitOfWork
from ._statements import SERVER
from .figures import STATEMENT_TIMEOUT

__all__ = ["LISTED", "Overview", "overview"]

LISTED = 20
"""Rows of each list."""

Rows = list[dict[str, Any]]


def _none() -> Rows:
    return []


@dataclass(slots=True)
class Overview:
    """Lists of rows as dictionaries; ages and times are in seconds."""

    server: Rows = field(default_factory=_none)
    """Connections, locks, the longest transaction, and the size of the database: one row."""
    queues: Rows = field(default_factory=_none)
    """Each queue with its tasks by state, and the oldest ready and the longest-running one."""
    workers: Rows = field(default_factory=_none)
    """Workers that hold tasks."""
    running: Rows = field(default_factory=_none)
    """The tasks that run longest."""
    failed: Rows = field(default_factory=_none)
    """The tasks that failed last."""
    unhandled: Rows = field(default_factory=_none)
    """Intents that no worker seems to handle."""
    schedules: Rows = field(default_factory=_none)
    """Active schedules, the next slot first; a negative `due_in` has passed."""
    workflows: Rows = field(default_factory=_none)
    """Executions of workflows that have not ended, by name and status."""
    consumers: Rows = field(default_factory=_none)
    """Consumers of events, and how far they are behind."""
    agents: Rows = field(default_factory=_none)
    """Registered agents, those with the latest heartbeat first."""
    indexes: Rows = field(default_factory=_none)
    """Vector indexes with their state and warnings."""
    errors: Rows = field(default_factory=_none)
    """The lists that could not be read."""


def overview(db: Database, *, listed: int = LISTED) -> Overview:
    """Read the lists in short read-only transactions, also of a database that cannot be reached.

    Args:
        db: The database, or one tenant of it.
        listed: Rows of each list.

    Raises:
        ConfigurationError: The connection cannot be used, such as because of its encoding.
    """
    found = Overview()
    for one in fields(Overview):
        if one.name == "errors":
            continue
        try:
            with translated(), db.begin() as uow:
                uow.session.execute(text("SET TRANSACTION READ ONLY"))
                uow.session.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
                setattr(found, one.name, _LISTS[one.name](uow, listed))
        except AlfredDBError as error:
            if isinstance(error, ConfigurationError) and one.name == "server":
                raise  # of the connection, such as its encoding: no other look will mend it
            found.errors.append({"list": one.name, "error": str(error)})
            if one.name == "server":  # no other list can be read either
                break
    return found


def _rows(uow: UnitOfWork, statement: Any) -> Rows:
    return [dict(row) for row in uow.session.execute(statement).mappings()]


def _server(uow: UnitOfWork, _: int) -> Rows:
    return _rows(uow, text(SERVER))


def _queues(uow: UnitOfWork, listed: int) -> Rows:
    found: dict[str, dict[str, Any]] = {}
    for statement in (queries.waiting(), queries.running(), queries.failed()):
        for row in _rows(uow, statement):
            found.setdefault(row["queue"], {}).update(row)
    names = ("ready", "delayed", "running", "expired", "failed")
    empty: dict[str, Any] = {**dict.fromkeys(names, 0), "oldest": None, "longest": None}
    rows: Rows = [{"queue": name, **empty, **found[name]} for name in sorted(found)]
    return sorted(rows, key=lambda row: (-row["ready"], row["queue"]))[:listed]


def _workers(uow: UnitOfWork, listed: int) -> Rows:
    return _rows(uow, queries.holders(listed))


def _running(uow: UnitOfWork, listed: int) -> Rows:
    return _rows(uow, queries.longest(listed))


def _failed(uow: UnitOfWork, listed: int) -> Rows:
    return _rows(uow, queries.latest_failed(listed))


def _unhandled(uow: UnitOfWork, listed: int) -> Rows:
    rows = uow.session.execute(queries.unhandled(60.0)).all()[:listed]
    return [{"intent": intent, "seconds": seconds} for intent, seconds in rows]


def _schedules(uow: UnitOfWork, listed: int) -> Rows:
    task = ScheduledTask
    due = cast(extract("epoch", task.next_run_at - func.statement_timestamp()), Double).label("due_in")
    return _rows(
        uow,
        select(task.id, task.name, task.schedule, task.timezone, due)
        .where(task.is_active, task.schedule.is_not(None))
        .order_by(task.next_run_at, task.id)
        .limit(number(listed)),
    )


def _workflows(uow: UnitOfWork, listed: int) -> Rows:
    ended = (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.CANCELLED)
    live = [status for status in WorkflowExecutionStatus if status not in ended]
    execution = WorkflowExecution
    return _rows(
        uow,
        select(Workflow.name, execution.status, func.count().label("executions"))
        .join(Workflow, Workflow.id == execution.workflow_id)
        .where(execution.status.in_(live))
        .group_by(Workflow.name, execution.status)
        .order_by(func.count().desc(), Workflow.name)
        .limit(number(listed)),
    )


def _consumers(uow: UnitOfWork, listed: int) -> Rows:
    found: Rows = [
        {"consumer": one.name, "unread": one.behind, "lag": one.oldest_unread_age or 0.0}
        for one in uow.events.consumers()
    ]
    return sorted(found, key=lambda row: -row["lag"])[:listed]


def _agents(uow: UnitOfWork, listed: int) -> Rows:
    seen = cast(extract("epoch", func.statement_timestamp() - Agent.last_heartbeat), Double).label("seen")
    return _rows(
        uow,
        select(Agent.name, Agent.type, Agent.status, seen)
        .order_by(Agent.last_heartbeat.desc().nulls_last(), Agent.name)
        .limit(number(listed)),
    )


def _indexes(uow: UnitOfWork, listed: int) -> Rows:
    return [
        {
            "index": one.name,
            "table": one.table,
            "state": str(one.state),
            "bytes": one.size,
            "warnings": "; ".join(one.warnings),
        }
        for one in status(uow.session.connection())
    ][:listed]


_LISTS: dict[str, Callable[[UnitOfWork, int], Rows]] = {
    "server": _server,
    "queues": _queues,
    "workers": _workers,
    "running": _running,
    "failed": _failed,
    "unhandled": _unhandled,
    "schedules": _schedules,
    "workflows": _workflows,
    "consumers": _consumers,
    "agents": _agents,
    "indexes": _indexes,
}
