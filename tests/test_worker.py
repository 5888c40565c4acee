"""Workers of both colours: threads and event loops that do the tasks of a real database."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from servers import pgbouncer
from sqlalchemy import URL, text

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    Backoff,
    ClaimedTask,
    Database,
    Lease,
    NewResult,
    Task,
    TaskFailed,
    TaskStatus,
    Worker,
    embedded,
    migrate,
)
from alfred_db.config import parse_url
from alfred_db.errors import ConfigurationError, DatabaseUnavailable, InvalidInputError, LeaseLost
from alfred_db.wakeup import channel_of
from alfred_db.worker import _loop
from alfred_db.worker._lease import AnyLease
from alfred_db.worker._loop import Loop

AT_ONCE = Backoff(0, 0, 0)
QUICK: dict[str, Any] = {"poll": 0.2, "upkeep": 0.2, "grace": 20.0, "backoff": AT_ONCE}

Work = Callable[[ClaimedTask, AnyLease], Sequence[NewResult] | None]


class Colour:
    """Makes workers of one colour from plain functions, which an asynchronous one runs in threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asynchronous = name == "async"

    def worker(self, db: Database, handlers: Mapping[str, Work], **options: Any) -> Worker | AsyncWorker:
        settings = {**QUICK, **options}
        if not self.asynchronous:
            return Worker(db, handlers, **settings)
        other = AsyncDatabase(db.url, schema=db.schema, pooler=db.pooler)
        return AsyncWorker(other, {intent: in_thread(work) for intent, work in handlers.items()}, **settings)

    def drain(self, db: Database, handlers: Mapping[str, Work], **options: Any) -> None:
        work(self.worker(db, handlers, **options), drain=True)


def in_thread(work: Work) -> Callable[[ClaimedTask, AsyncLease], Any]:
    async def handler(task: ClaimedTask, lease: AsyncLease) -> Sequence[NewResult] | None:
        return await asyncio.to_thread(work, task, lease)

    return handler


def work(worker: Worker | AsyncWorker, *, drain: bool = False) -> None:
    if isinstance(worker, Worker):
        worker.run(drain=drain, signals=False)
    else:
        asyncio.run(worker.run(drain=drain, signals=False))


@contextmanager
def working(*workers: Worker | AsyncWorker, at_once: bool = True) -> Iterator[None]:
    """Workers at work in threads of their own, stopped at the end. What one raises is raised here."""
    errors: list[BaseException] = []

    def run(worker: Worker | AsyncWorker) -> None:
        try:
            work(worker)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop(at_once=at_once)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a worker does not stop"
    if errors:
        raise errors[0]


def eventually(holds: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest) -> Colour:
    return Colour(request.param)


@pytest.fixture(scope="module")
def own_url(template: URL, new_database: Callable[..., URL]) -> URL:
    return new_database(template.database)


@pytest.fixture
def db(own_url: URL) -> Iterator[Database]:
    """The database of this file, emptied of what the last test left."""
    with Database(own_url) as database:
        sql(database, "TRUNCATE tasks, acme.tasks, scheduler_tasks, agent_registry CASCADE")
        yield database


def file(db: Database, intent: str = "X", **options: Any) -> Task:
    with db.begin() as uow:
        return uow.tasks.enqueue(intent, **options)[0]


def task(db: Database, filed: Task) -> Task:
    with db.begin() as uow:
        found = uow.tasks.get(filed.id)
        assert found is not None
        return found


def status(db: Database, filed: Task) -> TaskStatus:
    return task(db, filed).status


def count(db: Database, status: TaskStatus) -> int:
    with db.begin() as uow:
        return uow.tasks.count(status=status)


