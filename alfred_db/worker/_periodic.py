"""A function called at intervals in a separate thread."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable

from ._log import log

__all__ = ["Periodic"]

AT_ONCE = 0.1
"""The least seconds between two calls, however often the next one is asked for."""

LAST_MOMENT = 5.0
"""Seconds that the end of the context waits for work that has begun."""


class Periodic:
    """Calls `work` every `seconds`, or up to a fifth sooner, while the context lasts; after an error sooner still."""

    def __init__(
        self, name: str, seconds: float, work: Callable[[], None], *, at_start: bool = False
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._work = work
        self._at_start = at_start
        self._stopped = False
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"alfred-db {name}", daemon=True)

    def __enter__(self) -> Periodic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._asked.set()
        self._thread.join(timeout=LAST_MOMENT)

    def soon(self) -> None:
        """Have the next call come at once; from any thread. Those that ask for it at one moment get one call."""
        self._asked.set()

    def _run(self) -> None:
        failures = 0
        pause = 0.0 if self._at_start else self._seconds * random.uniform(0.8, 1)
        last = -math.inf
        while True:
            self._asked.wait(pause)
            if self._asked.is_set() and not self._stopped:
                time.sleep(max(0.0, last + AT_ONCE - time.monotonic()))
            self._asked.clear()
            if self._stopped:
                return
            last = time.monotonic()
            pause = self._seconds * random.uniform(0.8, 1)
            try:
                self._work()
                failures = 0
            except Exception as error:  # whatever it was, the next time may go well
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log(level, "%s: %s; trying again", self._name, error)
                pause = min(pause, 0.05 * 2 ** min(failures, 20) * random.uniform(0.5, 1))
