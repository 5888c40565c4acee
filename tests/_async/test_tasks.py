from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from _async.held_tasks import ago, claimed, failed, set_columns
from sqlalchemy import inspect

from alfred_db import AsyncDatabase, TaskStatus
from alfred_db.errors import ConflictError, InvalidInputError, InvalidTransition, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.tasks import AsyncTaskRepository
from alfred_db.values.tasks import NewTask

HOSTILE = "'; DROP TABLE tasks; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


@pytest.fixture
def tasks(uow: AsyncUnitOfWork) -> AsyncTaskRepository:
    return AsyncTaskRepository(uow.session)


# Filing


async def test_enqueueing_twice_returns_the_first_unchanged(tasks: AsyncTaskRepository) -> None:
    first, created = await tasks.enqueue("summarise", {"url": "u"}, task_id="t-1", priority=5)
    assert created
    second, created = await tasks.enqueue("other", {"url": "v"}, task_id="t-1", priority=1)
    assert not created
    assert second.id == first.id
    assert (second.intent, second.content, second.priority) == ("summarise", {"url": "u"}, 5)
    assert await tasks.count() == 1


async def test_a_task_has_what_it_was_enqueued_with(tasks: AsyncTaskRepository) -> None:
    parent, _ = await tasks.enqueue("whole")
    at = datetime(2050, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    task, _ = await tasks.enqueue(
        "part",
        {"a": [1, None, {"b": "ü"}]},
        priority=4,
        available_at=at,
        max_retries=0,
        timeout_seconds=7,
        assigned_to="agent",
        created_by="user",
        parent_task_id=parent.id,
        dedupe_key="k",
        metadata={"note": 1},
    )
    assert task.status is TaskStatus.PENDING
    assert (task.intent, task.content, task.priority) == ("part", {"a": [1, None, {"b": "ü"}]}, 4)
    assert (task.available_at, task.max_retries, task.timeout_seconds) == (at, 0, 7)
    assert (task.assigned_to, task.created_by, task.parent_task_id) == ("agent", "user", parent.id)
    assert (task.dedupe_key, task.metadata_) == ("k", {"note": 1})
    assert (task.retry_count, task.crash_count, task.claim_seq, task.lease_token) == (0, 0, 0, None)


async def test_defaults(tasks: AsyncTaskRepository) -> None:
    task, created = await tasks.enqueue("x")
    other, _ = await tasks.enqueue("x")
    assert created
    assert task.task_id == str(task.id)
    assert task.task_id != other.task_id
    assert (task.content, task.metadata_, task.priority) == ({}, {}, 1)
    assert (task.max_retries, task.timeout_seconds) == (3, 300)
    assert [task.id, other.id] == sorted([task.id, other.id])


async def test_an_enqueued_task_belongs_to_its_session(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        same, _ = await uow.tasks.enqueue("x")
        same.priority = 1  # as it is: there is nothing to flush
    async with committed.begin() as uow:
        changed, _ = await uow.tasks.enqueue("x")
        assert await uow.tasks.get(changed.id) is changed
        assert (changed in uow.session, inspect(changed).modified) == (True, False)
        changed.assigned_to = "me"
    async with committed.begin() as uow:
        found = [await uow.tasks.get(task.id) for task in (same, changed)]
    assert [task and task.assigned_to for task in found] == [None, "me"]
    assert [task and task.id for task in found] == [same.id, changed.id]


async def test_a_dedupe_key_is_taken_while_its_task_is_live(tasks: AsyncTaskRepository) -> None:
    first, _ = await tasks.enqueue("x", dedupe_key="k")
    assert await tasks.enqueue("y", dedupe_key="k") == (first, False)
    (held,) = await tasks.claim(worker="w")
    assert await tasks.enqueue("y", dedupe_key="k") == (first, False)
    await tasks.complete(held)
    second, created = await tasks.enqueue("y", dedupe_key="k")
    assert created
    assert second.id != first.id


async def test_the_task_id_counts_before_the_dedupe_key(tasks: AsyncTaskRepository) -> None:
    one, _ = await tasks.enqueue("x", task_id="one")
    other, _ = await tasks.enqueue("x", task_id="other", dedupe_key="k")
    assert await tasks.enqueue("x", task_id="one", dedupe_key="k") == (one, False)
    assert await tasks.enqueue("x", task_id="third", dedupe_key="k") == (other, False)


async def test_the_later_of_delay_and_time_counts(tasks: AsyncTaskRepository) -> None:
    session = tasks._session
    now = await ago(session, 0)
    delayed, _ = await tasks.enqueue("x", delay=100, available_at=now)
    assert timedelta(seconds=100) <= delayed.available_at - now < timedelta(seconds=110)
    later, _ = await tasks.enqueue("x", delay=1, available_at=now + timedelta(seconds=50))
    assert later.available_at == now + timedelta(seconds=50)
    past, _ = await tasks.enqueue("x", available_at=now - timedelta(days=1))
    assert past.available_at >= now


BAD: dict[str, dict[str, Any]] = {
    "intent: expected 1 to": {"intent": ""},
    "intent: holds a NUL": {"intent": "a\0b"},
    "intent: expected text": {"intent": 7},
    "intent: expected text without lone surrogates": {"intent": "\ud800"},
    "task_id: expected 1 to 2,000 bytes, got 2,001": {"task_id": "x" * 2001},
    "task_id: holds a NUL": {"task_id": "\0"},
    "dedupe_key: expected 1 to 2,000": {"dedupe_key": ""},
    "assigned_to: holds a NUL": {"assigned_to": "\0"},
    "created_by: holds a NUL": {"created_by": "\0"},
    "priority: expected 1 to 5, got 0": {"priority": 0},
    "priority: expected 1 to 5, got 6": {"priority": 6},
    "priority: expected a whole number": {"priority": 1.5},
    "max_retries: expected 0 to": {"max_retries": -1},
    "timeout_seconds: expected 1 to": {"timeout_seconds": 0},
    "delay: expected 0 to": {"delay": -1},
    "delay: expected 0 to ": {"delay": float("nan")},
    "available_at: a time without time zone": {"available_at": datetime(2030, 1, 1)},
    "available_at: expected a datetime": {"available_at": "tomorrow"},
    "parent_task_id: expected the `id` of a task": {"parent_task_id": "t-1"},
    "content: expected a mapping": {"content": [1]},
    "metadata: expected a mapping": {"metadata": "x"},
}


@pytest.mark.parametrize("says", BAD)
async def test_bad_input_is_one_clear_error(tasks: AsyncTaskRepository, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says.strip()):
        await tasks.enqueue(**{"intent": "x", **BAD[says]})
    for size in (1, 1001):
        with pytest.raises(InvalidInputError, match=says.strip()):
            await tasks.enqueue_many([NewTask(intent="x")] * size + [{"intent": "x", **BAD[says]}])  # type: ignore[typeddict-item]
    assert await tasks.count() == 0


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}], ids=["object", "nan", "set"])
@pytest.mark.parametrize("name", ["content", "metadata"])
async def test_what_is_no_json_is_refused(tasks: AsyncTaskRepository, name: str, value: object) -> None:
    bad: Any = {"intent": "x", name: {"a": value}}
    with pytest.raises(InvalidInputError, match=name):
        await tasks.enqueue(**bad)
    for size in (1, 1001):
        with pytest.raises(InvalidInputError, match=name):
            await tasks.enqueue_many([NewTask(intent="x")] * size + [bad])
    assert await tasks.count() == 0


