"""The loop of a worker: claim, have the handlers started, settle what has ended; and its helping threads."""

from __future__ import annotations

import logging
import math
import os
import queue
import random
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from ..config import command
from ..database import AsyncDatabase, Database
from ..engine.listeners import Listener
from ..engine.notifications import channel_of, wakes
from ..errors import shown
from ..execution._sync.driver import fetch
from ..queries.task_figures import unhandled
from ..queries.task_upkeep import due
from ..retention import purge
from ..values.tasks import ClaimedTask
from ._lease import AnyLease
from ._log import log
from ._outcome import Ended, failed
from ._periodic import Periodic
from ._settle import is_transient, settled
from ._watch import Watch
from .settings import Settings

__all__ = ["End", "Loop", "Start"]

FIRST_PAUSE = 0.05
"""Seconds between the first looks when nothing is there; then twice that, and so on."""

LOCKED_PAUSE = 0.5
"""Seconds until the end of a task is tried again whose row another transaction has locked."""

HEARD = 1.0
"""Seconds after a notification in which those who enqueue are taken to notify."""

LAST_MOMENT = 1.0
"""Seconds that handlers have to end when the worker is stopped at once."""

STOPPED = failed("the worker stopped before the handler had ended")

MAX_CLAIM = 500
CONNECTIONS = 3
"""The loop, the heartbeats and the upkeep use one each; a retention policy needs one more."""

PURGE_SECONDS = 60.0
"""The least time between two sweeps of a worker for what has expired."""

PURGED = 10_000
"""How many rows one statement of such a sweep deletes."""

UNHANDLED_AFTER = 300.0
"""Seconds that a task waits before the worker warns that nobody handles its intent."""

UNHANDLED_EVERY = 60.0
"""The least time between two looks for such tasks."""

End = Callable[[Ended], None]
"""Takes the end of a handler, once, from any thread."""

Start = Callable[[ClaimedTask, End], AnyLease]
"""Starts the handler of a task and returns its lease."""