def sql(db: Database, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
    with db.session() as session:
        done = session.execute(text(statement), parameters)
        rows = [tuple(row) for row in done] if done.returns_rows else []  # type: ignore[attr-defined]
        session.commit()
        return rows


def backends(db: Database, name: str) -> list[int]:
    """The server processes of this database that call themselves so."""
    rows = sql(
        db,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name",
        name=name,
    )
    return [row[0] for row in rows]


def nothing(task: ClaimedTask, lease: AnyLease) -> None:
    """Does it."""


# Doing tasks


def test_tasks_are_done_the_most_urgent_first_and_their_results_kept(colour: Colour, db: Database) -> None:
    done: list[int] = []

    def note(task: ClaimedTask, lease: AnyLease) -> list[NewResult]:
        done.append(task.priority)
        return [{"result_type": "priority", "content": {"was": task.priority}}]

    filed = [file(db, priority=priority) for priority in (1, 5, 3, 2, 4)]
    colour.drain(db, {"X": note}, concurrency=1)
    assert done == [5, 4, 3, 2, 1]
    assert {status(db, one) for one in filed} == {TaskStatus.COMPLETED}
    with db.begin() as uow:
        results = uow.tasks.results(filed[1].id)
    assert [(result.result_type, result.content) for result in results] == [("priority", {"was": 5})]


def test_no_more_run_at_once_than_they_may_and_no_more_are_claimed(colour: Colour, db: Database) -> None:
    running, most, lock = 0, 0, threading.Lock()
    held: list[int] = []

    def busy(task: ClaimedTask, lease: AnyLease) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        held.append(count(db, TaskStatus.PROCESSING))
        time.sleep(0.02)
        with lock:
            running -= 1

    for _ in range(20):
        file(db)
    colour.drain(db, {"X": busy}, concurrency=3)
    assert most == 3
    assert max(held) <= 3
    assert count(db, TaskStatus.COMPLETED) == 20


def test_only_tasks_that_have_a_handler_are_claimed(colour: Colour, db: Database) -> None:
    mine, other = file(db, "X"), file(db, "Y", priority=5)
    theirs = file(db, "X", assigned_to="writer")
    colour.drain(db, {"X": nothing}, assigned_to="writer")
    assert [status(db, one) for one in (mine, other, theirs)] == ["pending", "pending", "completed"]
    colour.drain(db, {"X": nothing})
    assert [status(db, one) for one in (mine, other)] == ["completed", "pending"]
    assert task(db, other).claim_seq == 0


def test_several_workers_do_each_task_once(db: Database) -> None:
    done: list[str] = []

    def note(task: ClaimedTask, lease: AnyLease) -> None:
        done.append(task.task_id)

    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "X", "task_id": str(number)} for number in range(300)])
    workers = [
        Colour(name).worker(db, {"X": note}, concurrency=7) for name in ("sync", "sync", "async", "async")
    ]
    with working(*workers):
        eventually(lambda: count(db, TaskStatus.COMPLETED) == 300)
    assert sorted(done) == sorted(str(number) for number in range(300))


def test_an_error_fails_the_attempt_and_the_last_one_the_task(colour: Colour, db: Database) -> None:
    attempts: list[int] = []

    def refuse(task: ClaimedTask, lease: AnyLease) -> None:
        attempts.append(task.attempt)
        raise ValueError("no such page")

    filed = file(db, max_retries=2)
    colour.drain(db, {"X": refuse})
    found = task(db, filed)
    assert attempts == [1, 2, 3]
    assert (found.status, found.retry_count, found.error_code) == ("failed", 2, "handler")
    assert found.error_message == "ValueError: no such page"


def test_a_handler_says_how_its_failure_is_to_be_taken(colour: Colour, db: Database) -> None:
    def refuse(task: ClaimedTask, lease: AnyLease) -> None:
        raise TaskFailed("full", code="quota", retry=task.content["retry"], delay=3600)

    later, never = file(db, content={"retry": True}), file(db, content={"retry": False})
    colour.drain(db, {"X": refuse})
    found = task(db, later)
    assert (found.status, found.error_code, found.error_message) == ("pending", "quota", "full")
    assert 3500 < (found.available_at - found.updated_at).total_seconds() < 3700
    assert (status(db, never), task(db, never).retry_count) == ("failed", 0)


