"""Tasks as functions: typed arguments, retries, uniqueness, middleware, dead letters, schedules."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncTasks,
    ClaimedTask,
    Database,
    DeadTask,
    ExecutionLease,
    Lease,
    Retry,
    TaskFailed,
    Tasks,
    Worker,
)
from alfred_db.errors import ConfigurationError, InvalidCron, InvalidInputError
from alfred_db.values import ClaimedExecution, NewTask
from alfred_db.worker import TaskOptions, WorkerOptions
from alfred_db.worker._conversions import Misfit, conversion
from alfred_db.worker.settings import Settings

from .at_work import AT_ONCE, QUICK, eventually, sql, status, task, work, working


class Color(StrEnum):
    RED = "red"


class Page(TypedDict):
    url: str
    depth: NotRequired[int]


@dataclass
class Node:
    name: str
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Everything:
    number: int
    share: float
    at: datetime
    id: uuid.UUID
    color: Color
    mode: Literal["a", 1] | None
    pages: tuple[Page, ...]
    pair: tuple[int, str]
    table: dict[str, set[int]]
    tree: Node
    wait: timedelta = timedelta(0)


FULL = Everything(
    1,
    0.5,
    datetime(2026, 1, 2, tzinfo=UTC),
    uuid.UUID(int=7),
    Color.RED,
    1,
    ({"url": "u"}, {"url": "v", "depth": 2}),
    (1, "x"),
    {"k": {3}},
    Node("root", [Node("leaf")]),
)


def test_every_kind_of_value_comes_back_as_it_was() -> None:
    made = conversion(Everything)
    assert made.from_json(made.to_json(FULL, "x"), "x") == FULL


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, "secret", "x: expected a whole number, got str"),
        (int, True, "x: expected a whole number, got bool"),
        (float, float("nan"), "x: expected a finite number, got float"),
        (list[int], [1, "secret"], r"x\[1\]: expected a whole number, got str"),
        (dict[str, int], {"secret": "secret"}, r"x\[\.\.\.\]: expected a whole number, got str"),
        (Page, {"depth": 1}, "x.url: expected text, got nothing"),
        (Page, {"url": "u", "secret": 1}, "x: expected Page with url, depth, got other fields"),
        (int | None, "secret", "x: expected a whole number or None, got str"),
        (Color, "secret", "x: expected a Color"),
        (Literal["a"], "secret", "x: expected one of 'a', got str"),
        (Node, {"name": 1}, "x"),
    ],
)
@pytest.mark.parametrize("reading", [False, True])
def test_a_value_that_does_not_fit_is_named_without_its_content(
    hint: Any, value: Any, expected: str, reading: bool
) -> None:
    with pytest.raises(Misfit, match=expected) as refused:
        conversion(hint).way(reading)(value, "x")
    assert "secret" not in str(refused.value)


@pytest.fixture
def app(db: Database) -> Tasks:
    return Tasks(db, "test")


def drain(app: Tasks, **options: Any) -> None:
    app.worker(**{**QUICK, **options}).run(drain=True, signals=False)


def test_a_function_is_called_enqueued_and_run(db: Database, app: Tasks) -> None:
    @app.task(queue="gpu", priority=4, retry=Retry(max=7), timeout=60)
    def double(value: int, *, by: int = 2, lease: Lease | None = None) -> dict[str, int]:
        return {"result": value * by, "leased": int(lease is not None)}

    assert double(2) == {"result": 4, "leased": 0}
    one, created = double.enqueue(3)
    with db.begin() as uow:
        two, _ = double.enqueue(uow, 4, by=5)
        many = double.enqueue_many([{"value": 1}, {"value": 2, "by": 9}], uow=uow)
    assert created
    assert (one.intent, one.queue, one.priority, one.max_retries, one.timeout_seconds) == (
        "DOUBLE",
        "gpu",
        4,
        7,
        60,
    )
    assert (one.content, two.content) == ({"value": 3}, {"value": 4, "by": 5})
    later, _ = double.options(delay=600, priority=5).enqueue(5)
    drain(app)
    with db.begin() as uow:
        results = [uow.tasks.results(id)[0].content["value"]["result"] for id in (one.id, two.id, many[1][0])]
    assert results == [6, 20, 18]
    assert status(db, later) == "pending"


def test_what_does_not_fit_is_refused_at_enqueue_and_at_run(db: Database, app: Tasks) -> None:
    @app.task()
    def visit(page: Page, times: int) -> None: ...

    anyhow: Any = visit
    calls: list[tuple[Any, Any]] = [
        (({"url": 7}, 1), {}),
        (({"url": "u"},), {}),
        (({"url": "u"}, 1), {"other": 2}),
    ]
    for args, kwargs in calls:
        with pytest.raises(InvalidInputError, match=r"task VISIT: .*visit"):
            anyhow.enqueue(*args, **kwargs)
    with pytest.raises(InvalidInputError, match=r"task VISIT: .*visit"):
        visit.enqueue_many([{"page": {"url": "u"}, "times": 1}, {"times": 1}])
    with db.begin() as uow:
        assert uow.tasks.count() == 0
        wrong, _ = uow.tasks.enqueue("VISIT", {"page": {"url": "u"}, "times": "secret"})
    drain(app)
    found = task(db, wrong)
    assert (found.status, found.error_code, found.retry_count) == ("failed", "arguments", 0)
    assert "argument times: expected a whole number, got str" in (found.error_message or "")
    assert "secret" not in (found.error_message or "")


def test_what_cannot_be_a_task_is_refused_where_it_is_declared(db: Database, app: Tasks) -> None:
    def untyped(a): ...  # type: ignore[no-untyped-def]

    def several(*a: int) -> None: ...

    def odd(a: threading.Thread) -> None: ...

    def leased(lease: AsyncLease) -> None: ...

    for function in (untyped, several, odd, leased):
        with pytest.raises(ConfigurationError, match=function.__name__):
            app.task()(function)
    app.task(intent="A")(test_every_kind_of_value_comes_back_as_it_was)
    with pytest.raises(ConfigurationError, match="already"):
        app.task(intent="A")(test_every_kind_of_value_comes_back_as_it_was)
    with pytest.raises(ConfigurationError, match="AsyncTasks"):
        Tasks(AsyncDatabase(db.url))  # type: ignore[arg-type]


def test_a_policy_decides_about_retries(db: Database, app: Tasks) -> None:
    tries: list[str] = []

    @app.task(retry=Retry(max=2, backoff=AT_ONCE, on=(ValueError, OSError), give_up_on=FileNotFoundError))
    def fail(kind: str) -> None:
        tries.append(kind)
        raise {"value": ValueError, "file": FileNotFoundError, "key": KeyError}[kind]

    for kind in ("value", "file", "key"):
        fail.enqueue(kind)
    drain(app)
    assert {kind: tries.count(kind) for kind in tries} == {"value": 3, "file": 1, "key": 1}
    with pytest.raises(InvalidInputError, match=r"Retry\.on"):
        Retry(on="ValueError")  # type: ignore[arg-type]


def test_a_unique_task_is_enqueued_once_while_live_or_in_a_period(db: Database, app: Tasks) -> None:
    @app.task(unique=True)
    def live(a: int) -> None: ...

    @app.task(unique=timedelta(days=365_000))
    def once(a: int) -> None: ...

    for function in (live, once):
        assert [function.enqueue(a)[1] for a in (1, 1, 2)] == [True, False, True]
    assert [created for _, created in live.enqueue_many([{"a": 1}, {"a": 3}, {"a": 3}])] == [
        False,
        True,
        False,
    ]
    drain(app)
    assert (live.enqueue(1)[1], once.enqueue(1)[1]) == (True, False)


def test_middleware_surrounds_functions_and_sees_errors(db: Database, app: Tasks) -> None:
    seen: list[str] = []

    @app.middleware
    def outer(task: ClaimedTask, lease: Any) -> Iterator[None]:
        seen.append("before")
        try:
            yield
        except ZeroDivisionError:
            seen.append("error")
            raise TaskFailed("divided", retry=False, code="zero") from None
        seen.append("after")

    @app.task(intent="SYNC")
    def plain(a: int) -> float:
        return 1 / a

    @app.task(intent="ASYNC")
    async def coroutine(a: int) -> float:
        await asyncio.sleep(0)
        return 1 / a

    ids = [function.enqueue(a)[0] for function in (plain, coroutine) for a in (1, 0)]
    drain(app, concurrency=1)
    assert sorted(seen) == ["after", "after", "before", "before", "before", "before", "error", "error"]
    assert [(task(db, one).status, task(db, one).error_code) for one in ids] == [
        ("completed", None),
        ("failed", "zero"),
    ] * 2


def test_an_async_app_runs_both_kinds(db: Database) -> None:
    async def main() -> list[str]:
        async with AsyncDatabase(db.url) as other:
            app = AsyncTasks(other, "async")

            @app.task()
            def plain(a: int) -> str:
                return threading.current_thread().name

            @app.task()
            async def coroutine(a: int, lease: AsyncLease | None = None) -> str:
                await asyncio.sleep(0)
                return threading.current_thread().name

            one, _ = await plain.enqueue(1)
            async with other.begin() as uow:
                two, _ = await coroutine.enqueue(uow, 2)
                await plain.enqueue_many([{"a": 3}], uow=uow)
            await app.worker(**QUICK).run(drain=True, signals=False)
            async with other.begin() as uow:
                return [(await uow.tasks.results(id))[0].content["value"] for id in (one.id, two.id)]

    assert asyncio.run(main()) == ["alfred-db handler", "MainThread"]


def test_dead_letters_are_reported_once_also_those_that_were_reaped(db: Database, app: Tasks) -> None:
    seen: list[DeadTask] = []
    app.on_dead_letter(seen.append)

    @app.task(retry=Retry(max=0))
    def fail() -> None:
        raise ValueError("no")

    fail.enqueue()
    with db.begin() as uow:
        crashed, _ = uow.tasks.enqueue("FAIL", max_retries=0, task_id="crashed")
        uow.tasks.claim("gone", intents=["FAIL"], lease=0.01, limit=2)
        uow.tasks.enqueue("OTHER", max_retries=0)
        uow.tasks.enqueue("FAIL", max_retries=0, task_id="raised")
    time.sleep(0.05)
    with working(app.worker(**QUICK), app.worker(**QUICK)):
        eventually(lambda: len(seen) >= 3)
        time.sleep(0.6)
    assert sorted((one.error_code or "") for one in seen) == ["handler", "lease_lost", "lease_lost"]
    assert status(db, crashed) == "failed"


def test_a_snoozed_task_waits_without_an_attempt(half: Any, db: Database, caplog: Any) -> None:
    seen: list[int] = []

    def later(task: ClaimedTask, lease: Any) -> None:
        seen.append(task.claim_seq)
        if len(seen) == 1:
            lease.snooze(0.3)

    with db.begin() as uow:
        one, _ = uow.tasks.enqueue("X", max_retries=0)
    with working(half.worker(db, {"X": later})):
        eventually(lambda: status(db, one) == "completed")
    found = task(db, one)
    assert (seen, found.retry_count, found.crash_count) == ([1, 2], 0, 0)
    assert "lease was lost" not in caplog.text
    with pytest.raises(InvalidInputError):
        Lease.snooze(object(), -1)  # type: ignore[arg-type]


def test_schedules_are_declared_and_their_slots_run(db: Database, app: Tasks) -> None:
    done: list[str] = []

    @app.task()
    def report(days: int) -> None:
        done.append(f"task {days}")

    @app.command("sweep")
    def sweep(execution: ClaimedExecution, lease: ExecutionLease) -> str:
        done.append(f"command {execution.command}")
        return "swept"

    report.schedule("* * * * *", "Europe/Prague", arguments={"days": 7})
    app.schedule("sweeping", "* * * * *", command="sweep")
    with pytest.raises(ConfigurationError, match="declared twice"):
        report.schedule("0 * * * *", arguments={"days": 1})
    with pytest.raises(InvalidCron):
        report.schedule("61 * * * *", key="k", arguments={"days": 1})
    with pytest.raises(InvalidInputError, match="argument days"):
        report.schedule("0 * * * *", key="k")
    with working(app.worker(**QUICK)):
        eventually(lambda: sql(db, "SELECT count(*) FROM scheduler_tasks WHERE owner = 'test'") == [(2,)])
        sql(db, "UPDATE scheduler_tasks SET next_run_at = now() - interval '1 second'")
        eventually(lambda: {"task 7", "command sweep"} <= set(done))
        eventually(lambda: sql(db, "SELECT DISTINCT status FROM scheduler_executions") == [("completed",)])
    assert sql(db, "SELECT output FROM scheduler_executions WHERE output IS NOT NULL")[0] == ("swept",)
    other = Tasks(db, "test")
    other.command("sweep")(sweep)
    drain(other)
    active = sql(db, "SELECT count(*) FROM scheduler_tasks WHERE is_active")
    assert active == [(0,)], "what is not declared any more is paused"


def test_eight_pending_executions_are_run(db: Database) -> None:
    with db.begin() as uow:
        schedule, _ = uow.scheduler.create("n", "sweep", "0 0 29 2 *")
        for _ in range(8):
            uow.scheduler.trigger(schedule.id)
    Worker(db, {}, commands={"sweep": lambda execution, lease: None}, **QUICK).run(drain=True, signals=False)
    assert sql(db, "SELECT status, count(*) FROM scheduler_executions GROUP BY 1") == [("completed", 8)]


def test_a_schedule_without_a_handler_is_reported_at_start(db: Database, app: Tasks, caplog: Any) -> None:
    app.schedule("k", "0 * * * *", command="swep")
    with pytest.raises(ConfigurationError, match="no function is registered for its command 'swep'"):
        app.worker()
    with db.begin() as uow:
        uow.scheduler.create("nightly", "nobody", "0 * * * *")
    work(Worker(db, {"X": lambda task, lease: None}, **QUICK), drain=True)
    assert "this worker has no handler of its command 'nobody'" in caplog.text


def test_an_execution_fails_is_retried_and_timed_out_executions_are_taken_back(db: Database) -> None:
    tries: list[int] = []

    def sweep(execution: ClaimedExecution, lease: ExecutionLease) -> str:
        tries.append(execution.attempt)
        raise ValueError("no")

    with db.begin() as uow:
        schedule, _ = uow.scheduler.create("n", "sweep", "0 0 29 2 *", max_retries=2, retry_delay=0)
        uow.scheduler.trigger(schedule.id)
        uow.scheduler.claim("gone", lease=0.01)
    time.sleep(0.05)
    with working(Worker(db, {}, commands={"sweep": sweep}, **QUICK)):
        eventually(lambda: sql(db, "SELECT status FROM scheduler_executions") == [("failed",)])
    assert tries == [2, 3]


def test_options_are_those_of_what_they_are_passed_to() -> None:
    assert set(TaskOptions.__annotations__) <= set(NewTask.__annotations__) - {"intent", "content"}
    assert set(WorkerOptions.__annotations__) == {one.name for one in fields(Settings)}
