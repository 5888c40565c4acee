"""procrastinate, by its own worker: it takes one job at a time, and here keeps the finished ones, its default."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any

from contender import serve, wait_until
from procrastinate import App, PsycopgConnector

logging.disable(logging.WARNING)
ran: list[int] = []
starts: list[tuple[int, int]] = []


def _app(url: str) -> tuple[App, Any]:
    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="noop")
    async def noop(number: int, filed: int | None = None) -> None:
        if filed is None:
            ran.append(number)
        else:
            starts.append((number, time.time_ns() - filed))

    return app, noop


def prepare(url: str) -> None:
    async def run() -> None:
        app, _ = _app(url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    asyncio.run(run())


def enqueue(url: str, jobs: int) -> dict[str, float]:
    async def run() -> dict[str, float]:
        app, noop = _app(url)
        values = [{"number": number} for number in range(jobs)]
        async with app.open_async():
            start, cpu = time.perf_counter(), time.process_time()
            await noop.batch_defer_async(*values)
            return _times(start, cpu)

    return asyncio.run(run())


def file(url: str, jobs: int, each: int) -> dict[str, float]:
    """`each` in a call."""

    async def run() -> dict[str, float]:
        app, noop = _app(url)
        values = [{"number": number} for number in range(jobs)]
        async with app.open_async():
            start, cpu = time.perf_counter(), time.process_time()
            for first in range(0, jobs, each):
                if each == 1:
                    await noop.defer_async(number=first)
                else:
                    await noop.batch_defer_async(*values[first : first + each])
            return _times(start, cpu)

    return asyncio.run(run())


def drain(url: str, jobs: int, batch: int, at: float = 0.0) -> dict[str, Any]:
    """`batch` is how many jobs run at once; each is fetched by a statement of its own."""

    async def run() -> dict[str, Any]:
        app, _ = _app(url)
        ran.clear()
        async with app.open_async():
            wait_until(at)
            start, cpu = time.perf_counter(), time.process_time()
            await app.run_worker_async(
                wait=False,
                concurrency=batch,
                listen_notify=False,
                delete_jobs="never",
                install_signal_handlers=False,
            )
            return {**_times(start, cpu), "ran": ran}

    return asyncio.run(run())


def pace(url: str, rate: int, jobs: int) -> dict[str, float]:
    """File jobs, so many a second, each with the time at which it was filed."""

    async def run() -> dict[str, float]:
        app, noop = _app(url)
        async with app.open_async():
            start, cpu = time.perf_counter(), time.process_time()
            for number in range(jobs):
                await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
                await noop.defer_async(number=number, filed=time.time_ns())
            return _times(start, cpu)

    return asyncio.run(run())


def wait(url: str, jobs: int) -> dict[str, Any]:
    """Its worker until it has done so many: the nanoseconds from filing to handler of those that say when it was."""

    async def run() -> dict[str, Any]:
        app, _ = _app(url)
        async with app.open_async():
            working = asyncio.create_task(
                app.run_worker_async(concurrency=4, delete_jobs="never", install_signal_handlers=False)
            )
            while len(ran) + len(starts) < jobs and not working.done():
                await asyncio.sleep(0.05)
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
        return {"starts": starts}

    return asyncio.run(run())


def _times(start: float, cpu: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    serve(prepare, enqueue, file, drain, pace, wait)
