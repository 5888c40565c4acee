"""Waiting for the end of tasks: one LISTEN for all callers of a database, beside their polling."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import URL

from .listeners import Listener
from .notifications import channel_of_ends

__all__ = ["AsyncSignal", "Signal", "TaskEnds"]

WAITER = "alfred-db waiter"
"""The name of the connection; it is no worker's."""


class Signal:
    """What a thread waits for."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Wake the one who waits, from any thread."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Wait for the signal, at most so long; one that came since the last call counts."""
        self._event.wait(seconds)
        self._event.clear()


class AsyncSignal:
    """What an asyncio task waits for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def set(self) -> None:
        """Wake the one who waits, from any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> None:
        """Wait for the signal, at most so long; one that came since the last call counts."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)
        self._event.clear()


class TaskEnds:
    """Wakes those who wait for the end of tasks. It listens only while somebody waits."""

    def __init__(self, url: URL, schema: str | None) -> None:
        self._arguments = url, channel_of_ends(schema)
        self._lock = threading.Lock()
        self._waiting: dict[uuid.UUID, list[Callable[[], None]]] = {}
        self._listener: Listener | None = None

    def add(self, id: uuid.UUID, woken: Callable[[], None]) -> None:
        """Call `woken` when the task may have ended: from now on, and whenever a notification may have been missed."""
        with self._lock:
            self._waiting.setdefault(id, []).append(woken)
            if self._listener is None:
                self._listener = Listener(*self._arguments, self._wake_all, wanted=self._wanted, name=WAITER)

    def remove(self, id: uuid.UUID, woken: Callable[[], None]) -> None:
        """Take back an `add`."""
        with self._lock:
            self._waiting[id].remove(woken)
            if not self._waiting[id]:
                del self._waiting[id]
            if not self._waiting and self._listener is not None:
                self._listener.stop()
                self._listener = None

    def _wanted(self, payload: str) -> bool:
        """Wake those who wait for the tasks of a notification; return whether all are to be woken."""
        try:
            ended = [uuid.UUID(hex=name) for name in payload.split(",")]
        except ValueError:  # more tasks than a payload can hold
            return True
        with self._lock:
            for id in ended:
                for woken in self._waiting.get(id, ()):
                    woken()
        return False

    def _wake_all(self) -> None:
        with self._lock:
            for several in self._waiting.values():
                for woken in several:
                    woken()
