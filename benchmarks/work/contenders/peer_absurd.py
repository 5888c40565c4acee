"""absurd: its SDK, on the schema that its command line installs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import absurdctl
import psycopg
from absurd_sdk import Absurd
from contender import serve


def prepare(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
    app = Absurd(url, queue_name="bench")
    app.create_queue("bench")
    app.close()


def enqueue(url: str, jobs: int) -> dict[str, float]:
    """It has no call for many: one spawn each."""
    app, _ = _app(url)
    start, cpu = time.perf_counter(), time.process_time()
    for number in range(jobs):
        app.spawn("noop", {"number": number})
    times = _times(start, cpu)
    app.close()
    return times


def file(url: str, jobs: int, each: int) -> dict[str, float]:
    assert each == 1
    return enqueue(url, jobs)


def drain(url: str, jobs: int, batch: int) -> dict[str, Any]:
    """A batch is claimed by one statement; each job is completed by its own."""
    app, ran = _app(url)
    start, cpu = time.perf_counter(), time.process_time()
    while len(ran) < jobs:
        before = len(ran)
        app.work_batch(batch_size=batch)
        if len(ran) == before:
            break
    times = _times(start, cpu)
    app.close()
    return {**times, "ran": ran}


def hold(url: str, sign: str) -> None:
    """Its worker, with a handler that never ends and keeps its claim; the file is the sign that it has begun."""
    app = Absurd(url, queue_name="bench")

    @app.register_task("noop")
    def noop(params: Any, context: Any) -> None:
        Path(sign).touch()
        for _ in range(2000):
            time.sleep(0.3)
            context.heartbeat(1)

    app.start_worker(claim_timeout=1)


def take_over(url: str) -> dict[str, Any]:
    """Its worker until it has done one job: when it began it."""
    app = Absurd(url, queue_name="bench")
    ran: list[int] = []
    started: list[int] = []

    @app.register_task("noop")
    def noop(params: Any, context: Any) -> None:
        started.append(time.time_ns())
        ran.append(params["number"])
        app.stop_worker()

    app.start_worker(claim_timeout=1)
    app.close()
    return {"started": started[0], "ran": ran}


def steps(url: str, workflows: int, each: int) -> dict[str, Any]:
    app = Absurd(url, queue_name="bench")
    spent = cpu_spent = 0.0
    ran: list[int] = []

    @app.register_task("workflow")
    def workflow(params: Any, context: Any) -> None:
        nonlocal spent, cpu_spent
        start, cpu = time.perf_counter(), time.process_time()
        for seq in range(each):
            context.step(f"step-{seq}", lambda: _step(ran, params["number"] * each + seq, seq))  # noqa: B023
        spent += time.perf_counter() - start
        cpu_spent += time.process_time() - cpu

    for number in range(workflows):
        app.spawn("workflow", {"number": number})
        app.work_batch()
    app.close()
    return {"seconds": spent, "cpu": cpu_spent, "ran": ran}


def begin(url: str, each: int, die_after: int) -> None:
    app = Absurd(url, queue_name="bench")

    @app.register_task("workflow")
    def workflow(params: Any, context: Any) -> None:
        for seq in range(die_after):
            context.step(f"step-{seq}", lambda: {"number": seq})  # noqa: B023
        os.kill(os.getpid(), signal.SIGKILL)

    app.spawn("workflow", {})
    app.work_batch(claim_timeout=1)


def resume(url: str, each: int) -> dict[str, Any]:
    ran: list[int] = []
    start = time.perf_counter()
    app = Absurd(url, queue_name="bench")

    @app.register_task("workflow")
    def workflow(params: Any, context: Any) -> None:
        for seq in range(each):
            context.step(f"step-{seq}", lambda: _step(ran, seq, seq))  # noqa: B023

    while len(ran) == 0:
        app.work_batch(worker_id="second")
    seconds = time.perf_counter() - start
    app.close()
    return {"seconds": seconds, "ran": ran}


def _app(url: str) -> tuple[Absurd, list[int]]:
    app, ran = Absurd(url, queue_name="bench"), []

    @app.register_task("noop")
    def noop(params: Any, context: Any) -> None:
        ran.append(params["number"])

    return app, ran


def _step(ran: list[int], number: int, seq: int) -> dict[str, int]:
    ran.append(number)
    return {"number": seq}


def _times(start: float, cpu: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    serve(prepare, enqueue, file, drain, hold, take_over, steps, begin, resume)
