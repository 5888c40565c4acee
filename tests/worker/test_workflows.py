"""Workers run durable functions: they register them, claim, suspend, retry and end their executions."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import URL, text

from alfred_db import (
    AsyncDatabase,
    AsyncWorker,
    AsyncWorkflowContext,
    Database,
    Worker,
    WorkflowContext,
    WorkflowExecution,
    Workflows,
    workflow,
    workflow_step,
)
from alfred_db.durable import WorkflowFunction
from alfred_db.errors import ConfigurationError

from .at_work import working

QUICK: dict[str, Any] = {"poll": 0.05, "upkeep": 0.1, "lease": 30.0}


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, notify=True) as database:
        yield database


def start(db: Database, function: WorkflowFunction[..., Any], *others: Any, **input: Any) -> int:
    flows = Workflows([function, *others])
    with db.begin() as uow:
        flows.register(uow)
        return flows.start(uow, function, input)[0].id


def found(db: Database, id: int) -> WorkflowExecution:
    with db.begin() as uow:
        execution = uow.workflows.get_execution(id)
    assert execution is not None
    return execution


def until(db: Database, id: int, status: str, seconds: float = 60) -> WorkflowExecution:
    end = time.monotonic() + seconds
    while (execution := found(db, id)).status != status:
        assert time.monotonic() < end, f"{execution.status}: {execution.error_message}"
        time.sleep(0.02)
    return execution


def test_a_worker_runs_them_to_their_end(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ran: list[str] = []

    def weak() -> str:
        ran.append("weak")
        if len(ran) == 1:
            raise OSError("once")
        return "done"

    @workflow("part")
    def part(ctx: WorkflowContext, n: int) -> int:
        return ctx.step(double, n)

    def double(n: int) -> int:
        return 2 * n

    @workflow("whole")
    def whole(ctx: WorkflowContext) -> list[object]:
        ctx.sleep(0.05)
        text = ctx.step(workflow_step(delay=0.05)(weak))
        number = ctx.child(part, {"n": 4})
        return [text, number, ctx.wait_for("go").payload]

    id = start(db, whole, part)
    with working(Worker(db, {}, workflows=[whole, part], concurrency=1, **QUICK)):
        end = time.monotonic() + 60
        while found(db, id).waiting_for != "go":
            assert time.monotonic() < end
            time.sleep(0.02)
        with db.begin() as uow:
            uow.workflows.deliver(id, "go", "now")
        assert until(db, id, "completed").output_data == ["done", 8, "now"]
    assert ran == ["weak", "weak"]
    lines = [record.getMessage() for record in caplog.records]
    assert any(f"whole {id}: attempt 1 completed" in line for line in lines)
    assert any(
        "OSError: once" in str(record.exc_info) or "failed" in record.getMessage()
        for record in caplog.records
    )


def test_an_execution_that_waits_takes_no_slot(db: Database) -> None:
    @workflow("waits")
    def waits(ctx: WorkflowContext) -> None:
        ctx.wait_for("go")

    @workflow("runs")
    def runs(ctx: WorkflowContext) -> str:
        return "done"

    waiting = [start(db, waits, runs) for _ in range(5)]
    last = start(db, runs, waits)
    Worker(db, {}, workflows=[waits, runs], concurrency=1, **QUICK).run(drain=True)
    assert found(db, last).status == "completed"
    assert {found(db, id).status for id in waiting} == {"pending"}


async def test_coroutine_functions_run_in_the_loop(database_url: URL) -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    @workflow("async")
    async def flow(ctx: AsyncWorkflowContext, n: int) -> int:
        await ctx.sleep(0.01)
        return await ctx.step(double, n)

    async with AsyncDatabase(database_url) as db:
        async with db.begin() as uow:
            await uow.workflows.activate((await uow.workflows.define("async", {}, version=1))[0].id)
            execution, _ = await uow.workflows.start("async", {"n": 21})
        worker = AsyncWorker(db, {}, workflows=[flow], **QUICK)
        running = asyncio.create_task(worker.run(signals=False))
        for _ in range(600):
            async with db.begin() as uow:
                row = await uow.workflows.get_execution(execution.id)
            assert row is not None
            if row.status == "completed":
                break
            await asyncio.sleep(0.05)
        worker.stop()
        await running
        assert row is not None
        assert row.output_data == 42


def test_a_worker_takes_them_back_from_one_that_vanished(db: Database) -> None:
    @workflow("lost")
    def lost(ctx: WorkflowContext) -> str:
        return "done"

    id = start(db, lost)
    with db.begin() as uow:
        ids = Workflows([lost]).register(uow)
        uow.workflows.claim("vanished", ids, lease=0.05)
    time.sleep(0.1)
    with working(Worker(db, {}, workflows=[lost], **QUICK)):
        assert until(db, id, "completed").crash_count == 1


@pytest.mark.usefixtures("many_beats")
def test_a_running_one_is_cancelled_and_one_that_takes_too_long_is_tried_again(db: Database) -> None:
    begun = threading.Event()

    @workflow("long")
    def long(ctx: WorkflowContext) -> None:
        for _ in range(600):
            ctx.step(nap)

    def nap() -> None:
        begun.set()
        time.sleep(0.05)

    id = start(db, long)
    with working(Worker(db, {}, workflows=[long], **(QUICK | {"lease": 5.0}))):
        assert begun.wait(60)
        with db.begin() as uow:
            uow.workflows.cancel(id)
        until(db, id, "cancelled")


def test_a_worker_that_stops_releases_them(db: Database) -> None:
    begun = threading.Event()

    @workflow("long")
    def long(ctx: WorkflowContext) -> None:
        while True:
            ctx.step(nap)

    def nap() -> None:
        begun.set()
        time.sleep(0.05)

    id = start(db, long)
    with working(Worker(db, {}, workflows=[long], grace=0.1, **QUICK), at_once=False):
        assert begun.wait(60)
    execution = found(db, id)
    assert (execution.status, execution.retry_count, execution.crash_count) == ("pending", 0, 0)


def test_what_a_worker_cannot_run_is_refused_or_logged(
    db: Database, database_url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow("versions", version=1)
    def old(ctx: WorkflowContext) -> None: ...

    @workflow("versions", version=2)
    def new(ctx: WorkflowContext) -> None: ...

    @workflow("coroutine")
    async def coroutine(ctx: AsyncWorkflowContext) -> None: ...

    with pytest.raises(
        ConfigurationError, match="workflow 'coroutine' is asynchronous; pass it to AsyncWorker"
    ):
        Worker(db, {}, workflows=[coroutine])
    with pytest.raises(
        ConfigurationError, match="workflow 'versions' is not asynchronous; pass it to Worker"
    ):
        AsyncWorker(AsyncDatabase(database_url), {}, workflows=[old])
    with pytest.raises(ConfigurationError, match="there are no handlers"):
        Worker(db, {})
    id = start(db, old)
    Worker(db, {}, workflows=[new], **QUICK).run(drain=True)
    assert found(db, id).status == "pending"
    assert (
        "workflow 'versions', version 1: 1 executions wait, and this worker does not have the code"
        in caplog.text
    )


def test_no_event_is_lost_beside_a_wait(db: Database) -> None:
    """Events arrive before, while and after the execution begins to wait for them."""

    @workflow("events")
    def events(ctx: WorkflowContext, count: int) -> list[object]:
        return [ctx.wait_for(f"event {number}").payload for number in range(count)]

    ids = [start(db, events, count=5) for _ in range(4)]

    def send(id: int) -> None:
        for number in range(5):
            with db.begin() as uow:
                uow.workflows.deliver(id, f"event {number}", number)
            time.sleep(0.01 * (id % 3))

    with (
        working(Worker(db, {}, workflows=[events], concurrency=4, **QUICK)),
        ThreadPoolExecutor(len(ids)) as pool,
    ):
        sent = [pool.submit(send, id) for id in ids]
        for id in ids:
            assert until(db, id, "completed").output_data == list(range(5))
        for one in sent:
            one.result(30)
    with db.begin() as uow:
        assert uow.session.execute(text("SELECT max(crash_count) FROM workflow_executions")).scalar() == 0
