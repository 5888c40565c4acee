"""Interrupting handlers at the moment when their time is up."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from ._lease import Held
from ._log import log

__all__ = ["Watch"]

AGAIN = 10.0
"""Seconds that an interrupted handler has for its cleaning up; then it is interrupted again, and so on."""

LAST_MOMENT = 1.0
"""Seconds that the end of the context waits for a look that has begun."""


class Watch:
    """Interrupts handlers at the deadline of their attempt, and logs those that go on.

    It needs neither the database nor the thread of the heartbeats, which may wait for it. One thread for all leases:
    it sleeps until the first deadline, and looks at all of them then.
    """

    def __init__(self, held: Callable[[], Collection[Held[Any]]]) -> None:
        self._held = held
        self._changed = threading.Condition()
        self._next = math.inf
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="alfred-db timeouts", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(timeout=LAST_MOMENT)

    def started(self, leases: Collection[Held[Any]]) -> None:
        """Schedule the look at these leases, which are among those held."""
        first = min((lease.ends_at for lease in leases), default=math.inf)
        with self._changed:
            if first < self._next:
                self._next = first
                self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                pause = self._next - time.monotonic()
                if pause > 0:
                    self._changed.wait(min(pause, threading.TIMEOUT_MAX))
                else:
                    self._next = self._look()

    def _look(self) -> float:
        """Interrupt what is overdue and return when to look again."""
        first = math.inf
        for lease in list(self._held()):
            if not (lease.ended or lease.given_back):
                first = min(first, _at(lease))
        return first


def _at(lease: Held[Any]) -> float:
    """Interrupt the handler if its time is up, and return when to look again."""
    now = time.monotonic()
    at = lease.again_at or lease.ends_at
    if now < at:
        return at
    try:
        _interrupt(lease)
    except Exception as error:  # an event loop that is closed
        log(logging.DEBUG, "%s: cannot be interrupted", lease.label, error=error)
    lease.again_at = now + AGAIN
    return lease.again_at


def _interrupt(lease: Held[Any]) -> None:
    again = lease.again_at is not None
    if not lease.overdue and (again or not lease.can_be_interrupted):
        lease.overdue = True
        reason = f"its {lease.timeout} have passed" if lease.time_left <= 0 else "its lease is lost"
        advice = (
            "it was cancelled and goes on; let it pass CancelledError on"
            if lease.can_be_interrupted
            else "a thread cannot be ended; have it look at `lease.lost`, or call `lease.check()`"
        )
        log(
            logging.WARNING,
            "%s: %s, and its handler keeps a slot of the worker until it ends: %s",
            lease.label,
            reason,
            advice,
        )
    lease.revoke(again=again)