async def test_an_unknown_key_is_named(tasks: AsyncTaskRepository) -> None:
    bad: Any = {"intent": "x", "prio": 5}
    with pytest.raises(
        InvalidInputError, match="task: 'prio': no such key; expected some of intent, task_id"
    ):
        await tasks.enqueue_many([bad])
    missing: Any = {"priority": 5}
    with pytest.raises(InvalidInputError, match="intent: expected 1 to"):
        await tasks.enqueue_many([missing])


async def test_an_unknown_parent_is_refused(tasks: AsyncTaskRepository) -> None:
    for size in (1, 1001):
        unknown: list[NewTask] = [{"intent": "x", "parent_task_id": uuid.uuid4()}] * size
        with pytest.raises(ConflictError, match="fk_tasks_parent_task_id"):
            async with tasks._session.begin_nested():
                await tasks.enqueue_many(unknown)
    assert await tasks.count() == 0


async def test_hostile_text_is_stored_unchanged(tasks: AsyncTaskRepository) -> None:
    large = "x" * 1_000_000 + HOSTILE
    task, _ = await tasks.enqueue(
        HOSTILE,
        {HOSTILE: large},
        task_id=HOSTILE,
        dedupe_key=HOSTILE,
        assigned_to=HOSTILE,
        metadata={"a": HOSTILE},
    )
    (held,) = await tasks.claim(worker=HOSTILE, intents=[HOSTILE], assigned_to=HOSTILE)
    assert (held.id, held.task_id, held.intent, held.content) == (task.id, HOSTILE, HOSTILE, {HOSTILE: large})
    assert held.metadata == {"a": HOSTILE}
    assert await tasks.fail(held, large, code=HOSTILE) is TaskStatus.PENDING
    found = await tasks.get_by_task_id(HOSTILE)
    assert found is not None
    assert (found.error_message, found.error_code, found.worker_id) == (large, HOSTILE, HOSTILE)