@pytest.mark.parametrize("how", [SystemExit(3), KeyboardInterrupt()])
def test_a_handler_cannot_end_the_worker(colour: Colour, db: Database, how: BaseException) -> None:
    def leave(task: ClaimedTask, lease: AnyLease) -> None:
        raise how

    bad, good = file(db, "BAD", max_retries=0, priority=5), file(db, "X")
    colour.drain(db, {"BAD": leave, "X": nothing}, concurrency=1)
    assert [status(db, bad), status(db, good)] == ["failed", "completed"]
    assert type(how).__name__ in (task(db, bad).error_message or "")


async def test_an_asynchronous_handler_that_exits_does_not_end_the_event_loop(db: Database) -> None:
    async def leave(task: ClaimedTask, lease: AsyncLease) -> None:
        raise SystemExit(3)

    bad = file(db, max_retries=0)
    async with AsyncDatabase(db.url) as other:
        await AsyncWorker(other, {"X": leave}, **QUICK).run(drain=True, signals=False)
    assert status(db, bad) == "failed"


@pytest.mark.parametrize(
    "wrong",
    [7, "text", {"result_type": "x"}, [{"content": {}}], [{"result_type": "x", "content": {"x": object()}}]],
    ids=["number", "text", "no content", "no type", "not JSON"],
)
def test_what_cannot_be_stored_fails_its_own_task_alone(colour: Colour, db: Database, wrong: Any) -> None:
    gate = threading.Barrier(3)

    def answer(task: ClaimedTask, lease: AnyLease) -> Any:
        gate.wait(10)
        return wrong if task.task_id == "bad" else [{"result_type": "x", "content": {}}]

    bad = file(db, task_id="bad", max_retries=0)
    good = [file(db), file(db)]
    colour.drain(db, {"X": answer}, concurrency=3)
    assert status(db, bad) == "failed"
    assert "InvalidInputError" in (task(db, bad).error_message or "")
    assert {status(db, one) for one in good} == {TaskStatus.COMPLETED}


def test_handlers_of_the_wrong_colour_or_kind_are_refused_in_words(db: Database) -> None:
    async def unlike(task: ClaimedTask, lease: AsyncLease) -> None: ...

    other = AsyncDatabase(db.url)
    with pytest.raises(ConfigurationError, match="there are no handlers"):
        Worker(db, {})
    with pytest.raises(ConfigurationError, match="'X' is asynchronous; give it to AsyncWorker"):
        Worker(db, {"X": unlike})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="'X' is not asynchronous; give it to Worker"):
        AsyncWorker(other, {"X": nothing})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match="'X' is int; give a function"):
        Worker(db, {"X": 7})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match="concurrency: expected 1 to 10,000, got 0"):
        Worker(db, {"X": nothing}, concurrency=0)


# Leases


def test_heartbeats_keep_a_task_for_longer_than_its_lease(colour: Colour, db: Database) -> None:
    seen: list[bool] = []

    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        time.sleep(4.5)
        seen.append(lease.lost)

    filed = file(db)
    with working(*[colour.worker(db, {"X": slow}, lease=2.0) for _ in range(2)]):
        eventually(lambda: status(db, filed) == "completed")
    assert seen == [False]
    assert (task(db, filed).claim_seq, task(db, filed).crash_count) == (1, 0)


def test_heartbeats_go_on_while_a_handler_blocks_the_event_loop(db: Database) -> None:
    async def block(task: ClaimedTask, lease: AsyncLease) -> None:
        time.sleep(4.5)
        lease.check()

    filed = file(db)
    worker = AsyncWorker(AsyncDatabase(db.url), {"X": block}, **{**QUICK, "lease": 2.0})
    with working(worker, Worker(db, {"X": nothing}, **QUICK)):
        eventually(lambda: status(db, filed) == "completed")
    assert task(db, filed).claim_seq == 1


