"""Tasks that wait for others, while several threads end them at once."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import URL, text

from alfred_db import Database, TaskStatus
from alfred_db.errors import AlfredDBError
from alfred_db.execution._sync.settling import is_awaited
from alfred_db.values.tasks import ClaimedTask, NewTask, TaskBackoff

RACES = 1000 if os.environ.get("ALFRED_DB_FAULTS") else 50
AT_ONCE = TaskBackoff(base=0, cap=0, jitter=0)
ENDERS = 4


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=10) as database:
        yield database


def again(work: Callable[[], object]) -> None:
    """Run a transaction, again while others conflict with it."""
    while True:
        try:
            work()
        except AlfredDBError as error:
            if not error.retryable:
                raise
        else:
            return


def ends(db: Database, claimed: list[ClaimedTask], way: str) -> None:
    """End tasks in one of the ways in which tasks end."""

    def work() -> None:
        with db.autocommit() if way == "alone" else db.begin() as uow:
            if way == "many":
                uow.tasks.complete_many(claimed)
                return
            for one in claimed:
                if way == "cancel":
                    uow.tasks.cancel(one.id)
                if way in ("fail", "cancel"):
                    uow.tasks.fail(one, "no", retry=False)
                else:
                    uow.tasks.complete(one)

    again(work)


def test_the_last_task_of_a_batch_comes_once(db: Database) -> None:
    """However the tasks end, and however many transactions end the last ones at the same time."""
    chance = random.Random(4711)
    ways = ["complete", "alone", "many", "fail", "cancel"]
    with ThreadPoolExecutor(ENDERS) as pool:
        for race in range(RACES):
            with db.begin() as uow:
                batch = uow.tasks.batch(
                    [NewTask(intent="part")] * (ENDERS * chance.randint(1, 3)), then=NewTask(intent="then")
                )
                # A chain of two behind the first part, so that a failure ends tasks of the batch indirectly.
                uow.tasks.enqueue("after", after=[batch.tasks[0]])
            with db.begin() as uow:
                held = uow.tasks.claim("w", limit=500, intents=["part"])
            chance.shuffle(held)
            start = threading.Barrier(ENDERS)

            def end(number: int, held: list[ClaimedTask] = held, start: threading.Barrier = start) -> None:
                start.wait()
                ends(db, held[number::ENDERS], chance.choice(ways))

            list(pool.map(end, range(ENDERS)))
            with db.begin() as uow:
                progress = uow.tasks.batch_progress(batch.id)
                assert progress.ended == progress.total == len(held), race
                (last,) = uow.tasks.claim("w", limit=10, intents=["then"])
                assert last.id == batch.then, race
                uow.tasks.complete(last)
                assert uow.tasks.claim("w", limit=10, intents=["then"]) == []
                uow.session.execute(text("DELETE FROM tasks"))


def test_a_task_behind_one_that_ends_meanwhile_is_never_forgotten(db: Database) -> None:
    """Enqueued with the key of a task, or after it, while that one ends."""
    chance = random.Random(4712)
    with ThreadPoolExecutor(2) as pool:
        for race in range(RACES):
            with db.begin() as uow:
                uow.tasks.enqueue("x", ordering_key="k", task_id="first")
                (held,) = uow.tasks.claim("w")
            start = threading.Barrier(2)
            how = chance.choice(["ordered", "ordered many", "ordered alone", "after"])

            def enqueue(how: str = how, start: threading.Barrier = start) -> None:
                start.wait()
                with db.autocommit() if how == "ordered alone" else db.begin() as uow:
                    if how == "after":
                        uow.tasks.enqueue("x", task_id="second", after=["first"], after_failure="run")
                    elif how == "ordered many":
                        uow.tasks.enqueue_many([NewTask(intent="x", task_id="second", ordering_key="k")])
                    else:
                        uow.tasks.enqueue("x", task_id="second", ordering_key="k")

            def end(held: ClaimedTask = held, start: threading.Barrier = start) -> None:
                start.wait()
                ends(db, [held], chance.choice(["complete", "alone", "many", "fail", "cancel"]))

            for done in [pool.submit(enqueue), pool.submit(end)]:
                done.result()
            with db.begin() as uow:
                (second,) = uow.tasks.claim("w", limit=10)
                assert second.task_id == "second", (race, how)
                uow.session.execute(text("DELETE FROM tasks"))


@pytest.mark.parametrize("how", ["ordered", "after", "nothing"])
def test_a_completion_releases_what_was_enqueued_while_it_waited_for_the_row(db: Database, how: str) -> None:
    """The statement that completes and releases does not see it; the row shows that there is something to see."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with db.begin() as uow:
        uow.tasks.enqueue_many(
            [NewTask(intent="x", task_id=name, ordering_key="k") for name in ("first", "second")]
        )
    with db.begin() as uow:
        (first,) = uow.tasks.claim("w", limit=10)
        uow.tasks.complete(first)
        (second,) = uow.tasks.claim("w", limit=10)
        assert is_awaited(uow.session), "the next completion is by that statement"
    with ThreadPoolExecutor(1) as pool:
        with db.begin() as uow:
            if how == "nothing":
                uow.session.execute(text("SELECT FROM tasks FOR UPDATE"))
            else:
                waits: dict[str, Any] = {"ordering_key": "k"} if how == "ordered" else {"after": ["second"]}
                uow.tasks.enqueue("x", task_id="last", **waits)
            done = pool.submit(ends, db, [second], "complete")
            until = time.monotonic() + 30
            while not done.done():
                with db.autocommit() as other:
                    if other.session.scalar(waiting):
                        break
                assert time.monotonic() < until
            assert not done.done()
        done.result(30)
    with db.begin() as uow:
        assert [one.task_id for one in uow.tasks.claim("w", limit=10)] == (
            [] if how == "nothing" else ["last"]
        )
        assert uow.tasks.complete(second) is False
        assert is_awaited(uow.session) is (how != "nothing")


