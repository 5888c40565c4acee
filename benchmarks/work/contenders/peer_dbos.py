"""dbos: a workflow whose steps are functions of Python; one thread runs it."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

from contender import serve
from dbos import DBOS, DBOSConfig

ran: list[int] = []
ended = threading.Event()
spent = {"seconds": 0.0, "cpu": 0.0}
dies_after: int | None = None


@DBOS.step(name="step")
def step(number: int, seq: int) -> dict[str, int]:
    ran.append(number)
    return {"number": seq}


@DBOS.workflow(name="workflow")
def workflow(number: int, each: int) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    for seq in range(each):
        if seq == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        step(number * each + seq, seq)
    spent["seconds"] += time.perf_counter() - start
    spent["cpu"] += time.process_time() - cpu
    ended.set()


def _launch(url: str) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": url,
        "application_version": "1",
        "executor_id": "bench",
        "log_level": "ERROR",
        "enable_otlp": False,
    }
    DBOS(config=config)
    DBOS.launch()


def prepare(url: str) -> None:
    _launch(url)
    DBOS.destroy()


def steps(url: str, workflows: int, each: int) -> dict[str, Any]:
    _launch(url)
    ran.clear()
    spent.update(seconds=0.0, cpu=0.0)
    for number in range(workflows):
        workflow(number, each)
    DBOS.destroy()
    return {**spent, "ran": ran}


def begin(url: str, each: int, die_after: int) -> None:
    global dies_after
    dies_after = die_after
    _launch(url)
    workflow(0, each)


def resume(url: str, each: int) -> dict[str, Any]:
    """Launching resumes what this executor had; there is no lease to wait for."""
    start = time.perf_counter()
    _launch(url)
    if not ended.wait(60):
        raise TimeoutError("not resumed within 60 seconds")
    seconds = time.perf_counter() - start
    DBOS.destroy()
    return {"seconds": seconds, "ran": ran}


if __name__ == "__main__":
    serve(prepare, steps, begin, resume)