SIZES = pytest.mark.parametrize("size", [10, 1200], ids=["insert", "copy"])


@SIZES
async def test_many_are_enqueued_once_each(tasks: AsyncTaskRepository, size: int) -> None:
    standing, _ = await tasks.enqueue("x", task_id="n-3")
    keyed, _ = await tasks.enqueue("x", dedupe_key="k-4")
    many: list[NewTask] = [{"intent": "x", "task_id": f"n-{number}"} for number in range(size)]
    many[4]["dedupe_key"] = "k-4"
    many[7]["task_id"] = "n-5"  # a repeat
    many[8]["dedupe_key"] = many[6]["dedupe_key"] = "k-6"
    enqueued = await tasks.enqueue_many(many)
    assert len(enqueued) == size
    assert [number for number, (_, created) in enumerate(enqueued) if not created] == [3, 4, 7, 8]
    assert enqueued[3][0] == standing.id
    assert enqueued[4][0] == keyed.id
    assert (enqueued[7][0], enqueued[8][0]) == (enqueued[5][0], enqueued[6][0])
    assert await tasks.count() == size + 2 - 4
    again = await tasks.enqueue_many(many)
    assert again == [(id, False) for id, _ in enqueued]
    assert await tasks.count() == size + 2 - 4


@SIZES
async def test_many_are_claimed_in_their_order(tasks: AsyncTaskRepository, size: int) -> None:
    enqueued = await tasks.enqueue_many([{"intent": "x", "content": {"n": n}} for n in range(size)])
    assert all(created for _, created in enqueued)
    held = await tasks.claim(worker="w", limit=10)
    assert [task.content["n"] for task in held] == list(range(10))
    assert [task.id for task in held] == [id for id, _ in enqueued[:10]]


@SIZES
async def test_many_have_what_they_were_enqueued_with(tasks: AsyncTaskRepository, size: int) -> None:
    now = await ago(tasks._session, 0)
    at = datetime(2050, 1, 1, tzinfo=UTC)
    many: list[NewTask] = [{"intent": "x"} for _ in range(size - 3)]
    many += [
        {"intent": HOSTILE, "content": {"a": HOSTILE}, "metadata": {"b": 1}, "priority": 3, "delay": 100},
        {"intent": "x", "available_at": at, "max_retries": 0, "timeout_seconds": 7, "created_by": "u"},
        {"intent": "x", "available_at": None, "assigned_to": "a", "dedupe_key": "k", "task_id": None},
    ]
    enqueued = await tasks.enqueue_many(many)
    first, delayed, late, last = [await tasks.get(enqueued[place][0]) for place in (0, -3, -2, -1)]
    assert first is not None
    assert (first.content, first.metadata_, first.priority, first.max_retries) == ({}, {}, 1, 3)
    assert now <= first.available_at <= await ago(tasks._session, 0)
    assert delayed is not None
    assert (delayed.intent, delayed.content, delayed.metadata_) == (HOSTILE, {"a": HOSTILE}, {"b": 1})
    assert delayed.priority == 3
    assert timedelta(seconds=100) <= delayed.available_at - now < timedelta(seconds=130)
    assert late is not None
    assert (late.available_at, late.max_retries, late.timeout_seconds, late.created_by) == (at, 0, 7, "u")
    assert last is not None
    assert (last.assigned_to, last.dedupe_key) == ("a", "k")
    assert last.task_id == str(last.id)