def test_one_task_of_a_key_at_a_time_and_in_order(db: Database) -> None:
    """Under eight workers, with retries and lost leases, and more tasks of the keys enqueued meanwhile."""
    keys, count = ["a", "b", "c"], RACES
    running: set[str] = set()
    order: dict[str, list[int]] = {key: [] for key in keys}
    guard = threading.Lock()
    enqueued = threading.Event()

    def produce() -> None:
        for number in range(count):
            for key in keys:
                with db.begin() as uow:
                    uow.tasks.enqueue("x", {"key": key, "number": number}, ordering_key=key, max_retries=9)
        enqueued.set()

    def worker(number: int) -> None:
        chance = random.Random(number)
        while True:
            over = enqueued.is_set()
            with db.begin() as uow:
                held = uow.tasks.claim(f"w{number}", limit=2, lease=60)
            if not held and over:
                with db.begin() as uow:
                    if not uow.tasks.count(status=TaskStatus.PENDING):
                        return
            for one in held:
                key: str = one.content["key"]
                with guard:
                    assert key not in running, "two of a key at once"
                    running.add(key)
                    if order[key][-1:] != [one.content["number"]]:
                        order[key].append(one.content["number"])
                way = chance.choice(["complete", "complete", "alone", "many", "retry", "release", "kill"])
                with guard:
                    running.remove(key)
                if way in ("complete", "alone", "many"):
                    ends(db, [one], way)
                    continue
                with db.begin() as uow:
                    if way == "retry":
                        uow.tasks.fail(one, "again", backoff=AT_ONCE)
                    elif way == "release":
                        uow.tasks.release(one)
                    else:
                        uow.session.execute(
                            text("UPDATE tasks SET lease_expires_at = created_at WHERE id = :id"),
                            {"id": one.id},
                        )
                        uow.tasks.reap(backoff=AT_ONCE)

    with ThreadPoolExecutor(9) as pool:
        for done in [pool.submit(produce), *(pool.submit(worker, number) for number in range(8))]:
            done.result(timeout=600)
    assert order == {key: list(range(count)) for key in keys}
