"""An effect and the completion of its task are one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    Lease,
    NewTaskResult,
    TaskStatus,
    Worker,
)
from alfred_db.errors import DatabaseUnavailable
from alfred_db.worker._lease import AnyLease

from .at_work import QUICK, SHORT, Half, enqueue, eventually, outlast, sql, status, task, work, working


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

    enqueued = enqueue(db)
    Worker(db, {"X": register}, **QUICK).run(drain=True, signals=False)
    assert effects(db) == ["agent-2"]
    assert (status(db, enqueued), task(db, enqueued).retry_count) == ("completed", 1)
    with db.begin() as uow:
        assert [result.content for result in uow.tasks.results(enqueued.id)] == [{"attempt": 2}]


async def test_effect_and_completion_are_one_transaction_for_coroutines_too(db: Database) -> None:
    async with AsyncDatabase(db.url) as other:

        async def register(task: ClaimedTask, lease: AsyncLease) -> None:
            async with other.begin() as uow:
                await uow.agents.register(f"agent-{task.attempt}", type="llm", version="1")
                await lease.complete(uow)
            if task.attempt == 1:
                raise ValueError("too late to fail")

        enqueued = enqueue(db)
        await AsyncWorker(other, {"X": register}, **QUICK).run(drain=True, signals=False)
    assert effects(db) == ["agent-1"]
    assert (status(db, enqueued), task(db, enqueued).retry_count) == ("completed", 0)


def test_a_holder_that_lost_the_task_cannot_commit_its_effect(db: Database) -> None:
    def late(task: ClaimedTask, lease: Lease) -> None:
        sql(db, "UPDATE tasks SET lease_token = gen_random_uuid()")
        with db.begin() as uow:
            uow.agents.register("ghost", type="llm", version="1")
            lease.complete(uow)

    enqueue(db)
    Worker(db, {"X": late}, **QUICK).run(drain=True, signals=False)
    assert effects(db) == []


@pytest.mark.usefixtures("many_beats")
def test_a_transaction_that_completes_does_not_hold_up_the_heartbeats_of_others(db: Database) -> None:
    def slow(task: ClaimedTask, lease: Lease) -> None:
        if task.task_id == "completes":
            with db.begin() as uow:
                lease.complete(uow)
                outlast(db)
        else:
            outlast(db)
            lease.check()

    enqueued = [enqueue(db, task_id="completes", max_retries=0), enqueue(db, max_retries=0)]
    with working(Worker(db, {"X": slow}, **SHORT)):
        eventually(lambda: {status(db, one) for one in enqueued} <= {"completed", "failed"})
    assert [status(db, one) for one in enqueued] == ["completed", "completed"]


def test_a_commit_of_unknown_outcome_is_repeated_with_the_same_token(
    half: Half, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply to COMMIT is lost: once after a completion, once after a failure."""
    lost = {"complete": 0, "fail": 0}

    def answer(task: ClaimedTask, lease: AnyLease) -> list[NewTaskResult]:
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

    worker = half.worker(db, {"X": answer}, concurrency=1)
    enqueued = [enqueue(db, task_id="bad", max_retries=1), enqueue(db)]
    monkeypatch.setattr(Database, "begin", losing)
    work(worker, drain=True)
    monkeypatch.undo()
    assert lost == {"complete": 1, "fail": 1}
    assert {status(db, one) for one in enqueued} == {TaskStatus.COMPLETED}
    assert task(db, enqueued[0]).retry_count == 1
    for one in enqueued:
        with db.begin() as uow:
            assert len(uow.tasks.results(one.id)) == 1