def test_a_task_whose_worker_falls_silent_is_anothers_and_the_first_is_refused(
    colour: Colour, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process is stopped for longer than the lease, and goes on."""
    monkeypatch.setattr(Loop, "_beat", lambda loop: None)
    begun, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    def stopped(task: ClaimedTask, lease: AnyLease) -> list[NewResult]:
        begun.set()
        assert over.wait(30)
        seen.append(lease.lost)
        with pytest.raises(LeaseLost):
            lease.check()
        return [{"result_type": "by", "content": {"name": "first"}}]

    def second(task: ClaimedTask, lease: AnyLease) -> list[NewResult]:
        return [{"result_type": "by", "content": {"name": "second"}}]

    filed = file(db)
    first = colour.worker(db, {"X": stopped}, lease=0.5, concurrency=1)
    with working(first, at_once=False):
        assert begun.wait(30)
        with working(colour.worker(db, {"X": second}, lease=30.0)):
            eventually(lambda: status(db, filed) == "completed")
        over.set()
        eventually(lambda: seen)
    assert seen == [True]
    with db.begin() as uow:
        assert [result.content for result in uow.tasks.results(filed.id)] == [{"name": "second"}]
    assert (task(db, filed).claim_seq, task(db, filed).crash_count) == (2, 1)


def test_a_worker_that_lost_a_task_may_claim_it_again_itself(
    colour: Colour, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its first handler of it still runs."""
    monkeypatch.setattr(Loop, "_beat", lambda loop: None)
    attempts: list[int] = []
    over = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> list[NewResult]:
        attempts.append(task.attempt)
        if task.attempt == 1:
            assert over.wait(30)
        return [{"result_type": "attempt", "content": {"was": task.attempt}}]

    filed = file(db)
    with working(colour.worker(db, {"X": slow}, lease=0.5), at_once=False):
        eventually(lambda: status(db, filed) == "completed")
        over.set()
        after = file(db, "X")
        eventually(lambda: status(db, after) == "completed")
    with db.begin() as uow:
        assert [result.content for result in uow.tasks.results(filed.id)] == [{"was": 2}]
    assert attempts[:2] == [1, 2]


def test_a_coroutine_whose_task_is_taken_away_is_cancelled(db: Database) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert lease.lost
            cancelled.set()
            raise

    filed = file(db, max_retries=0)
    worker = AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **{**QUICK, "lease": 0.6})
    with working(worker):
        assert begun.wait(30)
        sql(db, "UPDATE tasks SET lease_token = gen_random_uuid()")
        assert cancelled.wait(30)
        eventually(lambda: status(db, filed) == "failed")  # by the reaper, as the new holder is silent
    assert task(db, filed).error_code == "lease_lost"


def test_an_attempt_that_takes_too_long_is_ended_though_its_worker_is_alive(
    colour: Colour, db: Database
) -> None:
    late = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        while not lease.lost:
            time.sleep(0.02)
        late.set()
        lease.check()

    filed = file(db, max_retries=0, timeout_seconds=1)
    with working(colour.worker(db, {"X": slow}, lease=0.6)):
        eventually(lambda: status(db, filed) == "failed")
        assert late.wait(30)
    assert task(db, filed).error_code in ("timeout", "handler")


def test_a_running_task_that_is_cancelled_ends_so(colour: Colour, db: Database) -> None:
    begun, seen = threading.Event(), threading.Event()

    def patient(task: ClaimedTask, lease: AnyLease) -> None:
        begun.set()
        while not lease.cancel_requested:
            time.sleep(0.02)
        seen.set()
        lease.check()

    filed = file(db)
    with working(colour.worker(db, {"X": patient}, lease=0.6)):
        assert begun.wait(30)
        with db.begin() as uow:
            uow.tasks.cancel(filed.id)
        eventually(lambda: status(db, filed) == "cancelled")
        assert seen.wait(30)


def test_a_coroutine_is_cancelled_with_its_task(db: Database) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned.set()

    filed = file(db)
    with working(AsyncWorker(AsyncDatabase(db.url), {"X": slow}, **{**QUICK, "lease": 0.6})):
        assert begun.wait(30)
        with db.begin() as uow:
            uow.tasks.cancel(filed.id)
        eventually(lambda: status(db, filed) == "cancelled")
        assert cleaned.is_set()
    assert task(db, filed).error_code == "cancelled"


def test_to_return_completes_a_task_whose_cancellation_comes_too_late(colour: Colour, db: Database) -> None:
    def cancel(task: ClaimedTask, lease: AnyLease) -> None:
        with db.begin() as uow:
            uow.tasks.cancel(task.id)

    filed = file(db)
    colour.drain(db, {"X": cancel})
    assert status(db, filed) == "completed"


