from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from _async.workflow_runs import (
    CANCELLED,
    PENDING,
    RUNNING,
    active,
    again,
    claimed,
    expire,
    next_claim,
    row,
    set_columns,
)
from sqlalchemy import func, text

from alfred_db import (
    AsyncDatabase,
    WorkflowExecutionStatus,
)
from alfred_db.errors import (
    InvalidInputError,
    LeaseLost,
)
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.workflows import AsyncWorkflowRepository


@pytest.fixture
def workflows(uow: AsyncUnitOfWork) -> AsyncWorkflowRepository:
    return AsyncWorkflowRepository(uow.session)


async def test_an_execution_is_claimed_run_and_completed(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, timeout_seconds=100, max_retries=5)
    found = await row(workflows, held.id)
    assert (found.status, found.worker_id, held.input, held.max_retries) == (RUNNING, "worker", {"n": 1}, 5)
    assert found.attempt_started_at is not None
    assert found.started_at == found.attempt_started_at
    assert held.lease_expires_at - found.attempt_started_at == timedelta(seconds=60)
    assert held.attempt_deadline_at is not None
    assert held.attempt_deadline_at - found.attempt_started_at == timedelta(seconds=100)
    assert await workflows.claim("w", [held.workflow_id]) == []
    for _ in range(2):
        await workflows.complete(held, ["done"])
    found = await row(workflows, held.id)
    assert (found.status, found.output_data) == (WorkflowExecutionStatus.COMPLETED, ["done"])
    assert found.completed_at is not None
    with pytest.raises(LeaseLost, match="lease lost"):
        await workflows.complete(held._replace(lease_token=uuid.uuid4()))
    with pytest.raises(LeaseLost):
        await workflows.fail(held, "late")
    with pytest.raises(LeaseLost):
        await workflows.complete(held._replace(id=0))


async def test_an_old_version_waits_for_a_worker_that_can_run_it(workflows: AsyncWorkflowRepository) -> None:
    old = await active(workflows)
    started, _ = await workflows.start("ingest")
    await workflows.start("ingest", delay=60)
    new = await active(workflows)
    await workflows.start("ingest")
    claims = await workflows.claim("w", [new.id], limit=10)
    assert [held.version for held in claims] == [2]
    assert await workflows.claim("w", [new.id], limit=10) == []
    (left,) = await workflows.waiting([new.id])
    assert (left.workflow_id, left.name, left.version, left.executions) == (old.id, "ingest", 1, 1)
    assert await workflows.waiting([new.id, old.id]) == []
    (held,) = await workflows.claim("w", [new.id, old.id, old.id], limit=10)
    assert held.id == started.id


async def test_the_longest_waiting_come_first_up_to_the_limit(workflows: AsyncWorkflowRepository) -> None:
    one, two = await active(workflows), await active(workflows, "other")
    started = [(await workflows.start("ingest"))[0].id for _ in range(5)]
    await workflows.start("other")
    assert [held.id for held in await workflows.claim("w", [one.id], limit=3)] == started[:3]
    assert len(await workflows.claim("w", [one.id, two.id], limit=2)) == 2
    assert len(await workflows.claim("w", [one.id, two.id], limit=5)) == 1


@pytest.mark.parametrize(("limit", "lease"), [(0, 60), (1001, 60), (1, 0), (1, 1e12)])
async def test_a_claim_has_a_sane_size(workflows: AsyncWorkflowRepository, limit: int, lease: float) -> None:
    with pytest.raises(InvalidInputError, match=r"limit: expected|lease: expected"):
        await workflows.claim("w", [1], limit=limit, lease=lease)
    with pytest.raises(InvalidInputError, match="workflow_ids: is empty"):
        await workflows.claim("w", [])


