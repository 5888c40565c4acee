"""alfred-db: one `db.begin()` a transaction, or one session in AUTOCOMMIT."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from contender import CONNECT, RUN, TAKEN, Laps, polled, serve, wait_until
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from alfred_db import (
    AsyncDatabase,
    AsyncUnitOfWork,
    ClaimedTask,
    Database,
    Lease,
    NewTask,
    QueueRate,
    TaskBackoff,
    UnitOfWork,
    Worker,
    WorkflowContext,
    WorkflowFunction,
    Workflows,
    workflow,
)

Unit = Callable[[], AbstractContextManager[UnitOfWork]]

USED = "used"
"""The queue of jobs that use limits or waits."""

kept: list[tuple[Database, list[int]]] = []
"""The database of a process that is warm, and the versions of workflows that it has the code of."""


def prepare(url: str) -> None:
    with Database(url) as db:
        db.upgrade()


def enqueue(url: str, jobs: int) -> dict[str, float]:
    tasks = _tasks(jobs)
    with _connected(url) as db:
        start, cpu = time.perf_counter(), time.process_time()
        with db.begin() as uow:
            uow.tasks.enqueue_many(tasks)
        return _times(start, cpu)


def enqueue_async(url: str, jobs: int) -> dict[str, float]:
    async def run() -> dict[str, float]:
        tasks = _tasks(jobs)
        async with AsyncDatabase(url) as db:
            await _connect(db)
            start, cpu = time.perf_counter(), time.process_time()
            async with db.begin() as uow:
                await uow.tasks.enqueue_many(tasks)
            return _times(start, cpu)

    return asyncio.run(run())


def file(url: str, jobs: int, each: int, autocommit: bool) -> dict[str, float]:
    """`each` in a call: by `enqueue` if that is one."""
    tasks = _tasks(jobs)
    with _connected(url) as db, _units(db, autocommit) as unit:
        start, cpu = time.perf_counter(), time.process_time()
        for first in range(0, jobs, each):
            with unit() as uow:
                if each == 1:
                    uow.tasks.enqueue("noop", {"number": first})
                else:
                    uow.tasks.enqueue_many(tasks[first : first + each])
        return _times(start, cpu)


def drain(url: str, jobs: int, batch: int, autocommit: bool, at: float = 0.0) -> dict[str, Any]:
    ran: list[int] = []
    with _connected(url) as db, _units(db, autocommit) as unit:
        wait_until(at)
        start, cpu = time.perf_counter(), time.process_time()
        while len(ran) < jobs:
            with unit() as uow:
                claimed = uow.tasks.claim(worker="bench", limit=batch)
            if not claimed:
                break
            ran += [task.content["number"] for task in claimed]
            with unit() as uow:
                if batch == 1:
                    uow.tasks.complete(claimed[0])
                else:
                    uow.tasks.complete_many(claimed)
        return {**_times(start, cpu), "ran": ran}


def drain_async(url: str, jobs: int, batch: int, autocommit: bool) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        ran: list[int] = []
        async with AsyncDatabase(url) as db, _async_units(db, autocommit) as unit:
            await _connect(db)
            start, cpu = time.perf_counter(), time.process_time()
            while len(ran) < jobs:
                async with unit() as uow:
                    claimed = await uow.tasks.claim(worker="bench", limit=batch)
                if not claimed:
                    break
                ran += [task.content["number"] for task in claimed]
                async with unit() as uow:
                    if batch == 1:
                        await uow.tasks.complete(claimed[0])
                    else:
                        await uow.tasks.complete_many(claimed)
            return {**_times(start, cpu), "ran": ran}

    return asyncio.run(run())


def watch(url: str, jobs: int, batch: int) -> dict[str, Any]:
    """Drain in AUTOCOMMIT, in rounds of one task and then a batch: their jobs and seconds, and those of the claims of one."""
    ran: list[int] = []
    claims: list[float] = []
    rounds: list[tuple[int, float]] = []
    with _connected(url) as db, _units(db, True) as unit, unit() as uow:
        while len(ran) < jobs:
            start, before = time.perf_counter(), len(ran)
            alone = uow.tasks.claim(worker="bench")
            claims.append(time.perf_counter() - start)
            uow.tasks.complete(alone[0])
            claimed = uow.tasks.claim(worker="bench", limit=batch)
            uow.tasks.complete_many(claimed)
            ran += [task.content["number"] for task in [*alone, *claimed]]
            rounds.append((len(ran) - before, time.perf_counter() - start))
    return {"ran": ran, "claims": claims, "rounds": rounds}


def use(url: str, jobs: int, way: str) -> None:
    """Enqueue jobs that use limits or waits."""
    limits: dict[str, Any] = {}
    if way.startswith("max_running") or way == "all limits":
        limits["max_running"] = 1000
    if way in ("rate", "all limits"):
        limits["rate"] = QueueRate(1_000_000, 1)
    if way in ("keys", "all limits"):
        limits["max_running_per_key"] = 100
    stem = uuid.uuid4()
    tasks = [NewTask(intent="noop", queue=USED, content={"number": number}) for number in range(jobs)]
    for number, task in enumerate(tasks):
        if "max_running_per_key" in limits:
            task["concurrency_key"] = f"key-{number % 50}"
        if way == "turns":
            task["ordering_key"] = f"key-{number // 10}"
        if way == "after":
            task["task_id"] = f"{stem}-{number}"
            task["after"] = [f"{stem}-{number - 1}"] if number % 2 else []
    with _connected(url) as db, db.begin() as uow:
        if limits:
            uow.queues.set(USED, **limits)
        if way != "batch":
            uow.tasks.enqueue_many(tasks)
            return
        for first in range(0, jobs, 50):
            uow.tasks.batch(tasks[first : first + 50], then=NewTask(intent="noop", queue=USED))


def drain_used(url: str, batch: int, way: str) -> dict[str, Any]:
    """Drain what `use` has enqueued."""
    ran: list[int] = []
    queues = None if way.endswith("any") else [USED]
    with _connected(url) as db, _units(db, True) as unit, unit() as uow:
        start, cpu = time.perf_counter(), time.process_time()
        while claimed := uow.tasks.claim(worker="bench", limit=batch, queues=queues):
            ran += [task.content["number"] for task in claimed if task.content]
            if batch == 1:
                uow.tasks.complete(claimed[0])
            else:
                uow.tasks.complete_many(claimed)
        return {**_times(start, cpu), "ran": ran}


def slots(url: str, count: int, at: float = 0.0) -> dict[str, Any]:
    """A worker with so many slots, until nothing is left."""
    ran: list[int] = []

    def noop(task: ClaimedTask, lease: Lease) -> None:
        ran.append(task.content["number"])

    with _connected(url) as db:
        worker = Worker(db, {"noop": noop}, concurrency=count)
        wait_until(at)
        start, cpu = time.perf_counter(), time.process_time()
        worker.run(signals=False, drain=True)
        return {**_times(start, cpu), "ran": ran}


def health(url: str) -> dict[str, Any]:
    with Database(url) as db, db.begin() as uow:
        return asdict(uow.tasks.queue_health())


def pace(url: str, rate: int, jobs: int, notify: bool) -> dict[str, float]:
    """File tasks, so many a second, each with the time at which it was filed."""
    with Database(url, notify=notify) as db:
        with db.session() as session:
            session.execute(text("SELECT 1"))
        start, cpu = time.perf_counter(), time.process_time()
        for number in range(jobs):
            time.sleep(max(0.0, start + number / rate - time.perf_counter()))
            with db.begin() as uow:
                uow.tasks.enqueue("noop", {"number": number, "filed": time.time_ns()})
        return _times(start, cpu)


def wait(url: str, jobs: int) -> dict[str, Any]:
    """A worker until it has done so many tasks: the nanoseconds from filing to handler of those that say when it was."""
    starts: list[tuple[int, int]] = []
    done = itertools.count(1)

    def noop(task: ClaimedTask, lease: Lease) -> None:
        now = time.time_ns()
        if "filed" in task.content:
            starts.append((task.content["number"], now - task.content["filed"]))
        if next(done) == jobs:
            worker.stop()

    with Database(url) as db:
        worker = Worker(db, {"noop": noop})
        worker.run(signals=False)
    return {"starts": starts}


def hold(url: str, sign: str) -> None:
    """A worker whose handler never ends; the file is the sign that it has begun."""

    def noop(task: ClaimedTask, lease: Lease) -> None:
        Path(sign).touch()
        time.sleep(600)

    with Database(url) as db:
        Worker(db, {"noop": noop}, lease=1, upkeep=1, poll=1).run(signals=False)


def take_over(url: str, backoff: float) -> dict[str, Any]:
    """A worker until it has done one task: when it began it."""
    ran: list[int] = []
    started: list[int] = []

    def noop(task: ClaimedTask, lease: Lease) -> None:
        started.append(time.time_ns())
        ran.append(task.content["number"])
        worker.stop()

    with Database(url) as db:
        again = TaskBackoff(base=backoff)
        worker = Worker(db, {"noop": noop}, lease=1, upkeep=1, poll=1, backoff=again)
        worker.run(signals=False)
    return {"started": started[0], "ran": ran}


def claims(urls: Sequence[str], jobs: int, queue: str | None = None) -> list[dict[str, list[float]]]:
    """Seconds of each claim of one task, from one database after the other: of the call, and of its transaction."""
    tasks = _tasks(jobs)
    for task in tasks if queue else ():
        task["queue"] = queue or ""
    queues = None if queue is None else [queue]
    with ExitStack() as stack:
        databases = [stack.enter_context(_connected(url)) for url in urls]
        found: list[dict[str, list[float]]] = [{"calls": [], "transactions": []} for _ in databases]
        for db in databases:
            with db.begin() as uow:
                uow.tasks.enqueue_many(tasks)
        for _ in range(jobs):
            for db, seconds in zip(databases, found, strict=True):
                start = time.perf_counter()
                with db.begin() as uow:
                    before = time.perf_counter()
                    claimed = uow.tasks.claim(worker="bench", queues=queues)
                    seconds["calls"].append(time.perf_counter() - before)
                seconds["transactions"].append(time.perf_counter() - start)
                with db.begin() as uow:
                    uow.tasks.complete(claimed[0])
        return found


def heartbeats(url: str, jobs: int, beats: int, alone: bool) -> dict[str, float]:
    """Claim tasks, and keep all of them `beats` times: in one statement, or each `alone`."""
    with _connected(url) as db:
        with db.begin() as uow:
            uow.tasks.enqueue_many(_tasks(jobs))
        with db.begin() as uow:
            claimed = uow.tasks.claim(worker="bench", limit=jobs)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(beats):
            if alone:
                for task in claimed:
                    with db.begin() as uow:
                        uow.tasks.heartbeat(task)
            else:
                with db.begin() as uow:
                    assert len(uow.tasks.heartbeat_many(claimed)) == jobs
        return _times(start, cpu)


def steps(url: str, workflows: int, each: int, autocommit: bool) -> dict[str, Any]:
    """Seconds in the steps of workflows, one after the other."""
    spent = cpu_spent = 0.0
    ran: list[int] = []
    with _connected(url) as db, _units(db, autocommit) as unit:
        for number in range(workflows):
            execution = _started(db, lease=60)
            start, cpu = time.perf_counter(), time.process_time()
            _go_through(unit, execution, each, ran, number * each)
            spent += time.perf_counter() - start
            cpu_spent += time.process_time() - cpu
            with db.begin() as uow:
                uow.workflows.complete(execution)
    return {"seconds": spent, "cpu": cpu_spent, "ran": ran}


def durable_steps(url: str, workflows: int, each: int) -> dict[str, Any]:
    """The same by a durable function, whose steps do nothing: the time is that between the first step and the last."""
    ran: list[int] = []
    spent: list[tuple[float, float]] = []

    def step(number: int, seq: int) -> dict[str, int]:
        ran.append(number * each + seq)
        return {"number": seq}

    @workflow("durable bench")
    def flow(ctx: WorkflowContext, number: int) -> None:
        start, cpu = time.perf_counter(), time.process_time()
        for seq in range(each):
            ctx.step(step, number, seq)
        spent.append((time.perf_counter() - start, time.process_time() - cpu))

    flows = Workflows([flow])
    with _connected(url) as db:
        with db.begin() as uow:
            ids = flows.register(uow)
        for number in range(workflows):
            with db.begin() as uow:
                flows.start(uow, flow, {"number": number})
            with db.begin() as uow:
                (execution,) = uow.workflows.claim("bench", ids)
            flows.run(db, execution)
    return {"seconds": sum(one[0] for one in spent), "cpu": sum(one[1] for one in spent), "ran": ran}


def durable_warm(url: str, each: int) -> None:
    """Run a durable function, and keep the database for `durable_resume`."""
    db, flow = Database(url), _durable(each, [])
    flows = Workflows([flow])
    with db.autocommit() as uow:
        uow.workflows.reap()
        ids = flows.register(uow)
        flows.start(uow, flow, {})
        (execution,) = uow.workflows.claim("second", ids)
    flows.run(db, execution)
    kept.append((db, ids))


def durable_resume(url: str, each: int, poll: float) -> dict[str, Any]:
    """The same as `resume`, for a durable function: the execution that `durable_begin` began."""
    ran: list[int] = []
    flows = Workflows([_durable(each, ran)])
    laps = Laps()
    db, ids = _first(url)
    laps.lap(CONNECT)
    with db.autocommit() as uow:
        known = ids or flows.register(uow)
        (execution,) = polled(partial(_take, uow, known), poll)
    laps.lap(TAKEN)
    flows.run(db, execution)
    laps.lap(RUN)
    db.close()
    return laps.result(ran)


def durable_begin(url: str, each: int, die_after: int) -> None:
    """Run a durable function until the process is killed after some steps; its lease is a second."""
    flow = _durable(each, [], die_after)
    flows = Workflows([flow])
    with _connected(url) as db:
        with db.begin() as uow:
            ids = flows.register(uow)
            flows.start(uow, flow, {})
        with db.begin() as uow:
            (execution,) = uow.workflows.claim("first", ids, lease=1)
        flows.run(db, execution)


def _durable(each: int, ran: list[int], die_after: int | None = None) -> WorkflowFunction[..., Any]:
    def step(seq: int) -> dict[str, int]:
        if seq == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        ran.append(seq)
        return {"number": seq}

    @workflow("durable bench")
    def flow(ctx: WorkflowContext) -> None:
        for seq in range(each):
            ctx.step(step, seq)

    return flow


def begin(url: str, each: int, die_after: int) -> None:
    """Run a workflow until the process is killed after some steps; its lease is a second."""
    with _connected(url) as db:
        execution = _started(db, lease=1)
        _go_through(db.begin, execution, die_after, [], 0, lease=1)
        os.kill(os.getpid(), signal.SIGKILL)


def warm(url: str, each: int) -> None:
    """Run a workflow, and keep the database for `resume`."""
    db = Database(url)
    execution = _started(db, lease=60)
    with db.autocommit() as uow:
        uow.workflows.reap()
        _go_through(partial(nullcontext, uow), execution, each, [], 0)
        uow.workflows.complete(execution)
    kept.append((db, [execution.workflow_id]))


def resume(url: str, each: int, poll: float) -> dict[str, Any]:
    """From connecting to the end of the workflow that was begun, or without connecting in a process that is warm."""
    ran: list[int] = []
    laps = Laps()
    db, ids = _first(url)
    laps.lap(CONNECT)
    with db.autocommit() as uow:
        known = ids or [version.id for version in uow.workflows.versions("bench")]
        (execution,) = polled(partial(_take, uow, known), poll)
        laps.lap(TAKEN)
        _go_through(partial(nullcontext, uow), execution, each, ran, 0)
        uow.workflows.complete(execution)
    laps.lap(RUN)
    db.close()
    return laps.result(ran)


def _take(uow: UnitOfWork, ids: Sequence[int]) -> Any:
    uow.workflows.reap()
    return uow.workflows.claim("second", ids)


def _first(url: str) -> tuple[Database, list[int]]:
    """The database of a process that is warm, and the versions that it has the code of; else one that has just connected."""
    if kept:
        return kept[0]
    db = Database(url)
    with db.autocommit() as uow:
        uow.session.execute(text("SELECT 1"))
    return db, []


def _started(db: Database, lease: float) -> Any:
    with db.begin() as uow:
        version, _ = uow.workflows.define("bench", {"steps": "many"}, version=1)
        uow.workflows.activate(version.id)
        uow.workflows.start("bench", {"key": str(uuid.uuid4())})
    with db.begin() as uow:
        return uow.workflows.claim("bench", [version.id], lease=lease)[0]


def _go_through(
    unit: Unit, execution: Any, each: int, ran: list[int], first: int, lease: float = 60.0
) -> None:
    with unit() as uow:
        finished = {step.step_key: step.output for step in uow.workflows.steps(execution.id)}
    for seq in range(each):
        key = f"step-{seq}"
        if key in finished:
            continue
        ran.append(first + seq)
        with unit() as uow:
            uow.workflows.checkpoint(execution, key, {"number": seq}, seq=seq, lease=lease)


def _tasks(jobs: int) -> list[NewTask]:
    return [NewTask(intent="noop", content={"number": number}) for number in range(jobs)]


@contextmanager
def _connected(url: str) -> Iterator[Database]:
    with Database(url) as db:
        with db.session() as session:
            session.execute(text("SELECT 1"))
        yield db


@contextmanager
def _units(db: Database, autocommit: bool) -> Iterator[Unit]:
    """What gives units of work."""
    if not autocommit:
        yield db.begin
        return
    with Session(db.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        yield partial(nullcontext, UnitOfWork(session))


@asynccontextmanager
async def _async_units(db: AsyncDatabase, autocommit: bool) -> AsyncIterator[Any]:
    if not autocommit:
        yield db.begin
        return
    async with AsyncSession(db.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        yield partial(nullcontext, AsyncUnitOfWork(session))


async def _connect(db: AsyncDatabase) -> None:
    async with db.session() as session:
        await session.execute(text("SELECT 1"))


def _times(start: float, cpu: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    serve(
        *(
            prepare,
            enqueue,
            enqueue_async,
            file,
            drain,
            drain_async,
            watch,
            health,
            pace,
            wait,
            hold,
            take_over,
        ),
        *(use, drain_used, slots),
        *(claims, heartbeats, steps, begin, warm, resume),
        *(durable_steps, durable_begin, durable_warm, durable_resume),
    )
