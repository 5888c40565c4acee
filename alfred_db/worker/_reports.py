"""The progress that handlers report: stored in one thread, those of one moment in one statement."""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from concurrent.futures import Future
from typing import NamedTuple

from sqlalchemy import text

from ..database import Database
from ..errors import ConflictError
from ..execution._sync.reporting import report
from ._lease import AnyLease
from ._log import log
from ._settle import LOCK_TIMEOUT, is_transient

__all__ = ["Reports"]

LAST_MOMENT = 1.0
"""Seconds that the end of the worker waits for a report that is being stored."""


class Report(NamedTuple):
    """A report of a handler, which waits until it is stored."""

    lease: AnyLease
    fraction: float
    note: str | None
    stored: Future[bool]
    """Whether the lease was still held."""


class Reports:
    """Stores reports on a separate connection: neither a heartbeat nor a claim waits for one.

    The thread and the connection are made for the first report. While a statement runs, further reports gather, and of
    several of one lease the next statement stores the last one.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._todo: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, lease: AnyLease, fraction: float, note: str | None) -> Future[bool]:
        """Have a report stored; the result is whether the lease was still held. Returns at once."""
        one = Report(lease, fraction, note, Future())
        with self._lock:
            if self._closed:  # the worker has stopped, and has released what it held
                one.stored.set_result(False)
                return one.stored
            self._todo.put(one)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alfred-db progress", daemon=True)
                self._thread.start()
        return one.stored

    def close(self) -> None:
        """Store what has been reported, and end the thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._todo.put(None)
            thread.join(timeout=LAST_MOMENT)

    def _run(self) -> None:
        going = True
        while going:
            found = [self._todo.get()]
            while not self._todo.empty():
                found.append(self._todo.get())
            going = None not in found
            # A handler that was cancelled, or has stopped waiting, reports nothing any more.
            reports = [one for one in found if one is not None and one.stored.set_running_or_notify_cancel()]
            if reports:
                self._store(reports)

    def _store(self, reports: list[Report]) -> None:
        last = {one.lease.claimed.id: one for one in reports}
        try:
            held = self._written(list(last.values()))
        except Exception as error:
            if len(last) > 1 and isinstance(error, ConflictError):
                for id in last:  # one by one, so that only the one that met the lock is left out
                    self._store([one for one in reports if one.lease.claimed.id == id])
                return
            transient = is_transient(error)
            log(logging.WARNING, "progress of %d tasks: not stored: %s", len(last), error)
            for one in reports:
                if transient:
                    one.stored.set_result(True)
                else:
                    one.stored.set_exception(error)
            return
        for one in reports:
            one.stored.set_result(one.lease.claimed.id in held)

    def _written(self, reports: list[Report]) -> set[uuid.UUID]:
        with self._db.begin() as uow:
            # A transaction of the handler's may have reported too.
            uow.session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            return report(uow.session, [(one.lease.claimed, one.fraction, one.note) for one in reports])