async def test_none_of_none(tasks: AsyncTaskRepository) -> None:
    assert await tasks.enqueue_many([]) == []


@pytest.mark.parametrize("named", [False, True])
async def test_a_refused_copy_names_the_task_and_leaves_the_transaction(
    tasks: AsyncTaskRepository, named: bool
) -> None:
    await tasks.enqueue("x", task_id="before")
    many: list[NewTask] = [{"intent": "x", "content": {"n": n}} for n in range(1500)]
    many.append({"intent": "x", "content": {"a": "\0" if not named else float("nan")}})
    if named:
        many[0]["task_id"] = "zzz"
    with pytest.raises(InvalidInputError, match=r"(row|task) 1500: .*content"):
        await tasks.enqueue_many(many)
    assert await tasks.count() == 1


async def test_a_rollback_enqueues_nothing(committed: AsyncDatabase) -> None:
    async with committed.session() as session:
        await AsyncTaskRepository(session).enqueue("x", task_id="t")
        await AsyncTaskRepository(session).enqueue_many([{"intent": "x"}] * 1001)
        await session.rollback()
    async with committed.begin() as uow:
        assert await AsyncTaskRepository(uow.session).count() == 0
        assert (await AsyncTaskRepository(uow.session).enqueue("x", task_id="t"))[1]


async def test_the_tenant_is_the_only_one_that_changes(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        tasks = AsyncTaskRepository(uow.session)
        await tasks.enqueue("x")
        await tasks.enqueue_many([{"intent": "x"}] * 1001)
    other = AsyncDatabase(committed.url, schema="acme" if committed.schema is None else None)
    async with other, other.begin() as uow:
        tasks = AsyncTaskRepository(uow.session)
        assert await tasks.claim(worker="w", limit=500) == []
        assert await tasks.reap() == {}
        assert await tasks.count() == 0


# Finding


async def test_tasks_are_found_by_either_key(tasks: AsyncTaskRepository) -> None:
    task, _ = await tasks.enqueue("x", task_id="t")
    assert await tasks.get(task.id) is task
    assert await tasks.get_by_task_id("t") is task
    assert await tasks.get(uuid.uuid4()) is None
    assert await tasks.get_by_task_id("u") is None


async def test_listing_filters_and_counts(tasks: AsyncTaskRepository) -> None:
    session = tasks._session
    parent, _ = await tasks.enqueue("whole", task_id="p", priority=5)
    await tasks.claim(worker="w")
    old, _ = await tasks.enqueue("part", task_id="old", parent_task_id=parent.id, assigned_to="a")
    await tasks.enqueue("part", task_id="new", parent_task_id=parent.id)
    day = datetime(2020, 1, 1, tzinfo=UTC)
    await set_columns(session, old.id, created_at=day)
    filters: dict[str, dict[str, Any]] = {
        "new old p": {},
        "p": {"status": TaskStatus.PROCESSING},
        "new old": {"status": TaskStatus.PENDING},
        "": {"status": TaskStatus.FAILED},
        "new old ": {"intent": "part"},
        "old": {"assigned_to": "a"},
        "new old  ": {"parent": parent.id},
        "old ": {"created_after": day, "created_before": day + timedelta(seconds=1)},
        " ": {"created_before": day},
        "new p": {"created_after": day + timedelta(seconds=1)},
        "new": {"created_after": day + timedelta(seconds=1), "intent": "part", "status": TaskStatus.PENDING},
    }
    for expected, given in filters.items():
        assert [task.task_id for task in await tasks.list(**given)] == expected.split(), given
        assert await tasks.count(**given) == len(expected.split()), given
    assert [task.task_id for task in await tasks.children(parent.id)] == ["new", "old"]
    assert len(await tasks.children(old.id)) == 0


async def test_pages_cover_everything_once(tasks: AsyncTaskRepository) -> None:
    await tasks.enqueue_many([{"intent": "x", "task_id": f"t-{number}"} for number in range(7)])
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await tasks.list(intent="x", after=after, limit=3)
        seen += [task.task_id for task in page]
        after = page.next
        if after is None:
            break
    assert sorted(seen) == [f"t-{number}" for number in range(7)]
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
        await tasks.list(limit=0)
    with pytest.raises(InvalidInputError, match="is not a cursor"):
        await tasks.list(after="x")
    with pytest.raises(InvalidInputError, match="TaskStatus: expected one of pending, processing"):
        await tasks.list(status="asleep")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="created_after: a time without time zone"):
        await tasks.count(created_after=datetime(2030, 1, 1))


