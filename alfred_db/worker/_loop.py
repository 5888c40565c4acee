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
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from ..database import AsyncDatabase, Database
from ..engine.listeners import Listener
from ..engine.notifications import Notifier, cancelled_in, channel_of, channel_of_cancelled
from ._app import App
from ._dead_letters import DeadLetters
from ._lease import Held
from ._log import log
from ._outcome import Ended, failed
from ._periodic import Periodic
from ._reports import Reports
from ._settle import is_transient
from ._source import Source
from ._tasks import TaskSource
from ._upkeep import Upkeep
from ._watch import Watch
from .settings import Settings

__all__ = ["Loop", "worker_name"]

HEARTBEATS = 3
"""How many heartbeats come in the time of a lease: two may fail, or be late, before it lapses."""

FIRST_PAUSE = 0.05
"""Seconds between the first looks when nothing is there; then twice that, and so on."""

LOCKED_PAUSE = 0.5
"""Seconds until the end of work is tried again whose row another transaction has locked."""

HEARD = 1.0
"""Seconds after a notification in which those who enqueue are taken to notify."""

LAST_MOMENT = 1.0
"""Seconds that handlers have to end when the worker is stopped at once."""

ALL = ("", "")
"""Stands for everything in a notification of cancellations."""

MOST_EARLY = 1000
"""How many names of such notifications are remembered."""

STOPPED = failed("the worker stopped before the handler had ended")

MAX_CLAIM = 500
CONNECTIONS = 4
"""The loop, the heartbeats, the upkeep and the first report of progress take one each; a retention policy needs one more."""


