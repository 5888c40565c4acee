"""LISTEN beside the polling: a thread that waits for notifications about tasks."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from types import TracebackType

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL

from ..errors import ConfigurationError, translated
from .notifications import channel_of, connect, wakes

__all__ = ["AsyncTaskListener", "Listener", "TaskListener", "refuse_pooler"]

LIVENESS = 60.0
"""Seconds between two checks that a silent connection is alive."""

GLANCE = 0.5
"""Seconds within which a listener notices that it should stop."""

LISTENER = "alfred-db listener"
OVERDUE = ", {} overdue"

_log = logging.getLogger(__name__)


class Listener:
    """Calls `woken` for notifications of the channel, and after each interruption of the connection.

    While the connection was down, notifications may have been missed. The `application_name` of the
    connection shows how many handlers of the worker are overdue, for `queue_health`; it ends with the process
    that it describes.

    Args:
        url: The database.
        channel: The channel, from `channel_of`.
        woken: Called in the listener's thread.
        wanted: Returns whether a notification with this payload concerns the caller.
        overdue: Returns the number of overdue handlers.
        name: The `application_name` of the connection.
        beside: A second channel, and what takes the payload of each of its notifications. It takes an empty one when
            some may have been missed.
    """

    def __init__(
        self,
        url: URL,
        channel: str,
        woken: Callable[[], None],
        *,
        wanted: Callable[[str], bool] = lambda _: True,
        overdue: Callable[[], int] = lambda: 0,
        name: str = LISTENER,
        beside: tuple[str, Callable[[str], None]] | None = None,
    ) -> None:
        self._name = name
        self._beside = beside
        self._url = url
        self._channel = channel
        self._woken = woken
        self._wanted = wanted
        self._overdue = overdue
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alfred-db listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end: within a second, unless it is connecting."""
        self._stopped.set()

    def join(self) -> None:
        """Wait until the thread has ended, for at most twice `GLANCE`."""
        self._thread.join(timeout=2 * GLANCE)

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                with connect(self._url, self._name) as connection:
                    connection.execute(SQL("LISTEN {}").format(Identifier(self._channel)))
                    if self._beside is not None:
                        connection.execute(SQL("LISTEN {}").format(Identifier(self._beside[0])))
                    failures = 0
                    self._listen(connection)
            except psycopg.Error as error:
                with suppress(Exception):  # of a filter or a handler of the application's log
                    level = logging.WARNING if failures == 1 else logging.DEBUG
                    _log.log(level, "not listening on %s, polling only: %s", self._channel, _reason(error))
                failures += 1
                self._stopped.wait(random.uniform(0.5, 1) * min(30, 0.1 * 2 ** min(failures, 10)))

    def _listen(self, connection: psycopg.Connection) -> None:
        self._woken()  # a task that was enqueued before LISTEN has notified nobody
        if self._beside is not None:
            self._beside[1]("")
        asked = time.monotonic()
        said = 0
        while not self._stopped.is_set():
            for notified in connection.notifies(timeout=GLANCE, stop_after=1):
                if self._beside is not None and notified.channel == self._beside[0]:
                    self._beside[1](notified.payload)
                elif self._wanted(notified.payload):
                    self._woken()
            if (overdue := self._overdue()) != said:
                name = self._name + (OVERDUE.format(overdue) if overdue else "")
                connection.execute(SQL("SET application_name = {}").format(name))
                said = overdue
            if time.monotonic() - asked > LIVENESS:
                connection.execute("SELECT 1")
                asked = time.monotonic()


class TaskListener:
    """Waits for tasks without polling, for a loop that claims them itself; from `Database.listen`.

    A notification only means that it is worth looking, and may be lost with the connection: look after each
    `wait`, whatever it returns, and do not wait for longer than a task may lie.
    """

    def __init__(
        self, url: URL, schema: str | None, queues: Collection[str] | None, intents: Collection[str] | None
    ) -> None:
        self._notified = threading.Event()
        self._arguments = (url, channel_of(schema), queues, intents)
        self._listener: Listener | None = None

    def __enter__(self) -> TaskListener:
        self._listener = _listener(*self._arguments, self._notified.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.stop()
            self._listener.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification, at most `timeout` seconds; one that came since the last call counts.

        Returns:
            Whether one came.
        """
        notified = self._notified.wait(timeout)
        self._notified.clear()
        return notified


class AsyncTaskListener:
    """The `TaskListener` for asyncio."""

    def __init__(
        self, url: URL, schema: str | None, queues: Collection[str] | None, intents: Collection[str] | None
    ) -> None:
        self._notified = asyncio.Event()
        self._arguments = (url, channel_of(schema), queues, intents)
        self._listener: Listener | None = None

    async def __aenter__(self) -> AsyncTaskListener:
        loop = asyncio.get_running_loop()

        def notified() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._notified.set)

        self._listener = _listener(*self._arguments, notified)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.stop()
            await asyncio.to_thread(self._listener.join)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification, at most `timeout` seconds; one that came since the last call counts.

        Returns:
            Whether one came.
        """
        try:
            await asyncio.wait_for(self._notified.wait(), timeout)
        except TimeoutError:
            return False
        self._notified.clear()
        return True


def _listener(
    url: URL,
    channel: str,
    queues: Collection[str] | None,
    intents: Collection[str] | None,
    woken: Callable[[], None],
) -> Listener:
    return Listener(url, channel, woken, wanted=lambda payload: wakes(payload, queues, intents))


def refuse_pooler(pooler: str | None) -> None:
    """Refuse to listen through a pooler.

    Raises:
        ConfigurationError: In transaction mode a notification reaches nobody.
    """
    if pooler is not None:
        raise ConfigurationError(
            "listen: behind a pooler in transaction mode no notification arrives; connect to the server itself, or poll"
        )


def _reason(error: psycopg.Error) -> str:
    try:
        with translated():
            raise error
    except Exception as ours:
        return str(ours)
