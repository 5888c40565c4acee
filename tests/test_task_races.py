"""Callers that meet: threads and asyncio tasks that work on the same rows at the same time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import URL, func, text, update

from alfred_db import AsyncDatabase, Database, Task, TaskStatus
from alfred_db.errors import ConflictError, InvalidTransition, LeaseLost
from alfred_db.repositories._async.messages import AsyncMessageRepository
from alfred_db.repositories._async.tasks import AsyncTaskRepository
from alfred_db.repositories._sync.messages import MessageRepository
from alfred_db.repositories._sync.tasks import TaskRepository
from alfred_db.values.tasks import ClaimedTask, NewTask


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=25) as database:
        yield database


def with_tasks(db: Database, work: Callable[[TaskRepository], object]) -> object:
    """The result of one transaction."""
    with db.begin() as uow:
        return work(TaskRepository(uow.session))


def filled(db: Database, size: int) -> None:
    with_tasks(db, lambda tasks: tasks.enqueue_many([{"intent": "x"}] * size))


def one_claimed(db: Database) -> ClaimedTask:
    with db.begin() as uow:
        tasks = TaskRepository(uow.session)
        tasks.enqueue("x", priority=5)
        return tasks.claim(worker="w")[0]


def status_of(db: Database, task: ClaimedTask) -> TaskStatus:
    with db.begin() as uow:
        found = TaskRepository(uow.session).get(task.id)
        assert found is not None
        return found.status


def test_many_threads_drain_a_queue_once(db: Database) -> None:
    filled(db, 600)
    done: Counter[str] = Counter()
    lock = threading.Lock()

    def work(number: int) -> None:
        while True:
            with db.begin() as uow:
                batch = TaskRepository(uow.session).claim(worker=f"w-{number}", limit=1 + number * 5)
            if not batch:
                return
            assert len(batch) <= 1 + number * 5
            with lock:
                done.update(task.task_id for task in batch)
            with db.begin() as uow:
                TaskRepository(uow.session).complete_many(batch)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(done) == 600
    assert set(done.values()) == {1}
    assert with_tasks(db, lambda tasks: tasks.count(status=TaskStatus.COMPLETED)) == 600


async def test_many_coroutines_drain_a_queue_once(database_url: URL, db: Database) -> None:
    filled(db, 300)
    async with AsyncDatabase(database_url, pool_size=8) as database:

        async def work(number: int) -> list[str]:
            mine: list[str] = []
            while True:
                async with database.begin() as uow:
                    batch = await AsyncTaskRepository(uow.session).claim(worker=f"w-{number}", limit=7)
                if not batch:
                    return mine
                mine += [task.task_id for task in batch]
                async with database.begin() as uow:
                    await AsyncTaskRepository(uow.session).complete_many(batch)

        taken = await asyncio.gather(*(work(number) for number in range(8)))
    assert sorted(Counter(name for mine in taken for name in mine).values()) == [1] * 300


@pytest.mark.parametrize("winner_commits", [True, False])
def test_twenty_sessions_enqueue_one_task(db: Database, winner_commits: bool) -> None:
    with db.session() as first, ThreadPoolExecutor(19) as pool:
        winner, created = TaskRepository(first).enqueue("x", task_id="t", dedupe_key="k")
        assert created
        winner_id = winner.id
        futures = [
            pool.submit(with_tasks, db, lambda tasks: tasks.enqueue("x", task_id="t", dedupe_key="k"))
            for _ in range(19)
        ]
        time.sleep(0.3)
        assert not any(future.done() for future in futures), "they wait for the winner"
        first.commit() if winner_commits else first.rollback()
        enqueued: list[Any] = [future.result() for future in futures]
    ids = {task.id for task, _ in enqueued}
    assert len(ids) == 1
    assert sum(created for _, created in enqueued) == (0 if winner_commits else 1)
    assert (winner_id in ids) is winner_commits
    assert with_tasks(db, lambda tasks: tasks.count()) == 1


@pytest.mark.parametrize("size", [50, 1500], ids=["insert", "copy"])
def test_the_same_tasks_enqueued_at_once_in_any_order(db: Database, size: int) -> None:
    many: list[NewTask] = [{"intent": "x", "task_id": f"t-{number}"} for number in range(size)]
    with ThreadPoolExecutor(4) as pool:
        enqueued = list(
            pool.map(
                lambda tasks_of: with_tasks(db, lambda tasks: tasks.enqueue_many(tasks_of)),
                [many, many[::-1], many[size // 2 :] + many[: size // 2], many[: size // 2] * 2],
            )
        )
    assert sum(created for batch in enqueued for _, created in batch) == size  # type: ignore[attr-defined]
    ids = [[id for id, _ in batch] for batch in enqueued]  # type: ignore[attr-defined]
    assert ids[0] == ids[1][::-1] == ids[2][-(size // 2) :] + ids[2][: -(size // 2)]
    assert with_tasks(db, lambda tasks: tasks.count()) == size


def test_a_cancellation_that_waits_for_a_claim_asks_the_holder(db: Database) -> None:
    filled(db, 1)
    with db.session() as worker, ThreadPoolExecutor(1) as pool:
        (held,) = TaskRepository(worker).claim(worker="w")
        cancelling = pool.submit(with_tasks, db, lambda tasks: tasks.cancel(held.id))
        time.sleep(0.2)
        assert not cancelling.done()
        worker.commit()
        assert cancelling.result() == {held.id: TaskStatus.PROCESSING}
    assert with_tasks(db, lambda tasks: tasks.heartbeat(held).cancel_requested) is True


def test_a_completion_that_commits_first_wins_over_a_cancellation(db: Database) -> None:
    held = one_claimed(db)
    with db.session() as worker, ThreadPoolExecutor(1) as pool:
        TaskRepository(worker).complete(held)
        cancelling = pool.submit(with_tasks, db, lambda tasks: tasks.cancel(held.id))
        time.sleep(0.2)
        worker.commit()
        with pytest.raises(InvalidTransition, match="is completed"):
            cancelling.result()
    assert status_of(db, held) is TaskStatus.COMPLETED


def test_a_failure_that_waits_for_a_cancellation_is_one(db: Database) -> None:
    held = one_claimed(db)
    with db.session() as canceller, ThreadPoolExecutor(1) as pool:
        TaskRepository(canceller).cancel(held.id)
        failing = pool.submit(with_tasks, db, lambda tasks: tasks.fail(held, "no"))
        time.sleep(0.2)
        assert not failing.done()
        canceller.commit()
        assert failing.result() is TaskStatus.CANCELLED


def test_a_claim_passes_a_task_that_is_being_cancelled(db: Database) -> None:
    filled(db, 1)
    with db.session() as canceller:
        (task,) = TaskRepository(canceller).list()
        TaskRepository(canceller).cancel(task.id)
        assert with_tasks(db, lambda tasks: tasks.claim(worker="w")) == []
        canceller.commit()
    assert with_tasks(db, lambda tasks: tasks.claim(worker="w")) == []


@pytest.mark.parametrize("first", ["reap", "complete", "heartbeat"])
def test_the_second_to_a_lapsed_lease_loses(db: Database, first: str) -> None:
    held = one_claimed(db)
    with db.begin() as uow:
        uow.session.execute(update(Task).values(lease_expires_at=func.now() - text("interval '1 s'")))
    with db.session() as winner, ThreadPoolExecutor(1) as pool:
        if first == "reap":
            assert TaskRepository(winner).reap() == {held.id: TaskStatus.PENDING}
            completing = pool.submit(with_tasks, db, lambda tasks: tasks.complete(held))
            time.sleep(0.2)
            assert not completing.done()
            winner.commit()
            with pytest.raises(LeaseLost):
                completing.result()
            assert status_of(db, held) is TaskStatus.PENDING
            return
        write = TaskRepository(winner).complete if first == "complete" else TaskRepository(winner).heartbeat
        write(held)
        assert with_tasks(db, lambda tasks: tasks.reap()) == {}
        winner.commit()
    assert with_tasks(db, lambda tasks: tasks.reap()) == {}
    assert status_of(db, held) is (TaskStatus.COMPLETED if first == "complete" else TaskStatus.PROCESSING)


def test_cancelling_trees_and_completing_batches_never_deadlock(db: Database) -> None:
    with db.begin() as uow:
        tasks = TaskRepository(uow.session)
        root, _ = tasks.enqueue("root")
        tasks.enqueue_many([{"intent": "x", "parent_task_id": root.id}] * 100)
        held = tasks.claim(worker="w", limit=101)

    def work(number: int) -> None:
        for _ in range(10):
            if number % 2:
                with_tasks(db, lambda tasks: tasks.cancel(root.id))
            else:
                with_tasks(db, lambda tasks: tasks.heartbeat_many(held[:: 1 - number]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_a_retried_commit_of_unknown_outcome(db: Database) -> None:
    held = one_claimed(db)
    with db.session() as session:
        TaskRepository(session).complete(held, [{"result_type": "r", "content": {}}])
        session.commit()  # suppose that the reply got lost
    with db.begin() as uow:
        TaskRepository(uow.session).complete(held, [{"result_type": "r", "content": {}}])
        assert len(TaskRepository(uow.session).results(held.id)) == 1


async def test_a_cancelled_coroutine_leaves_a_clean_connection(database_url: URL, db: Database) -> None:
    held = one_claimed(db)
    async with AsyncDatabase(database_url, pool_size=1) as database:
        with db.session() as blocker:
            TaskRepository(blocker).heartbeat(held)

            async def complete() -> None:
                async with database.begin() as uow:
                    await AsyncTaskRepository(uow.session).complete(held)

            waiting = asyncio.create_task(complete())
            await asyncio.sleep(0.2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            blocker.rollback()
        async with database.begin() as uow:
            await AsyncTaskRepository(uow.session).complete(held)
    assert status_of(db, held) is TaskStatus.COMPLETED


@pytest.mark.parametrize("winner_commits", [True, False])
def test_a_message_is_for_one_of_many(db: Database, winner_commits: bool) -> None:
    def first_time(_: int) -> bool:
        with db.begin() as uow:
            return MessageRepository(uow.session).first_time("m")

    with db.session() as first, ThreadPoolExecutor(10) as pool:
        assert MessageRepository(first).first_time("m")
        others = [pool.submit(first_time, number) for number in range(10)]
        time.sleep(0.2)
        assert not any(other.done() for other in others)
        first.commit() if winner_commits else first.rollback()
        assert sum(other.result() for other in others) == (0 if winner_commits else 1)


def test_an_expired_message_is_for_one_of_many(db: Database) -> None:
    with db.begin() as uow:
        MessageRepository(uow.session).first_time("m", ttl=0.001)
    time.sleep(0.01)

    def first_time(_: int) -> bool:
        with db.begin() as uow:
            return MessageRepository(uow.session).first_time("m")

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(first_time, range(10))) == 1


def test_the_same_messages_in_any_order_never_deadlock(db: Database) -> None:
    ids = [str(number) for number in range(500)]

    def first_times(given: list[str]) -> int:
        with db.begin() as uow:
            return len(MessageRepository(uow.session).first_time_many(given))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(first_times, [ids, ids[::-1], ids[250:] + ids[:250], ids * 2])) == 500


async def test_messages_in_coroutines(database_url: URL) -> None:
    async with AsyncDatabase(database_url, pool_size=5) as database:

        async def first_time() -> bool:
            async with database.begin() as uow:
                return await AsyncMessageRepository(uow.session).first_time("m")

        assert sum(await asyncio.gather(*(first_time() for _ in range(10)))) == 1


def test_a_dead_letter_and_a_new_task_of_one_key(db: Database) -> None:
    with db.begin() as uow:
        tasks = TaskRepository(uow.session)
        tasks.enqueue("x", dedupe_key="k")
        (held,) = tasks.claim(worker="w")
        tasks.fail(held, "no", retry=False)
    with db.session() as filer, ThreadPoolExecutor(1) as pool:
        TaskRepository(filer).enqueue("x", dedupe_key="k")
        requeueing = pool.submit(with_tasks, db, lambda tasks: tasks.requeue(held.id))
        time.sleep(0.2)
        filer.commit()
        with pytest.raises(ConflictError, match="uq_tasks_dedupe_key"):
            requeueing.result()
