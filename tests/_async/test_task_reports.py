"""The progress of tasks: who may report it, who sees it, and what it never waits for."""

from __future__ import annotations

import math
import uuid
from typing import Any

import pytest
from _async.held_tasks import ago, claimed, expire, reclaimed, set_columns
from sqlalchemy import func, select, text

from alfred_db import AsyncDatabase, Task, TaskProgress
from alfred_db.errors import InvalidInputError, LeaseLost
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.tasks import AsyncTaskRepository


@pytest.fixture
def tasks(uow: AsyncUnitOfWork) -> AsyncTaskRepository:
    return AsyncTaskRepository(uow.session)


async def reports(tasks: AsyncTaskRepository) -> int:
    return await tasks._session.scalar(select(func.count()).select_from(TaskProgress)) or 0


async def test_the_last_report_is_read(tasks: AsyncTaskRepository) -> None:
    held, silent = await claimed(tasks), await claimed(tasks)
    assert await tasks.get_progress(held.id) is None
    for fraction, note in ((0, None), (0.75, "three of four"), (0.5, "again"), (1, "")):
        await tasks.progress(held, fraction, note)
        found = await tasks.get_progress(held.id)
        assert found is not None
        assert (found.fraction, found.note, found.claim_seq) == (fraction, note, 1)
    assert set(await tasks.list_progress([held.id, silent.id, uuid.uuid4()])) == {held.id}
    assert await tasks.list_progress([]) == {}


async def test_a_report_does_not_write_to_the_task(tasks: AsyncTaskRepository) -> None:
    held = await claimed(tasks)
    row = select(Task.lease_expires_at, Task.updated_at, Task.claim_seq, text("tasks.ctid::text"))
    before = (await tasks._session.execute(row.where(Task.id == held.id))).one()
    for fraction in (0.1, 0.2):
        await tasks.progress(held, fraction)
    assert (await tasks._session.execute(row.where(Task.id == held.id))).one() == before


@pytest.mark.parametrize("way", ["reaped", "claimed again", "completed", "never held"])
async def test_only_the_holder_reports(tasks: AsyncTaskRepository, way: str) -> None:
    held = await claimed(tasks)
    stale = held
    if way in ("reaped", "claimed again"):
        await expire(tasks, held)
        await tasks.reap()
    if way == "claimed again":
        held = await reclaimed(tasks)
        await tasks.progress(held, 0.2, "second attempt")
    if way == "completed":
        await tasks.complete(held)
    if way == "never held":
        stale = held._replace(lease_token=uuid.uuid4())
    with pytest.raises(LeaseLost, match=f"task '?{held.task_id}"):
        await tasks.progress(stale, 0.9, "first attempt")
    assert await reports(tasks) == (way == "claimed again")


async def test_a_later_attempt_begins_anew(tasks: AsyncTaskRepository) -> None:
    first = await claimed(tasks)
    await tasks.progress(first, 0.9, "nearly")
    await expire(tasks, first)
    await tasks.reap()
    second = await reclaimed(tasks)
    assert await tasks.get_progress(second.id) is None
    await tasks.progress(second, 0.1, "anew")
    found = await tasks.get_progress(second.id)
    assert found is not None
    assert (found.fraction, found.note, found.claim_seq) == (0.1, "anew", 2)
    # A report of the first attempt whose statement began before the second claim was committed.
    await set_columns(tasks._session, second.id, lease_token=first.lease_token, claim_seq=1)
    with pytest.raises(LeaseLost):
        await tasks.progress(first, 0.95)


@pytest.mark.parametrize(
    ("fraction", "note"),
    [
        *[
            (wrong, None)
            for wrong in (-0.01, 1.01, math.nan, math.inf, -math.inf, True, "0.5", None, 10**400)
        ],
        *[(0.5, wrong) for wrong in ("a\0b", "\ud800", "x" * 2001, "\u00e4" * 1001, 7, b"half")],
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(
    tasks: AsyncTaskRepository, fraction: Any, note: Any
) -> None:
    held = await claimed(tasks)
    with pytest.raises(InvalidInputError, match=r"^(fraction|note): "):
        await tasks.progress(held, fraction, note)
    assert await reports(tasks) == 0
    await tasks.progress(held, 0.5, "x" * 2000)


@pytest.mark.parametrize("lock", ["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE"])
async def test_a_report_waits_for_no_lock_on_the_task(committed: AsyncDatabase, lock: str) -> None:
    async with committed.begin() as uow:
        held = await claimed(uow.tasks)
    for reported in (0.25, 0.5):  # the first report, and a later one
        async with committed.begin() as holder:
            await holder.session.execute(text(f"SELECT FROM {_name(committed)} {lock}"))
            async with committed.begin() as uow:
                await uow.session.execute(text("SET LOCAL statement_timeout = '20s'"))
                await uow.tasks.progress(held, reported)
            async with committed.begin() as uow:
                found = await uow.tasks.get_progress(held.id)
                assert found is not None
                assert found.fraction == reported


@pytest.mark.parametrize("way", ["purge", "DELETE"])
@pytest.mark.parametrize("locked", [False, True])
async def test_a_report_is_deleted_with_its_task(committed: AsyncDatabase, way: str, locked: bool) -> None:
    async with committed.begin() as uow:
        held, other = await claimed(uow.tasks), await claimed(uow.tasks)
        await uow.tasks.progress(other, 0.1)
    async with committed.begin() as holder:
        if locked:
            await holder.session.execute(text(f"SELECT FROM {_name(committed)} FOR UPDATE"))
        async with committed.begin() as uow:
            await uow.tasks.progress(held, 0.1)
    async with committed.begin() as uow:
        await uow.tasks.progress(held, 0.2)
        await uow.tasks.complete(held)
    async with committed.begin() as uow:
        if way == "purge":
            await set_columns(uow.session, held.id, completed_at=await ago(uow.session, 100))
            assert await uow.tasks.purge(older_than=50) == 1
        else:
            await uow.session.execute(text(f"DELETE FROM {_name(committed)} WHERE status = 'completed'"))
        assert await reports(uow.tasks) == 1


def _name(db: AsyncDatabase) -> str:
    return "tasks" if db.schema is None else f"{db.schema}.tasks"
