"""The upkeep of a worker: taking work back from workers that vanished, due slots, and what has expired."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from ..config import command
from ..database import Database
from ..errors import shown
from ..execution._sync.driver import fetch
from ..queries.scheduler import unrun
from ..queries.task_figures import unhandled
from ..queries.task_upkeep import due
from ..retention import purge
from ._log import log
from .settings import Settings

__all__ = ["Upkeep"]

REAPED = 500
"""How many tasks one statement takes back."""

AGED = 1000
"""How many tasks one statement raises the priority of."""

PURGE_SECONDS = 60.0
"""The least time between two sweeps of a worker for what has expired."""

PURGED = 10_000
"""How many rows one statement of such a sweep deletes."""

UNHANDLED_AFTER = 300.0
"""Seconds that a task waits before the worker warns that nobody handles its intent."""

UNHANDLED_EVERY = 60.0
"""The least time between two looks for such tasks."""


class Upkeep:
    """What each worker does from time to time for all of them. Any number may do it at the same time."""

    def __init__(
        self,
        db: Database,
        intents: Sequence[str],
        commands: Sequence[str],
        settings: Settings,
        *,
        stopping: Callable[[], bool],
        wake: Callable[[str], None],
        notify: Callable[[], None],
    ) -> None:
        self._db = db
        self._intents = intents
        self._commands = commands
        self._wake = wake
        self._notify = notify
        self._settings = settings
        self._stopping = stopping
        self._purged: float | None = None
        self._looked: float | None = None  # for intents that nobody handles
        self._unhandled: set[str] = set()  # what the log has named
        self._unrun: set[int] = set()  # the same
        self._invalid: dict[int, str] = {}  # what the log has named

    def keep_up(self) -> None:
        """Take tasks back from workers that vanished, create the executions of due slots, and delete what has expired.

        An error in one does not prevent the other.
        """
        with self._db.autocommit() as uow:
            statement = due(self._settings.schedules, bool(self._commands))
            parameters = {"commands": list(self._commands)} if self._commands else {}
            tasks, executions, waiting, ages = fetch(uow.session, statement, parameters)[0]
        with ExitStack() as parts:
            if waiting:
                parts.callback(self._wake, "execution")
            if executions:
                parts.callback(self._create_executions)
            if ages:
                parts.callback(self._age)
            parts.callback(self._purge)
            parts.callback(self._warn_of_unhandled)
            if tasks:
                parts.callback(self._reap_workflows)
                self._reap()

    def retain(self) -> None:
        """Delete what the retention policy does not keep."""
        policy = self._settings.retention
        if policy is None:
            return
        for one in purge(self._db, policy, stopping=self._stopping):
            if one.error is not None:
                log(logging.WARNING, "retention: %s: %s; trying again", one.kind, one.error)
            if one.rows:
                log(logging.INFO, "retention: %d %s deleted", one.rows, one.kind)

    def _age(self) -> None:
        """Raise the priority of tasks that have waited for longer than the ageing of their queue."""
        full = True
        while full and not self._stopping():
            with self._db.autocommit() as uow:
                full = uow.queues.age(limit=AGED) == AGED

    def _purge(self) -> None:
        """Delete expired values, limits and sessions, at most once in PURGE_SECONDS: each reads a whole table."""
        if self._purged is not None and time.monotonic() - self._purged < PURGE_SECONDS:
            return
        self._purged = time.monotonic()
        for noun in (self._db.cache, self._db.rate_limits, self._db.web_sessions):
            while not self._stopping() and noun.purge(limit=PURGED) == PURGED:
                pass
        while not self._stopping() and self._db.cache.evict(limit=PURGED) == PURGED:
            pass

    def _warn_of_unhandled(self) -> None:
        """Warn once of each intent of which tasks wait, although no worker seems to handle it."""
        if self._looked is not None and time.monotonic() - self._looked < UNHANDLED_EVERY:
            return
        self._looked = time.monotonic()
        with self._db.autocommit() as uow:
            waiting = uow.session.execute(unhandled(UNHANDLED_AFTER)).all()
            commands = uow.session.execute(unrun(self._commands)).all() if self._settings.schedules else ()
        settings = self._settings
        mine = set(self._intents) if settings.queues is None and settings.assigned_to is None else set[str]()
        found = {intent: seconds for intent, seconds in waiting if intent not in mine}
        for intent in found.keys() - self._unhandled:
            log(
                logging.WARNING,
                "intent %s: a task has waited for %d s, and no worker seems to handle it; start a worker with a"
                " handler of it, or cancel such tasks",
                shown(intent),
                found[intent],
            )
        self._unhandled = set(found)
        for id, name, command_ in commands:
            if id not in self._unrun:
                log(
                    logging.WARNING,
                    "schedule %s (%d): this worker has no handler of its command %s, and unless another one has, its"
                    " slots wait; pass `commands=` to the worker, or have the schedule enqueue a task, with `intent=`",
                    shown(name),
                    id,
                    shown(command_),
                )
        self._unrun = {row[0] for row in commands}

    def _reap(self) -> None:
        full = True
        while full and not self._stopping():
            with self._db.autocommit() as uow:
                taken = uow.tasks.reap(limit=REAPED, backoff=self._settings.backoff)
            for id, status in taken.items():
                log(logging.WARNING, "task %s: its worker vanished or took too long, now %s", id, status)
            full = len(taken) == REAPED

    def _reap_workflows(self) -> None:
        full = True
        while full and not self._stopping():
            with self._db.autocommit() as uow:
                taken = uow.workflows.reap(limit=REAPED)
            for id, status in taken.items():
                log(
                    logging.WARNING,
                    "workflow execution %s: its worker vanished or took too long, now %s",
                    id,
                    status,
                )
            full = len(taken) == REAPED

    def _create_executions(self) -> None:
        full = True
        while full and not self._stopping():
            with self._db.begin() as uow:
                uow.scheduler.reap()
                tick = uow.scheduler.tick()
            if tick.created and self._commands:
                self._wake("execution")
            if tick.enqueued:
                self._wake("task")
                self._notify()
            for invalid in tick.invalid:
                if self._invalid.get(invalid.task_id) != invalid.reason:
                    self._invalid[invalid.task_id] = invalid.reason
                    log(
                        logging.WARNING,
                        "scheduled task %d has no slots: %s; %s lists all such tasks",
                        invalid.task_id,
                        invalid.reason,
                        command("doctor", self._db.url, self._db.schema),
                    )
            full = tick.full
