"""pgqueuer with psycopg, by its `Queries` or by its own worker: a finished job is deleted, and gets a row in the log."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import timedelta
from typing import Any

import psycopg
from contender import serve, wait_until
from pgqueuer import PgQueuer
from pgqueuer.adapters.drivers.psycopg import PsycopgDriver
from pgqueuer.domain.types import QueueExecutionMode
from pgqueuer.queries import EntrypointExecutionParameter, Queries


async def _queries(url: str) -> tuple[psycopg.AsyncConnection[Any], Queries]:
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    return connection, Queries(PsycopgDriver(connection))


def prepare(url: str) -> None:
    async def run() -> None:
        connection, queries = await _queries(url)
        async with connection:
            await queries.install()

    asyncio.run(run())


def enqueue(url: str, jobs: int) -> dict[str, float]:
    async def run() -> dict[str, float]:
        connection, queries = await _queries(url)
        async with connection:
            start, cpu = time.perf_counter(), time.process_time()
            payloads: list[bytes | None] = [b'{"number": %d}' % number for number in range(jobs)]
            await queries.enqueue(["noop"] * jobs, payloads, [0] * jobs)
            return _times(start, cpu)

    return asyncio.run(run())


def file(url: str, jobs: int, each: int) -> dict[str, float]:
    """`each` in a call."""

    async def run() -> dict[str, float]:
        connection, queries = await _queries(url)
        async with connection:
            start, cpu = time.perf_counter(), time.process_time()
            for first in range(0, jobs, each):
                numbers = range(first, min(jobs, first + each))
                payloads: list[bytes | None] = [b'{"number": %d}' % number for number in numbers]
                if each == 1:
                    await queries.enqueue("noop", payloads[0])
                else:
                    await queries.enqueue(["noop"] * len(numbers), payloads, [0] * len(numbers))
            return _times(start, cpu)

    return asyncio.run(run())


def drain(url: str, jobs: int, batch: int, at: float = 0.0) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        ran: list[int] = []
        connection, queries = await _queries(url)
        manager: Any = uuid.uuid4()
        entrypoints: Any = {"noop": EntrypointExecutionParameter(0)}
        async with connection:
            wait_until(at)
            start, cpu = time.perf_counter(), time.process_time()
            while len(ran) < jobs:
                claimed = await queries.dequeue(batch, entrypoints, manager, None, timedelta(seconds=30))
                if not claimed:
                    break
                ran += [int((job.payload or b"")[11:-1]) for job in claimed]
                await queries.log_jobs([(job, "successful", None) for job in claimed])
            return {**_times(start, cpu), "ran": ran}

    return asyncio.run(run())


def work(url: str, jobs: int, batch: int) -> dict[str, Any]:
    """Its worker, until the queue is empty: handlers run concurrently, and what they finished is stored together."""

    async def run() -> dict[str, Any]:
        ran: list[int] = []
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        async with connection:
            worker = PgQueuer(PsycopgDriver(connection))

            @worker.entrypoint("noop")
            async def noop(job: Any) -> None:
                ran.append(int(job.payload[11:-1]))

            start, cpu = time.perf_counter(), time.process_time()
            await worker.run(batch_size=batch, mode=QueueExecutionMode.drain)
            return {**_times(start, cpu), "ran": ran}

    return asyncio.run(run())


def pace(url: str, rate: int, jobs: int) -> dict[str, float]:
    """File jobs, so many a second, each with the time at which it was filed."""

    async def run() -> dict[str, float]:
        connection, queries = await _queries(url)
        async with connection:
            start, cpu = time.perf_counter(), time.process_time()
            for number in range(jobs):
                await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
                content = {"number": number, "filed": time.time_ns()}
                await queries.enqueue("noop", json.dumps(content).encode())
            return _times(start, cpu)

    return asyncio.run(run())


def wait(url: str, jobs: int) -> dict[str, Any]:
    """Its worker until it has done so many: the nanoseconds from filing to handler of those that say when it was."""

    async def run() -> dict[str, Any]:
        starts: list[tuple[int, int]] = []
        done = 0
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        async with connection:
            worker = PgQueuer(PsycopgDriver(connection))

            @worker.entrypoint("noop")
            async def noop(job: Any) -> None:
                nonlocal done
                now = time.time_ns()
                content = json.loads(job.payload)
                if "filed" in content:
                    starts.append((content["number"], now - content["filed"]))
                done += 1
                if done == jobs:
                    worker.shutdown.set()

            await worker.run()
        return {"starts": starts}

    return asyncio.run(run())


def _times(start: float, cpu: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    serve(prepare, enqueue, file, drain, work, pace, wait)