# Exactly once


def effects(db: Database) -> list[str]:
    with db.begin() as uow:
        return sorted(agent.name for agent in uow.agents.list())


def test_effect_and_completion_are_one_transaction(db: Database) -> None:
    def register(task: ClaimedTask, lease: Lease) -> None:
        with db.begin() as uow:
            uow.agents.register(f"agent-{task.attempt}", type="llm", version="1")
            lease.complete(uow, [{"result_type": "x", "content": {"attempt": task.attempt}}])
            if task.attempt == 1:
                raise ValueError("after all, not")

    filed = file(db)
    Worker(db, {"X": register}, **QUICK).run(drain=True, signals=False)
    assert effects(db) == ["agent-2"]
    assert (status(db, filed), task(db, filed).retry_count) == ("completed", 1)
    with db.begin() as uow:
        assert [result.content for result in uow.tasks.results(filed.id)] == [{"attempt": 2}]


async def test_effect_and_completion_are_one_transaction_for_coroutines_too(db: Database) -> None:
    async with AsyncDatabase(db.url) as other:

        async def register(task: ClaimedTask, lease: AsyncLease) -> None:
            async with other.begin() as uow:
                await uow.agents.register(f"agent-{task.attempt}", type="llm", version="1")
                await lease.complete(uow)
            if task.attempt == 1:
                raise ValueError("too late to fail")

        filed = file(db)
        await AsyncWorker(other, {"X": register}, **QUICK).run(drain=True, signals=False)
    assert effects(db) == ["agent-1"]
    assert (status(db, filed), task(db, filed).retry_count) == ("completed", 0)


def test_a_holder_that_lost_the_task_cannot_commit_its_effect(db: Database) -> None:
    def late(task: ClaimedTask, lease: Lease) -> None:
        sql(db, "UPDATE tasks SET lease_token = gen_random_uuid()")
        with db.begin() as uow:
            uow.agents.register("ghost", type="llm", version="1")
            lease.complete(uow)

    file(db)
    Worker(db, {"X": late}, **QUICK).run(drain=True, signals=False)
    assert effects(db) == []


def test_a_transaction_that_completes_does_not_hold_up_the_heartbeats_of_others(db: Database) -> None:
    def slow(task: ClaimedTask, lease: Lease) -> None:
        if task.task_id == "completes":
            with db.begin() as uow:
                lease.complete(uow)
                time.sleep(2.5)
        else:
            time.sleep(2.5)
            lease.check()

    filed = [file(db, task_id="completes", max_retries=0), file(db, max_retries=0)]
    with working(Worker(db, {"X": slow}, **{**QUICK, "lease": 1.0})):
        eventually(lambda: {status(db, one) for one in filed} <= {"completed", "failed"})
    assert [status(db, one) for one in filed] == ["completed", "completed"]