class Loop:
    """Claims tasks and starts their handlers until stopped. Handlers cannot exhaust its separate pool."""

    def __init__(
        self, db: Database | AsyncDatabase, intents: Sequence[str], start: Start, settings: Settings
    ) -> None:
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4()}"
        self.stopping = False
        self._at_once = False
        self._db = Database(
            db.url,
            schema=db.schema,
            pooler=db.pooler,
            pool_size=CONNECTIONS + (settings.retention is not None),
            application_name="alfred-db worker",
        )
        self._intents = intents
        self._start = start
        self._settings = settings
        self._inbox: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()
        self._held: set[AnyLease] = set()
        self._ended: list[Ended] = []
        self._purged: float | None = None
        self._looked: float | None = None  # for intents that nobody handles
        self._unhandled: set[str] = set()  # what the log has named
        self._failures = 0
        self._heard = -math.inf  # when a notification came last
        self._invalid: dict[int, str] = {}  # what the log has named
        self._watch = Watch(lambda: self._held)

    def stop(self, *, at_once: bool = False) -> None:
        """Claim no more, and end; may be called from a signal handler."""
        self.stopping = True
        self._at_once |= at_once
        self._inbox.put(None)

    def run(self, *, drain: bool) -> None:
        """Work until stopped; if it is to `drain`, until nothing can be claimed and nothing runs."""
        settings = self._settings
        with closing(self._db), ExitStack() as helpers:
            helpers.enter_context(self._watch)
            helpers.enter_context(Periodic("heartbeats", settings.lease / 3, self._beat))
            if not drain:
                helpers.enter_context(Periodic("upkeep", settings.upkeep, self._keep_up, at_start=True))
                if settings.retention is not None:
                    # In a separate thread: a long purge does not hold up the upkeep.
                    every = settings.retention_every
                    helpers.enter_context(Periodic("retention", every, self._retain, at_start=True))
            if self._db.pooler is None and not drain:
                listener = Listener(
                    self._db.url,
                    channel_of(self._db.schema),
                    self._notified,
                    wanted=lambda payload: wakes(payload, settings.queues, self._intents),
                    overdue=lambda: sum(lease.overdue and not lease.ended for lease in list(self._held)),
                )
                helpers.callback(listener.join)
                helpers.callback(listener.stop)
            try:
                self._work(drain)
            except BaseException:
                for lease in self._held:
                    lease.revoke()
                raise
            self._wind_down()

    def _work(self, drain: bool) -> None:
        looks = 0  # in vain, since something was there
        again_at = 0.0  # when to look again, unless something wakes the loop
        kept_up = not drain  # by its thread, else
        while not self.stopping:
            try:
                if not kept_up:
                    self._keep_up()
                    self._retain()
                    kept_up = True
                self._settle()
                asked = min(self._settings.concurrency - len(self._held), MAX_CLAIM)
                # Nothing was left a moment ago, and a notification would have come: a slot that ends is no reason to look.
                waits = again_at - time.monotonic()
                if asked and waits > 0 and not drain and time.monotonic() - self._heard < HEARD:
                    if self._receive(min(waits, LOCKED_PAUSE) if self._ended else waits):
                        looks, again_at = 0, 0.0
                    continue
                claimed = self._claim(asked) if asked else 0
            except Exception as error:
                pause: float | None = self._failed(error)
            else:
                self._failures = 0
                if claimed:
                    looks = 0
                if asked and claimed == asked:
                    again_at = 0.0
                    continue
                if drain and not self._held:
                    return
                looks += bool(asked and not claimed)
                pause = _growing(FIRST_PAUSE, looks, self._settings.poll) if asked else None
                again_at = time.monotonic() + pause if pause is not None else 0.0
            if self._ended:  # what others have locked is tried again soon
                pause = LOCKED_PAUSE if pause is None else min(pause, LOCKED_PAUSE)
            if self._receive(pause):
                looks, again_at = 0, 0.0

    def _claim(self, limit: int) -> int:
        tasks = self._claimed(limit)
        again = {task.id for task in tasks}
        for lease in self._held:
            if lease.task.id in again:  # lost, and claimed once more before its handler has ended
                lease.revoke()
        started = [self._start(task, self._take) for task in tasks]
        self._held.update(started)
        self._watch.started(started)
        return len(tasks)

    def _claimed(self, limit: int) -> Sequence[ClaimedTask]:
        with self._db.autocommit() as uow:
            return uow.tasks.claim(
                worker=self.worker,
                limit=limit,
                queues=self._settings.queues,
                intents=self._intents,
                assigned_to=self._settings.assigned_to,
                lease=self._settings.lease,
            )

    def _notified(self) -> None:
        self._heard = time.monotonic()
        self._inbox.put(None)

    def _take(self, ended: Ended) -> None:
        ended.lease.took = time.monotonic() - ended.lease.began
        ended.lease.ended = True
        self._inbox.put(ended)

    def _settle(self) -> None:
        for lease in settled(self._db, self._ended, self._settings.backoff):
            self._held.discard(lease)

    def _receive(self, timeout: float | None) -> bool:
        """Wait for handlers to end and collect all that have. Return whether something else woke the loop too."""
        woken = False
        try:
            item = self._inbox.get(timeout=timeout)
            while True:
                if item is None:
                    woken = True
                else:
                    self._ended.append(item)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return woken

    def _failed(self, error: Exception) -> float:
        """Log the error once and return the seconds until the next try. Raise an error that no retry repairs."""
        if not is_transient(error):
            raise error
        self._failures += 1
        log(logging.WARNING if self._failures == 1 else logging.DEBUG, "database: %s; trying again", error)
        return _growing(FIRST_PAUSE, self._failures, self._settings.poll)

    def _wind_down(self) -> None:
        """Let the handlers end; after the grace period interrupt them, and release what has still not ended."""
        if self._held:
            log(
                logging.INFO,
                "stopping: %d tasks are left, for at most %g s",
                len(self._held),
                self._settings.grace,
            )
        self._end_all(self._settings.grace, at_once=lambda: self._at_once)
        running = self._running()
        for lease in running:
            lease.give_back()
        self._end_all(LAST_MOMENT if running else 0)
        self._ended += [Ended(lease, failure=STOPPED) for lease in self._running()]
        self._end_all(LAST_MOMENT)
        if self._held:
            log(
                logging.WARNING,
                "%d tasks are left to their leases: the database is unavailable",
                len(self._held),
            )

    def _running(self) -> list[AnyLease]:
        return list(self._held - {one.lease for one in self._ended})

    def _end_all(self, seconds: float, at_once: Callable[[], bool] = lambda: False) -> None:
        """Settle the tasks that end within `seconds`."""
        until = time.monotonic() + seconds
        while True:
            pause = 1.0
            try:
                self._settle()
            except Exception as error:
                pause = self._failed(error)
            left = until - time.monotonic()
            if not self._held or left <= 0 or at_once():
                return
            self._receive(min(left, pause))

    def _beat(self) -> None:
        """Extend the leases; interrupt the handlers of tasks that are lost or to be cancelled."""
        leases = [lease for lease in list(self._held) if not lease.completing]
        for lease in leases:
            if lease.lost:
                lease.revoke()
        held = [lease for lease in leases if not lease.lost]
        if not held:
            return
        with self._db.autocommit() as uow:
            kept = uow.tasks.heartbeat_many([lease.task for lease in held], lease=self._settings.lease)
        found = {task.id: task for task in kept}
        for lease in held:
            task = found.get(lease.task.id)
            if task is not None:
                lease.task = task
                if task.cancel_requested:
                    lease.interrupt()
            elif not lease.completing:
                lease.revoke()

    def _keep_up(self) -> None:
        """Take tasks back from workers that vanished, create the executions of due slots, and delete what has expired.

        An error in one does not prevent the other.
        """
        with self._db.autocommit() as uow:
            tasks, executions = fetch(uow.session, due(self._settings.schedules), {})[0]
        with ExitStack() as parts:
            if executions:
                parts.callback(self._create_executions)
            parts.callback(self._purge)
            parts.callback(self._warn_of_unhandled)
            if tasks:
                self._reap()

    def _purge(self) -> None:
        """Delete expired values, limits and sessions, at most once in PURGE_SECONDS: each reads a whole table."""
        if self._purged is not None and time.monotonic() - self._purged < PURGE_SECONDS:
            return
        self._purged = time.monotonic()
        for noun in (self._db.cache, self._db.rate_limits, self._db.web_sessions):
            while not self.stopping and noun.purge(limit=PURGED) == PURGED:
                pass
        while not self.stopping and self._db.cache.evict(limit=PURGED) == PURGED:
            pass

    def _retain(self) -> None:
        """Delete what the retention policy does not keep."""
        policy = self._settings.retention
        if policy is None:
            return
        for one in purge(self._db, policy, stopping=lambda: self.stopping):
            if one.error is not None:
                log(logging.WARNING, "retention: %s: %s; trying again", one.kind, one.error)
            if one.rows:
                log(logging.INFO, "retention: %d %s deleted", one.rows, one.kind)

    def _warn_of_unhandled(self) -> None:
        """Warn once of each intent of which tasks wait, although no worker seems to handle it."""
        if self._looked is not None and time.monotonic() - self._looked < UNHANDLED_EVERY:
            return
        self._looked = time.monotonic()
        with self._db.autocommit() as uow:
            waiting = uow.session.execute(unhandled(UNHANDLED_AFTER)).all()
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

    def _reap(self) -> None:
        full = True
        while full and not self.stopping:
            with self._db.autocommit() as uow:
                taken = uow.tasks.reap(limit=MAX_CLAIM, backoff=self._settings.backoff)
            for id, status in taken.items():
                log(logging.WARNING, "task %s: its worker vanished or took too long, now %s", id, status)
            full = len(taken) == MAX_CLAIM

    def _create_executions(self) -> None:
        full = True
        while full and not self.stopping:
            with self._db.begin() as uow:
                uow.scheduler.reap()
                tick = uow.scheduler.tick()
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


def _growing(first: float, times: int, most: float) -> float:
    """Return a pause that doubles each time, up to a limit, with jitter."""
    return min(most, first * 2.0 ** min(times, 20)) * random.uniform(0.75, 1)