class Loop:
    """Claims work of all its sources and has it started, until stopped. Handlers cannot exhaust its separate pool."""

    def __init__(
        self,
        db: Database | AsyncDatabase,
        sources: Sequence[Source[Any]],
        settings: Settings,
        *,
        intents: Sequence[str],
        commands: Sequence[str] = (),
        app: App | None = None,
    ) -> None:
        self.stopping = False
        self._at_once = False
        self._db = Database(
            db.url,
            schema=db.schema,
            pooler=db.pooler,
            pool_size=CONNECTIONS + (settings.retention is not None) + bool(app and app.dead_letter_hooks),
            application_name="alfred-db worker",
            notify=True,  # of what the end of a task releases, and of its end to those who wait for it
        )
        self._settings = settings
        self._sources = list(sources)
        self._takes = {source: partial(self._take, source) for source in sources}
        self._inbox: queue.SimpleQueue[tuple[Source[Any], Ended] | None] = queue.SimpleQueue()
        self._held: set[Held[Any]] = set()
        self._early: set[tuple[str, str]] = set()  # what the last notifications of cancellations have named
        self._named: list[Source[Any]] | None = None  # by the notification that has just come
        self._failures = 0
        self._heard = -math.inf  # when a notification came last
        self._watch = Watch(lambda: self._held)
        self._app = app
        self._dead_letters: DeadLetters | None = None
        if app is not None and app.dead_letter_hooks:
            self._dead_letters = DeadLetters(self._db, app.name, intents, app.dead_letter_hooks)
        self._notifier = Notifier(self._db.url)
        self._upkeep = Upkeep(
            self._db,
            intents,
            commands,
            settings,
            stopping=lambda: self.stopping,
            wake=self._wake_kind,
            notify=self._notify,
        )

    def stop(self, *, at_once: bool = False) -> None:
        """Claim no more, and end; may be called from a signal handler."""
        self.stopping = True
        self._at_once |= at_once
        self._inbox.put(None)

    def run(self, *, drain: bool) -> None:
        """Work until stopped; if it is to `drain`, until nothing can be claimed and nothing runs."""
        settings = self._settings
        self._heartbeats = Periodic("heartbeats", settings.lease / HEARTBEATS, self._beat)
        reports = Reports(self._db)
        for source in self._sources:
            if isinstance(source, TaskSource):
                source.report = reports.put
        with closing(self._db), closing(self._notifier), closing(reports), ExitStack() as helpers:
            helpers.enter_context(self._watch)
            helpers.enter_context(self._heartbeats)
            if not drain:
                helpers.enter_context(
                    Periodic("upkeep", settings.upkeep, self._upkeep.keep_up, at_start=True)
                )
                if settings.retention is not None:
                    # In a separate thread: a long purge does not hold up the upkeep.
                    every = settings.retention_every
                    helpers.enter_context(Periodic("retention", every, self._upkeep.retain, at_start=True))
            if self._dead_letters is not None and not drain:
                # In a separate thread: a hook does not hold up the upkeep.
                look = self._dead_letters.look
                helpers.enter_context(Periodic("dead letters", settings.upkeep, look, at_start=True))
            if self._db.pooler is None and not drain:
                listener = Listener(
                    self._db.url,
                    channel_of(self._db.schema),
                    self._notified,
                    wanted=self._wanted,
                    overdue=lambda: sum(lease.overdue and not lease.ended for lease in list(self._held)),
                    beside=(channel_of_cancelled(self._db.schema), self._cancelled),
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
        kept_up = not drain  # by its thread, else
        prepared = False
        while not self.stopping:
            try:
                if not prepared:
                    if self._app is not None:
                        self._app.prepare(self._db)
                    prepared = True
                if not kept_up:
                    self._upkeep.keep_up()
                    self._upkeep.retain()
                    kept_up = True
                self._settle()
                claimed, full = self._look(drain)
            except Exception as error:
                pause: float | None = self._failed(error)
            else:
                self._failures = 0
                if full:
                    continue
                if drain and not self._held and not claimed:
                    if self._dead_letters is not None:
                        self._dead_letters.look()
                    return
                pause = self._until_next_look()
            if any(source.ended for source in self._sources):  # what others have locked is tried again soon
                pause = LOCKED_PAUSE if pause is None else min(pause, LOCKED_PAUSE)
            self._receive(pause)

    def _look(self, drain: bool) -> tuple[int, bool]:
        """Claim from the sources that are due; return the number, and whether one had as many as there were slots."""
        heard = not drain and time.monotonic() - self._heard < HEARD
        every = drain and not self._held  # the last look, before it returns
        claimed = 0
        for source in self._sources:
            free = min(self._settings.concurrency - len(self._held), MAX_CLAIM)
            if not free:
                break
            if not (every or source.due(heard=heard)):
                continue
            found = self._claim(source, free)
            claimed += found
            source.looks = 0 if found else source.looks + 1
            if found == free:
                source.again_at = 0.0
                # The others come first for the slots that become free. A new list: other threads read the old one.
                self._sources = [*(other for other in self._sources if other is not source), source]
                return claimed, True
            pause = _growing(FIRST_PAUSE, source.looks, self._settings.poll) if source.polls else math.inf
            source.again_at = time.monotonic() + pause
        return claimed, False

    def _until_next_look(self) -> float | None:
        """Return the seconds until a source is due by itself, None if all slots are taken or none ever is."""
        if len(self._held) >= self._settings.concurrency:
            return None
        first = min(source.again_at for source in self._sources)
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def _claim(self, source: Source[Any], limit: int) -> int:
        with self._db.autocommit() as uow:
            found = source.look(uow, limit)
        again = {source.key_of(claimed) for claimed in found}
        if again:
            for lease in self._held:
                if lease.source is source and source.key_of(lease.claimed) in again:
                    lease.revoke()  # lost, and claimed once more before its handler has ended
        started = [source.start(claimed, self._takes[source]) for claimed in found]
        for lease in started:
            lease.source = source
        self._held.update(started)
        self._watch.started(started)
        if self._early and any(_named(lease, self._early) for lease in started):
            self._heartbeats.soon()
            self._early.discard(ALL)
        return len(found)

    def _wanted(self, payload: str) -> bool:
        self._named = [source for source in self._sources if source.wanted(payload)]
        return bool(self._named)

    def _notified(self) -> None:
        """Wake the sources that the notification names; all of them when the listener has begun to listen."""
        named, self._named = self._named, None
        self._heard = time.monotonic()
        self.wake(*(self._sources if named is None else named))

    def _cancelled(self, payload: str) -> None:
        """Have the heartbeats look at once whether the cancellation of what is held was requested.

        A notification proves nothing: what it names may have been claimed anew meanwhile. It may come before the claim has
        returned what it names, so it is remembered for a while. Called in the listener's thread.
        """
        names = cancelled_in(payload)
        if names is None:
            names = {ALL}
        if len(self._early) + len(names) > MOST_EARLY:
            self._early = set()
        self._early |= names
        if any(_named(lease, names) for lease in list(self._held)):
            self._heartbeats.soon()

    def wake(self, *sources: Source[Any]) -> None:
        """Have the loop look at these sources. May be called from any thread."""
        for source in sources:
            source.wake()
        self._inbox.put(None)

    def _wake_kind(self, noun: str) -> None:
        self.wake(*(source for source in self._sources if source.noun == noun))

    def _notify(self) -> None:
        """Notify other workers of tasks that this one has enqueued. Its own connections do not, for they complete tasks."""
        if self._db.pooler is None:
            self._notifier.notify(channel_of(self._db.schema))

    def _take(self, source: Source[Any], ended: Ended) -> None:
        ended.lease.took = time.monotonic() - ended.lease.began
        ended.lease.ended = True
        self._inbox.put((source, ended))

    def _settle(self) -> None:
        for source in self._sources:
            if source.ended:
                for lease in source.settled(self._db):
                    self._held.discard(lease)

    def _receive(self, timeout: float | None) -> None:
        """Wait for handlers to end and collect all that have."""
        try:
            item = self._inbox.get(timeout=timeout)
            while True:
                if item is not None:
                    source, ended = item
                    source.ended.append(ended)
                item = self._inbox.get_nowait()
        except queue.Empty:
            return

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
        for lease in self._running():
            lease.source.ended.append(Ended(lease, failure=STOPPED))
        self._end_all(LAST_MOMENT)
        if self._held:
            log(
                logging.WARNING,
                "%d tasks are left to their leases: the database is unavailable",
                len(self._held),
            )

    def _running(self) -> list[Held[Any]]:
        return list(self._held - {one.lease for source in self._sources for one in source.ended})

    def _end_all(self, seconds: float, at_once: Callable[[], bool] = lambda: False) -> None:
        """Settle the work that ends within `seconds`."""
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
        """Extend the leases; interrupt the handlers of work that is lost or to be cancelled."""
        held: dict[Source[Any], list[Held[Any]]] = {}
        for lease in list(self._held):
            if lease.completing or lease.source is None:
                continue
            if lease.lost:
                lease.revoke()
            else:
                held.setdefault(lease.source, []).append(lease)
        with ExitStack() as beats:  # an error of one source does not keep the others from their leases
            for source, leases in held.items():
                beats.callback(self._extend, source, leases)

    def _extend(self, source: Source[Any], leases: Sequence[Held[Any]]) -> None:
        with self._db.autocommit() as uow:
            kept = source.heartbeat(uow, [lease.claimed for lease in leases])
        found = {source.key_of(claimed): claimed for claimed in kept}
        for lease in leases:
            claimed = found.get(source.key_of(lease.claimed))
            if claimed is not None:
                lease.claimed = claimed
                if claimed.cancel_requested:
                    lease.interrupt()
            elif not lease.completing:
                lease.revoke()


def worker_name() -> str:
    """Return a new name for a worker: its machine, its process, and a random part."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4()}"


def _named(lease: Held[Any], names: Collection[tuple[str, str]]) -> bool:
    """Return whether a notification names what is held."""
    id = lease.claimed.id
    return ALL in names or (lease.noun, id.hex if isinstance(id, uuid.UUID) else str(id)) in names


def _growing(first: float, times: int, most: float) -> float:
    """Return a pause that doubles each time, up to a limit, with jitter."""
    return min(most, first * 2.0 ** min(times, 20)) * random.uniform(0.75, 1)