def test_a_commit_of_unknown_outcome_is_repeated_with_the_same_token(
    colour: Colour, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to COMMIT is lost: once after a completion, once after a failure."""
    lost = {"complete": 0, "fail": 0}

    def answer(task: ClaimedTask, lease: AnyLease) -> list[NewResult]:
        if task.task_id == "bad" and task.attempt == 1:
            raise ValueError("at first")
        return [{"result_type": "x", "content": {}}]

    begin = Database.begin

    @contextmanager
    def losing(self: Database) -> Iterator[Any]:
        called: list[str] = []
        with begin(self) as uow:
            for name in lost:
                whole = getattr(uow.tasks, name)

                def noted(*values: Any, whole: Any = whole, name: str = name, **more: Any) -> Any:
                    called.append(name)
                    return whole(*values, **more)

                setattr(uow.tasks, name, noted)
            yield uow
        if called and lost[called[0]] == 0:
            lost[called[0]] += 1
            raise DatabaseUnavailable("the connection was lost at COMMIT")

    worker = colour.worker(db, {"X": answer}, concurrency=1)
    filed = [file(db, task_id="bad", max_retries=1), file(db)]
    monkeypatch.setattr(Database, "begin", losing)
    work(worker, drain=True)
    monkeypatch.undo()
    assert lost == {"complete": 1, "fail": 1}
    assert {status(db, one) for one in filed} == {TaskStatus.COMPLETED}
    assert task(db, filed[0]).retry_count == 1
    for one in filed:
        with db.begin() as uow:
            assert len(uow.tasks.results(one.id)) == 1


# Stopping


def test_a_stopped_worker_ends_what_runs_and_claims_no_more(colour: Colour, db: Database) -> None:
    begun = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> None:
        begun.set()
        time.sleep(0.5)
        lease.check()

    filed = [file(db), file(db)]
    with working(colour.worker(db, {"X": slow}, concurrency=1), at_once=False):
        assert begun.wait(30)
    assert [status(db, one) for one in filed] == ["completed", "pending"]
    assert backends(db, "alfred-db worker") == []
    eventually(lambda: backends(db, "alfred-db listener") == [])


@pytest.mark.parametrize("how", ["grace", "at once"])
def test_what_does_not_end_in_time_is_given_back(colour: Colour, db: Database, how: str) -> None:
    begun, over = threading.Event(), threading.Event()
    seen: list[bool] = []

    def endless(task: ClaimedTask, lease: AnyLease) -> None:
        begun.set()
        over.wait(60)
        seen.append(lease.lost)

    filed = file(db)
    worker = colour.worker(db, {"X": endless}, grace=0.2 if how == "grace" else 60)
    thread = threading.Thread(target=work, args=(worker,))
    thread.start()
    assert begun.wait(30)
    worker.stop(at_once=how == "at once")
    eventually(lambda: status(db, filed) == "pending")
    over.set()
    thread.join(30)
    eventually(lambda: seen)
    assert seen == [True]
    found = task(db, filed)
    assert (found.status, found.retry_count, found.crash_count) == ("pending", 0, 0)
    assert found.available_at == filed.available_at


async def test_cancelling_the_awaiter_gives_the_tasks_back_and_closes_the_connections(db: Database) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(task: ClaimedTask, lease: AsyncLease) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    filed = file(db)
    async with AsyncDatabase(db.url) as other:
        running = asyncio.create_task(AsyncWorker(other, {"X": slow}, **QUICK).run(signals=False))
        await asyncio.wait_for(begun.wait(), 30)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert cancelled.is_set()
    assert (status(db, filed), task(db, filed).retry_count) == ("pending", 0)
    assert backends(db, "alfred-db worker") == []


async def test_a_claim_or_completion_that_is_cancelled_leaves_its_connection_clean(db: Database) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "X"}] * 200)
    async with AsyncDatabase(db.url, pool_size=2) as other:

        async def one() -> None:
            async with other.begin() as uow:
                tasks = await uow.tasks.claim(worker="w", limit=2)
            async with other.begin() as uow:
                await uow.tasks.complete_many(tasks)

        for number in range(60):
            running = asyncio.create_task(one())
            await asyncio.sleep(number % 20 / 2000)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        pool: Any = other.engine.pool
        assert pool.checkedout() <= 1  # what the last unit of work has left
        await one()
    idle = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
    )
    assert sql(db, idle) == [(0,)]
    assert sql(db, "SELECT count(*) FROM tasks WHERE status = 'processing' AND lease_token IS NULL") == [(0,)]


def test_signals_are_what_they_were_when_the_worker_has_ended(colour: Colour, db: Database) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def stop(task: ClaimedTask, lease: AnyLease) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        lease.check()

    filed = [file(db), file(db)]
    worker = colour.worker(db, {"X": stop}, concurrency=1)
    if isinstance(worker, Worker):
        worker.run()
    else:
        asyncio.run(worker.run())
    assert [status(db, one) for one in filed] == ["completed", "pending"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# Waking up


@pytest.fixture
def far_polls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options with which an idle worker does not look again by itself while the test lasts."""
    monkeypatch.setattr(_loop, "FIRST_PAUSE", 600.0)
    return {"poll": 600.0, "upkeep": 600.0}


def idle(db: Database) -> None:
    """Wait until the worker listens, and has looked in vain after that."""
    eventually(lambda: backends(db, "alfred-db listener"))
    time.sleep(0.5)


def test_a_worker_is_woken_when_tasks_were_filed(
    colour: Colour, db: Database, far_polls: dict[str, Any]
) -> None:
    with working(colour.worker(db, {"X": nothing}, **far_polls)):
        idle(db)
        unheard = file(db)
        time.sleep(0.5)
        assert status(db, unheard) == "pending"
        with Database(db.url, notify=True) as telling:
            filed = file(telling)
            eventually(lambda: status(db, filed) == "completed")
    assert status(db, unheard) == "completed"


async def test_an_asynchronous_database_wakes_workers_too(db: Database, far_polls: dict[str, Any]) -> None:
    with working(Worker(db, {"X": nothing}, **{**QUICK, **far_polls})):
        await asyncio.to_thread(idle, db)
        async with AsyncDatabase(db.url, notify=True) as telling, telling.begin() as uow:
            await uow.tasks.enqueue_many([{"intent": "X"}] * 3)
        await asyncio.to_thread(eventually, lambda: count(db, TaskStatus.COMPLETED) == 3)


def test_a_lost_listener_is_replaced_and_nothing_is_missed_meanwhile(
    colour: Colour, db: Database, far_polls: dict[str, Any]
) -> None:
    with working(colour.worker(db, {"X": nothing}, **far_polls)):
        idle(db)
        unheard = file(db)
        (old,) = backends(db, "alfred-db listener")
        sql(db, "SELECT pg_terminate_backend(:pid)", pid=old)
        eventually(lambda: status(db, unheard) == "completed")
        assert old not in backends(db, "alfred-db listener")
        with Database(db.url, notify=True) as telling:
            heard = file(telling)
            eventually(lambda: status(db, heard) == "completed")


def test_a_notification_that_is_lost_costs_nothing_but_time(colour: Colour, db: Database) -> None:
    with (
        working(colour.worker(db, {"X": nothing}, poll=0.5)),
        Database(db.url, notify=True) as telling,
    ):
        first = file(telling)
        eventually(lambda: status(db, first) == "completed")
        eventually(lambda: backends(db, "alfred-db notifier"))
        for pid in backends(db, "alfred-db notifier"):
            sql(db, "SELECT pg_terminate_backend(:pid)", pid=pid)
        second = file(telling)
        eventually(lambda: status(db, second) == "completed")
        third = file(telling)
        eventually(lambda: status(db, third) == "completed")


def heard(db: Database, schema: str | None, work: Callable[[Database], object]) -> int:
    """How many notifications come of what `work` does."""
    driver: Any
    with Database(db.url, schema=schema) as database, database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        driver.autocommit = True
        driver.execute(f'LISTEN "{channel_of(schema)}"')
        with Database(db.url, schema=schema, notify=True) as telling:
            work(telling)
        return len(list(driver.notifies(timeout=0.5)))


@pytest.mark.parametrize("schema", [None, "acme"])
def test_only_what_was_filed_and_committed_is_told_and_told_once(db: Database, schema: str | None) -> None:
    def rolled_back(telling: Database) -> None:
        with telling.session() as session:
            from alfred_db import TaskRepository

            TaskRepository(session).enqueue("X")

    def savepoint(telling: Database) -> None:
        with telling.begin() as uow:
            with uow.session.begin_nested():
                uow.tasks.enqueue("X")
            time.sleep(0.1)
            assert sql(
                db, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'alfred-db notifier'"
            ) == [(0,)]

    def many(telling: Database) -> None:
        with telling.begin() as uow:
            uow.tasks.enqueue_many([{"intent": "X"}] * 1500)
            uow.tasks.enqueue("X")

    assert heard(db, schema, lambda telling: file(telling)) == 1
    assert heard(db, schema, many) == 1
    assert heard(db, schema, savepoint) == 1
    assert heard(db, schema, rolled_back) == 0
    assert heard(db, schema, lambda telling: count(telling, TaskStatus.PENDING)) == 0
    other = "acme" if schema is None else None
    assert heard(db, other, lambda _: heard(db, schema, lambda telling: file(telling))) == 0


def test_a_channel_is_the_tenants_own_and_not_too_long() -> None:
    names = [channel_of(schema) for schema in (None, "acme", "x" * 63, "x" * 62 + "y", "ä" * 31)]
    assert len(set(names)) == len(names)
    assert max(len(name.encode()) for name in names) <= 63


def test_behind_a_transaction_pooler_workers_poll(colour: Colour, db: Database) -> None:
    with pgbouncer(db.url) as url, Database(url, pooler="transaction", notify=True) as pooled:
        with working(colour.worker(pooled, {"X": nothing}, poll=0.3, concurrency=2)):
            filed = [file(pooled) for _ in range(5)]
            eventually(lambda: {status(db, one) for one in filed} == {"completed"})
        assert backends(db, "alfred-db listener") == []


# What happens around it


def test_a_tenants_worker_does_the_tenants_tasks(colour: Colour, db: Database) -> None:
    with Database(db.url, schema="acme") as acme:
        mine, theirs = file(acme), file(db)
        colour.drain(acme, {"X": nothing})
        assert status(acme, mine) == "completed"
    assert status(db, theirs) == "pending"


@pytest.mark.parametrize("schedules", [True, False])
def test_a_worker_files_the_slots_of_schedules_unless_told_not_to(db: Database, schedules: bool) -> None:
    with db.begin() as uow:
        scheduled, _ = uow.scheduler.create("nightly", "SWEEP", "* * * * *")
    sql(db, "UPDATE scheduler_tasks SET next_run_at = now() - interval '1 second'")

    def slots() -> int:
        with db.begin() as uow:
            return len(uow.scheduler.history(scheduled.id))

    with working(Worker(db, {"X": nothing}, **{**QUICK, "schedules": schedules})):
        if schedules:
            eventually(slots)
        else:
            filed = file(db)
            eventually(lambda: status(db, filed) == "completed")
            time.sleep(0.6)
    assert bool(slots()) == schedules


def test_draining_takes_over_from_vanished_workers_first(colour: Colour, db: Database) -> None:
    filed = file(db)
    with db.begin() as uow:
        assert uow.tasks.claim(worker="gone", lease=0.001)
    time.sleep(0.01)
    colour.drain(db, {"X": nothing})
    assert (status(db, filed), task(db, filed).crash_count) == ("completed", 1)


def test_what_no_waiting_mends_ends_the_worker(colour: Colour, empty_url: URL) -> None:
    with Database(empty_url) as database, pytest.raises(Exception, match="alembic upgrade head"):
        colour.drain(database, {"X": nothing})


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    colour: Colour, caplog: pytest.LogCaptureFixture
) -> None:
    with tempfile.TemporaryDirectory(prefix="alfred-db-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        url = parse_url(embedded.start(folder).url or "")
        try:
            migrate.upgrade(url)
            with Database(url) as db:
                survives_a_restart(colour, db, folder)
        finally:
            embedded.stop(folder)
    assert [one for one in caplog.records if one.levelno > logging.WARNING] == []


def survives_a_restart(colour: Colour, db: Database, folder: Path) -> None:
    begun = threading.Semaphore(0)
    over = threading.Event()

    def slow(task: ClaimedTask, lease: AnyLease) -> list[NewResult]:
        begun.release()
        over.wait(60)
        return [{"result_type": "x", "content": {}}]

    filed = [file(db) for _ in range(4)]
    with working(colour.worker(db, {"X": slow}, concurrency=2, lease=60.0)):
        assert begun.acquire(timeout=30)
        assert begun.acquire(timeout=30)
        (postmaster,) = folder.rglob("postmaster.pid")
        process = int(postmaster.read_text().split()[0])
        os.kill(process, signal.SIGQUIT)  # at once, without a checkpoint
        over.set()  # while there is no server
        eventually(lambda: not Path(f"/proc/{process}").exists())
        time.sleep(0.5)
        embedded.start(folder)
        eventually(lambda: count(db, TaskStatus.COMPLETED) == 4)
    for one in filed:
        with db.begin() as uow:
            assert len(uow.tasks.results(one.id)) == 1
        assert task(db, one).claim_seq == 1