# Cancelling


async def test_what_waits_is_cancelled_at_once(tasks: AsyncTaskRepository) -> None:
    task, _ = await tasks.enqueue("x", dedupe_key="k")
    assert await tasks.cancel(task.id) == {task.id: TaskStatus.CANCELLED}
    found = await tasks.get(task.id)
    assert found is not None
    assert found.status is TaskStatus.CANCELLED
    assert found.cancelled_at is not None
    assert await tasks.claim(worker="w") == []
    assert await tasks.cancel(task.id) == {}
    assert (await tasks.enqueue("x", dedupe_key="k"))[1]


async def test_the_holder_is_asked_and_may_still_complete(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    assert not (await tasks.heartbeat(held)).cancel_requested
    assert await tasks.cancel(held.id) == {held.id: TaskStatus.PROCESSING}
    asked = await tasks.get(held.id)
    assert asked is not None
    first = asked.cancel_requested_at
    assert first is not None
    assert (await tasks.heartbeat(held)).cancel_requested
    assert await tasks.cancel(held.id) == {held.id: TaskStatus.PROCESSING}
    await tasks.complete(held)
    done = await tasks.get(held.id)
    assert done is not None
    assert (done.status, done.cancel_requested_at, done.cancelled_at) == (TaskStatus.COMPLETED, first, None)
    with pytest.raises(InvalidTransition, match="is completed and cannot be cancelled"):
        await tasks.cancel(held.id)


@pytest.mark.parametrize("how", ["fail", "release", "reap"])
async def test_a_cancelled_attempt_never_comes_back(tasks: AsyncTaskRepository, how: str) -> None:
    held = await claimed(tasks)
    await tasks.cancel(held.id)
    if how == "fail":
        assert await tasks.fail(held, "stopped") is TaskStatus.CANCELLED
        assert await tasks.fail(held, "stopped") is TaskStatus.CANCELLED
    elif how == "release":
        assert await tasks.release(held) is TaskStatus.CANCELLED
    else:
        past = await ago(tasks._session, 1)
        await set_columns(tasks._session, held.id, lease_expires_at=past)
        assert await tasks.reap() == {held.id: TaskStatus.CANCELLED}
    found = await tasks.get(held.id)
    assert found is not None
    assert (found.status, found.failed_at, found.lease_expires_at) == (TaskStatus.CANCELLED, None, None)
    assert found.cancelled_at is not None
    assert await tasks.claim(worker="w") == []


async def test_parts_are_cancelled_with_the_whole(tasks: AsyncTaskRepository) -> None:
    root, _ = await tasks.enqueue("root")
    done = await claimed(tasks, parent_task_id=root.id)
    await tasks.complete(done)
    running = await claimed(tasks, parent_task_id=root.id)
    leaf, _ = await tasks.enqueue("leaf", parent_task_id=running.id)
    stranger, _ = await tasks.enqueue("stranger")
    assert await tasks.cancel(root.id) == {
        root.id: TaskStatus.CANCELLED,
        running.id: TaskStatus.PROCESSING,
        leaf.id: TaskStatus.CANCELLED,
    }
    await tasks._session.refresh(stranger)
    assert stranger.status is TaskStatus.PENDING


async def test_the_whole_is_cancelled_without_its_parts(tasks: AsyncTaskRepository) -> None:
    root, _ = await tasks.enqueue("root")
    leaf, _ = await tasks.enqueue("leaf", parent_task_id=root.id)
    assert await tasks.cancel(root.id, children=False) == {root.id: TaskStatus.CANCELLED}
    assert await tasks.cancel(root.id) == {leaf.id: TaskStatus.CANCELLED}


async def test_only_what_exists_is_cancelled(tasks: AsyncTaskRepository) -> None:
    with pytest.raises(NotFoundError, match="not found"):
        await tasks.cancel(uuid.uuid4())
    with pytest.raises(InvalidTransition, match="is failed and cannot be cancelled"):
        await tasks.cancel(await failed(tasks))


# Dead letters


async def test_a_dead_letter_starts_anew(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks, max_retries=1)
    await tasks.fail(held, "first", delay=0)
    (held,) = await tasks.claim(worker="w")
    assert await tasks.fail(held, "second", code="E2") is TaskStatus.FAILED
    task = await tasks.requeue(held.id)
    assert task.status is TaskStatus.PENDING
    assert (task.retry_count, task.crash_count, task.failed_at, task.lease_token) == (0, 0, None, None)
    assert (task.error_message, task.error_code, task.claim_seq) == ("second", "E2", 2)
    (again,) = await tasks.claim(worker="v")
    assert again.lease_token != held.lease_token
    assert again.attempt == 1


async def test_a_cancelled_task_starts_anew(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    await tasks.cancel(held.id)
    await tasks.fail(held, "stopped")
    task = await tasks.requeue(held.id)
    assert (task.status, task.cancelled_at, task.cancel_requested_at) == (TaskStatus.PENDING, None, None)
    with pytest.raises(InvalidTransition, match="is pending; only failed and cancelled"):
        await tasks.requeue(held.id)
    with pytest.raises(NotFoundError, match="not found"):
        await tasks.requeue(uuid.uuid4())


async def test_a_dead_letter_beside_a_live_task_of_its_key_is_refused(tasks: AsyncTaskRepository) -> None:
    dead = await failed(tasks, dedupe_key="k")
    await tasks.enqueue("x", dedupe_key="k")
    with pytest.raises(ConflictError, match="uq_tasks_dedupe_key"):
        await tasks.requeue(dead)


async def test_many_dead_letters_start_anew(tasks: AsyncTaskRepository) -> None:
    first, second = await failed(tasks, dedupe_key="k"), await failed(tasks, dedupe_key="k")
    blocked = await failed(tasks, dedupe_key="live")
    await tasks.enqueue("x", dedupe_key="live")
    plain = await failed(tasks)
    for place, id in enumerate((first, second, blocked, plain)):
        await set_columns(tasks._session, id, failed_at=await ago(tasks._session, 100 - place))
    assert set(await tasks.requeue_failed()) == {first, plain}
    assert await tasks.requeue_failed() == []
    assert await tasks.count(status=TaskStatus.FAILED) == 2


async def test_dead_letters_start_anew_in_batches_by_intent(tasks: AsyncTaskRepository) -> None:
    ids = [await failed(tasks) for _ in range(3)]
    for place, id in enumerate(ids):
        await set_columns(
            tasks._session, id, failed_at=await ago(tasks._session, 100 - place), intent=f"i-{place}"
        )
    assert await tasks.requeue_failed(limit=1) == ids[:1]
    assert await tasks.requeue_failed(intent="i-2") == ids[2:]
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 10,000"):
        await tasks.requeue_failed(limit=0)
