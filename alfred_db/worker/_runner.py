"""How handlers run: plain functions in threads, coroutine functions in an event loop."""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

from ._lease import Held
from ._outcome import Ended, raised
from ._source import End

__all__ = ["Runner", "is_asynchronous"]

LAST_MOMENT = 1.0
"""Seconds that the end of the context waits for coroutines to end, once they are cancelled."""


class Runner:
    """Runs handlers of both kinds side by side.

    Plain functions run in separate threads, as many as the worker has slots, made when they are first needed: the
    default executor of an event loop has fewer, and others use it. Coroutines run in the event loop that
    `AsyncWorker.run` is awaited in. A `Worker` makes an event loop in a thread when it has the first one to run.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._events: asyncio.AbstractEventLoop | None = None
        self._own: threading.Thread | None = None
        self._running: set[asyncio.Task[Ended]] = set()

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in range(self._threads):
            self._todo.put(None)
        # Threads of handlers that never end keep the old ones, should the worker run once more.
        self._todo, self._idle, self._threads = queue.SimpleQueue(), threading.Semaphore(0), 0
        if self._own is not None and self._events is not None:
            self._events.call_soon_threadsafe(self._events.stop)
            self._own.join(timeout=2 * LAST_MOMENT)
        self._own = self._events = None

    def run(
        self,
        handler: Callable[..., Any],
        arguments: tuple[Any, ...],
        lease: Held[Any],
        end: End,
        returned: Callable[[Any, Any], Ended],
        *,
        asynchronous: bool | None = None,
    ) -> None:
        """Run a handler of either kind, and call `end` once when it has ended, whatever it raised.

        Args:
            handler: A function or a coroutine function.
            arguments: What it is called with.
            lease: The lease of its work, which interrupts a coroutine.
            end: Takes how it ended.
            returned: Makes this of the lease and the value that the handler returned.
            asynchronous: Whether it is a coroutine function, if the caller knows; to find out takes time.
        """

        def call() -> Ended:
            try:
                value = handler(*arguments)
            except BaseException as error:
                return raised(lease, error)
            return returned(lease, value)

        async def awaited() -> Ended:
            # SystemExit and KeyboardInterrupt would end the event loop.
            try:
                value = await handler(*arguments)
            except BaseException as error:
                return raised(lease, error)
            return returned(lease, value)

        if is_asynchronous(handler) if asynchronous is None else asynchronous:
            self._start(lease, awaited, end)
        else:
            self._call(call, end)

    def use(self, events: asyncio.AbstractEventLoop) -> None:
        """Run coroutines in this event loop."""
        self._events = events

    def _call(self, ended: Callable[[], Ended], end: End) -> None:
        """Run a function in a thread. It returns how the handler ended, and never raises."""
        if not self._idle.acquire(blocking=False) and self._threads < self._slots:
            self._threads += 1
            threading.Thread(target=self._serve, name="alfred-db handler", daemon=True).start()
        self._todo.put(lambda: end(ended()))

    def _start(self, lease: Held[Any], ended: Callable[[], Coroutine[Any, Any, Ended]], end: End) -> None:
        """Run a coroutine function in the event loop. It returns how the handler ended, and never raises."""
        events = self._events or self._made()
        events.call_soon_threadsafe(self._begin, events, lease, ended, end)

    def _serve(self) -> None:
        todo, idle = self._todo, self._idle
        while (work := todo.get()) is not None:
            work()
            idle.release()

    def _made(self) -> asyncio.AbstractEventLoop:
        self._events = events = asyncio.new_event_loop()

        def run() -> None:
            try:
                events.run_forever()
                left = asyncio.all_tasks(events)
                for task in left:
                    task.cancel()
                if left:
                    events.run_until_complete(asyncio.wait(left, timeout=LAST_MOMENT))
            finally:
                events.close()

        self._own = threading.Thread(target=run, name="alfred-db events", daemon=True)
        self._own.start()
        return events

    def _begin(
        self,
        events: asyncio.AbstractEventLoop,
        lease: Held[Any],
        ended: Callable[[], Coroutine[Any, Any, Ended]],
        end: End,
    ) -> None:
        def interrupt() -> None:
            events.call_soon_threadsafe(running.cancel)

        def done(task: asyncio.Task[Ended]) -> None:
            self._running.discard(task)
            # Cancelled before it began, or what it ended with.
            end(raised(lease, asyncio.CancelledError()) if task.cancelled() else task.result())

        handling = ended()
        try:
            running = events.create_task(handling)
        except BaseException as error:  # of a task factory of the application
            handling.close()
            end(raised(lease, error))
            return
        self._running.add(running)
        running.add_done_callback(done)
        lease.interruptible(interrupt)


def is_asynchronous(handler: Callable[..., object]) -> bool:
    """Return whether a handler is for an AsyncWorker: a coroutine function, or an object whose call is one."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