async def test_two_workers_claim_different_executions(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        workflows = AsyncWorkflowRepository(uow.session)
        workflow = await active(workflows)
        for _ in range(10):
            await workflows.start("ingest")
    async with committed.session() as a, committed.session() as b:
        first = await AsyncWorkflowRepository(a).claim("a", [workflow.id], limit=6)
        second = await AsyncWorkflowRepository(b).claim("b", [workflow.id], limit=6)
        assert (len(first), len(second)) == (6, 4)
        assert not {held.id for held in first} & {held.id for held in second}


async def test_a_heartbeat_extends_what_is_held(workflows: AsyncWorkflowRepository) -> None:
    workflow = await active(workflows)
    for _ in range(3):
        await workflows.start("ingest")
    held = await workflows.claim("w", [workflow.id], limit=3, lease=10)
    assert await workflows.complete(held[1]) is True
    assert await workflows.complete(held[1]) is False, "an earlier call did it"
    beat = await workflows.heartbeat_many([*reversed(held), held[0]._replace(id=0)], lease=100)
    assert [found.id for found in beat] == [held[2].id, held[0].id]
    assert all(found.lease_expires_at > held[0].lease_expires_at for found in beat)
    assert all(found.held_until > held[0].held_until for found in beat)
    assert [(found.lease, found.cancel_requested, found.is_over) for found in beat] == [
        (100, False, False)
    ] * 2
    assert await workflows.heartbeat_many([held[0]._replace(lease_token=uuid.uuid4())]) == []
    with pytest.raises(LeaseLost):
        await workflows.heartbeat(held[1])


async def test_heartbeats_stay_on_their_page(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        held = await claimed(AsyncWorkflowRepository(uow.session))
    for _ in range(20):
        async with committed.begin() as uow:
            assert await AsyncWorkflowRepository(uow.session).heartbeat(held)
            await uow.session.execute(text("SELECT pg_stat_force_next_flush()"))
    await committed.close()  # a session reports its statistics at its end at the latest
    name = "workflow_executions" if committed.schema is None else f"{committed.schema}.workflow_executions"
    statement = text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass(:name)"
    )
    async with committed.session() as session:
        written, hot = (await session.execute(statement, {"name": name})).one()
    assert written == 21, "the claim is one too"
    assert hot >= 16


async def test_a_failed_attempt_is_made_again_later(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, max_retries=2)
    before = datetime.now(UTC)
    for _ in range(2):
        assert await workflows.fail(held, "boom") is PENDING
    found = await row(workflows, held.id)
    assert (found.retry_count, found.error_message, found.error_code) == (1, "boom", "handler")
    assert before < found.available_at < datetime.now(UTC) + timedelta(seconds=3)
    await set_columns(workflows._session, held.id, available_at=func.now() + timedelta(minutes=1))
    assert await workflows.claim("w", [held.workflow_id]) == []
    await expire(workflows._session, held.id, "available_at")
    held = await next_claim(workflows, held)
    assert held.retry_count == 1
    assert await workflows.fail(held, "boom", delay=0, code="mine") is PENDING
    held = await next_claim(workflows, held)
    assert await workflows.fail(held, "boom") is WorkflowExecutionStatus.FAILED
    found = await row(workflows, held.id)
    assert found.failed_at is not None
    assert (found.retry_count, found.completed_at) == (2, None)


async def test_a_failure_can_be_final(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    status = await workflows.fail(held, "boom", retry=False)
    assert status is WorkflowExecutionStatus.FAILED
    with pytest.raises(InvalidInputError, match="delay: expected"):
        await workflows.fail(held, "boom", delay=-1)


async def test_the_back_off_grows_and_is_bounded(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, max_retries=1000)
    for retries, low, high in ((0, 0.8, 2), (3, 7, 10), (500, 260, 340)):
        await set_columns(workflows._session, held.id, retry_count=retries)
        before = datetime.now(UTC)
        await workflows.fail(held, "boom")
        available = (await row(workflows, held.id)).available_at
        assert (available - before).total_seconds() >= low
        assert (available - datetime.now(UTC)).total_seconds() < high
        await expire(workflows._session, held.id, "available_at")
        held = await next_claim(workflows, held)


async def test_what_kills_its_worker_each_time_ends_failed(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, max_retries=2)
    for _ in range(2):
        held = await again(workflows, held)
    await expire(workflows._session, held.id)
    assert await workflows.reap() == {held.id: WorkflowExecutionStatus.FAILED}
    found = await row(workflows, held.id)
    assert (found.error_code, found.crash_count, found.retry_count) == ("lease_lost", 3, 0)


async def test_a_timeout_ends_an_attempt_that_still_beats(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, timeout_seconds=10)
    await expire(workflows._session, held.id, "attempt_deadline_at")
    await workflows.heartbeat(held)
    assert await workflows.reap() == {held.id: PENDING}
    found = await row(workflows, held.id)
    assert (found.error_code, found.retry_count, found.crash_count) == ("timeout", 1, 0)
    assert await workflows.reap() == {}


async def test_what_is_released_can_be_claimed_at_once(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    before = await row(workflows, held.id)
    place = before.available_at
    for _ in range(2):  # to repeat it changes nothing
        assert await workflows.release(held) is PENDING
    assert (await row(workflows, held.id)).available_at == place
    held = await next_claim(workflows, held)
    assert (held.retry_count, held.crash_count, held.attempt) == (0, 0, 1)
    assert await workflows.release(held, delay=60) is PENDING
    assert await workflows.claim("w", [held.workflow_id]) == []
    await expire(workflows._session, held.id, "available_at")
    held = await next_claim(workflows, held)
    await workflows.cancel(held.id)
    assert await workflows.release(held) is CANCELLED
