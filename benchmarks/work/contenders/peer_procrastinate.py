"""procrastinate, by its own worker: it takes one job at a time, and here keeps the finished ones, its default."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from contender import serve
from procrastinate import App, PsycopgConnector

logging.disable(logging.WARNING)
ran: list[int] = []


def _app(url: str) -> tuple[App, Any]:
    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="noop")
    async def noop(number: int) -> None:
        ran.append(number)

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


def drain(url: str, jobs: int, batch: int) -> dict[str, Any]:
    """`batch` is how many jobs run at once; each is fetched by a statement of its own."""

    async def run() -> dict[str, Any]:
        app, _ = _app(url)
        ran.clear()
        async with app.open_async():
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


def _times(start: float, cpu: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    serve(prepare, enqueue, drain)
