"""A function called at intervals in a separate thread."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from ._log import log

__all__ = ["Periodic"]

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
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"alfred-db {name}", daemon=True)

    def __enter__(self) -> Periodic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=LAST_MOMENT)

    def _run(self) -> None:
        failures = 0
        pause = 0.0 if self._at_start else self._seconds * random.uniform(0.8, 1)
        while not self._stopped.wait(pause):
            pause = self._seconds * random.uniform(0.8, 1)
            try:
                self._work()
                failures = 0
            except Exception as error:  # whatever it was, the next time may go well
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log(level, "%s: %s; trying again", self._name, error)
                pause = min(pause, 0.05 * 2 ** min(failures, 20) * random.uniform(0.5, 1))
