from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from _async.workflow_runs import DEFINITION, PENDING, RUNNING, again, claimed, expire, next_claim, row

from alfred_db import (
    AsyncDatabase,
    WorkflowExecutionStatus,
)
from alfred_db.errors import (
    ConflictError,
    InvalidInputError,
    InvalidTransition,
    LeaseLost,
    NotFoundError,
)
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.workflows import AsyncWorkflowRepository
from alfred_db.values.workflows import ClaimedWorkflow, WorkflowWaitResult


@pytest.fixture
def workflows(uow: AsyncUnitOfWork) -> AsyncWorkflowRepository:
    return AsyncWorkflowRepository(uow.session)


async def test_a_checkpoint_is_stored_once(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    assert await workflows.checkpoint(held, "fetch", {"rows": (1, 2)}, seq=0) == {"rows": [1, 2]}
    assert await workflows.checkpoint(held, "fetch", {"rows": [9]}, seq=0) == {"rows": [1, 2]}
    assert await workflows.checkpoint(held, "empty", seq=1) is None
    began = datetime.now(UTC)
    assert await workflows.checkpoint(held, "bad", seq=2, error="no", attempt=3, started_at=began) is None
    fetch, empty, bad = await workflows.steps(held.id)
    assert (fetch.step_key, fetch.seq, fetch.name, fetch.attempt) == ("fetch", 0, "fetch", 1)
    assert (fetch.output, fetch.error, fetch.lease_token) == ({"rows": [1, 2]}, None, held.lease_token)
    assert (empty.output, bad.error, bad.attempt, bad.started_at) == (None, "no", 3, began)


async def test_a_checkpoint_keeps_the_lease(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    first = held.lease_expires_at
    for seq, (lease, least) in enumerate([(66, 0), (67, 6), (67, 6), (1000, 900), (60, 900)]):
        await workflows.checkpoint(held, f"s{seq}", seq=seq, lease=lease)
        found = (await row(workflows, held.id)).lease_expires_at
        assert found is not None
        assert timedelta(seconds=least) <= found - first < timedelta(seconds=least + 60)
        assert (found == first) == (least == 0), "not written while nine tenths are left"


async def test_a_run_that_gets_further_has_all_its_retries_again(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.checkpoint(held, "fetch", seq=0)
    held = await again(workflows, held)
    await workflows.fail(held, "boom", delay=0)
    held = await next_claim(workflows, held)
    await workflows.checkpoint(held, "fetch", seq=0)
    found = await row(workflows, held.id)
    assert (found.crash_count, found.retry_count) == (1, 1), "that step was there"
    await workflows.checkpoint(held, "sum", seq=1)
    found = await row(workflows, held.id)
    assert (found.crash_count, found.retry_count, found.current_step) == (0, 0, 2)


@pytest.mark.parametrize("write", ["heartbeat", "wait", "sleep", "release", "fail", "reap", "complete"])
async def test_every_other_write_reports_how_far_it_is(
    workflows: AsyncWorkflowRepository, write: str
) -> None:
    held = await claimed(workflows)
    for seq in range(2):
        await workflows.checkpoint(held, f"s{seq}", seq=seq)
    reached = 2
    match write:
        case "heartbeat":
            await workflows.heartbeat(held)
        case "wait":
            await workflows.wait_for(held, "paid", step_key="wait", seq=2)
        case "sleep":
            await workflows.sleep_until(held, datetime.now(UTC), step_key="nap", seq=2)
            reached = 3
        case "release":
            await workflows.release(held)
        case "fail":
            await workflows.fail(held, "boom")
        case "reap":
            await expire(workflows._session, held.id)
            await workflows.reap()
        case _:
            await workflows.complete(held)
    assert (await row(workflows, held.id)).current_step == reached


async def test_a_finished_step_is_replayed(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    assert await workflows.replay(held, "fetch", seq=0) is None
    await workflows.checkpoint(held, "fetch", 5, seq=0, name="Fetch")
    held = await again(workflows, held)
    step = await workflows.replay(held, "fetch", seq=0, name="Fetch")
    assert step is not None
    assert step.output == 5
    assert await workflows.checkpoint(held, "fetch", 6, seq=0, name="Fetch") == 5
    assert await workflows.replay(held, "sum", seq=1) is None


async def run(workflows: AsyncWorkflowRepository, held: ClaimedWorkflow, ran: list[str], until: int) -> None:
    """Run the steps of the definition, and stop before the checkpoint of the one numbered `until`."""
    for seq, step in enumerate(DEFINITION["steps"]):
        if await workflows.replay(held, step, seq=seq) is not None:
            continue
        ran.append(step)
        if seq == until:
            return
        await workflows.checkpoint(held, step, f"{step} done", seq=seq)
    await workflows.complete(held, "all done")


async def test_after_a_crash_at_any_boundary_no_finished_step_runs_again(
    workflows: AsyncWorkflowRepository,
) -> None:
    held = await claimed(workflows)
    ran: list[str] = []
    for boundary in range(len(DEFINITION["steps"])):
        await run(workflows, held, ran, until=boundary)
        held = await again(workflows, held)
        assert held.current_step == boundary
    await run(workflows, held, ran, until=-1)
    assert ran == ["fetch", "fetch", "sum", "sum", "report", "report"]
    assert [step.output for step in await workflows.steps(held.id)] == [
        "fetch done",
        "sum done",
        "report done",
    ]
    assert (await row(workflows, held.id)).status is WorkflowExecutionStatus.COMPLETED


async def test_a_crash_after_each_of_many_steps_uses_no_retries_up(
    workflows: AsyncWorkflowRepository,
) -> None:
    held = await claimed(workflows, max_retries=1)
    for seq in range(10):
        await workflows.checkpoint(held, f"s{seq}", seq=seq)
        held = await again(workflows, held)
        assert held.crash_count == 1
        for done in range(seq + 1):
            await workflows.checkpoint(held, f"s{done}", seq=done)
    assert (await row(workflows, held.id)).crash_count == 1


@pytest.mark.parametrize(
    ("key", "seq", "name"),
    [("refund", 0, "refund"), ("charge", 1, "charge"), ("charge", 0, "Refund"), ("ship", 0, "ship")],
    ids=["renamed", "moved", "another name", "reordered"],
)
async def test_a_step_that_was_another_one_is_an_error(
    workflows: AsyncWorkflowRepository, key: str, seq: int, name: str
) -> None:
    held = await claimed(workflows)
    await workflows.checkpoint(held, "charge", 1, seq=0)
    await workflows.checkpoint(held, "ship", 2, seq=1)
    held = await again(workflows, held)
    with pytest.raises(ConflictError, match=r"step \d was '(charge|ship)' .* fork it to a new version"):
        await workflows.replay(held, key, seq=seq, name=name)
    with pytest.raises(ConflictError, match=r"step \d was"):
        await workflows.checkpoint(held, key, 3, seq=seq, name=name)
    with pytest.raises(ConflictError, match=r"step \d was"):
        await workflows.wait_for(held, "e", step_key=f"{key}!", seq=seq)
    with pytest.raises(ConflictError, match=r"step \d was"):
        await workflows.sleep_until(held, datetime.now(UTC), step_key=f"{key}!", seq=seq)
    assert [step.output for step in await workflows.steps(held.id)] == [1, 2]


@pytest.mark.parametrize("output", ["text", None, {"received": True}], ids=["text", "none", "part"])
async def test_a_wait_instead_of_another_step_is_an_error(
    workflows: AsyncWorkflowRepository, output: Any
) -> None:
    held = await claimed(workflows)
    await workflows.checkpoint(held, "approval", output, seq=0)
    held = await again(workflows, held)
    with pytest.raises(ConflictError, match="step 'approval' was not a wait for an event"):
        await workflows.wait_for(held, "approval", step_key="approval", seq=0)


async def test_a_runner_that_lost_its_lease_is_refused(workflows: AsyncWorkflowRepository) -> None:
    first = await claimed(workflows)
    await workflows.checkpoint(first, "fetch", "first", seq=0)
    second = await again(workflows, first)
    await workflows.checkpoint(second, "sum", "second", seq=1)
    for step, seq in (("sum", 1), ("report", 2)):
        with pytest.raises(LeaseLost, match=f"workflow execution {first.id}: lease lost"):
            await workflows.checkpoint(first, step, "second", seq=seq)
        with pytest.raises(LeaseLost):
            await workflows.sleep_until(first, datetime.now(UTC), step_key=step, seq=seq)
        with pytest.raises(LeaseLost):
            await workflows.wait_for(first, "e", step_key=step, seq=seq)
    for step, seq in (("fetch", 0), ("sum", 1), ("report", 2)):
        with pytest.raises(LeaseLost):
            await workflows.replay(first, step, seq=seq)
    with pytest.raises(LeaseLost):
        await workflows.complete(first, "stale")
    with pytest.raises(LeaseLost):
        await workflows.fail(first, "stale")
    with pytest.raises(LeaseLost):
        await workflows.release(first)
    assert await workflows.heartbeat_many([first]) == []
    assert await workflows.checkpoint(first, "fetch", "first", seq=0) == "first"  # it wrote that one itself
    assert [step.output for step in await workflows.steps(first.id)] == ["first", "second"]
    with pytest.raises(LeaseLost):
        await workflows.checkpoint(first._replace(id=0), "a", seq=0)


async def test_of_two_runners_at_once_the_one_with_the_lease_writes(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        first = await claimed(AsyncWorkflowRepository(uow.session))
    async with committed.begin() as uow:
        second = await again(AsyncWorkflowRepository(uow.session), first)
    async with committed.session() as a, committed.session() as b:
        stale, fresh = AsyncWorkflowRepository(a), AsyncWorkflowRepository(b)
        assert await fresh.checkpoint(second, "fetch", "b", seq=0) == "b"
        with pytest.raises(LeaseLost):
            await stale.checkpoint(first, "fetch", "a", seq=0)
        await b.commit()
        with pytest.raises(LeaseLost):
            await stale.checkpoint(first, "fetch", "a", seq=0)
    async with committed.begin() as uow:
        steps = await AsyncWorkflowRepository(uow.session).steps(first.id)
        assert [step.output for step in steps] == ["b"]


async def test_a_step_and_its_effects_are_one_transaction(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        held = await claimed(AsyncWorkflowRepository(uow.session))
    async with committed.session() as session:
        workflows = AsyncWorkflowRepository(session)
        await workflows.define("effect", {})
        await workflows.checkpoint(held, "fetch", 1, seq=0)
        await session.rollback()
    async with committed.begin() as uow:
        workflows = AsyncWorkflowRepository(uow.session)
        assert len(await workflows.steps(held.id)) == 0
        assert await workflows.versions("effect") == []


@pytest.mark.parametrize(("seq", "attempt"), [(-1, 1), (2**31, 1), (0, 0)])
async def test_the_number_of_a_step_is_checked(
    workflows: AsyncWorkflowRepository, seq: int, attempt: int
) -> None:
    held = await claimed(workflows)
    with pytest.raises(InvalidInputError, match=r"(seq|attempt): expected"):
        await workflows.checkpoint(held, "a", seq=seq, attempt=attempt)


async def test_a_key_that_no_index_can_hold_is_refused(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    long = uuid.uuid4().hex + "".join(chr(0x4E00 + number % 20_000) for number in range(20_000))
    with pytest.raises(InvalidInputError):
        await workflows.checkpoint(held, long, seq=0)


async def test_an_execution_sleeps_until_its_time(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    until = datetime.now(UTC) + timedelta(hours=1)
    for _ in range(2):
        assert await workflows.sleep_until(held, until, step_key="nap", seq=0) is True
    found = await row(workflows, held.id)
    assert (found.status, found.available_at, found.lease_expires_at) == (PENDING, until, None)
    with pytest.raises(LeaseLost):
        await workflows.checkpoint(held, "a", seq=1)
    assert await workflows.claim("w", [held.workflow_id]) == []
    await expire(workflows._session, held.id, "available_at")
    held = await next_claim(workflows, held)
    slept = await workflows.sleep_until(held, until, step_key="nap", seq=0)
    assert slept is False
    (step,) = await workflows.steps(held.id)
    assert (step.output, held.current_step) == (until.isoformat(), 1)
    with pytest.raises(InvalidInputError, match="until: a time without time zone"):
        await workflows.sleep_until(held, datetime(2030, 1, 1), step_key="nap", seq=1)


async def test_an_event_that_came_before_the_wait_counts(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    assert await workflows.deliver(held.id, "paid", 1) is True
    assert await workflows.deliver(held.id, "paid", 2) is False
    for _ in range(2):
        result = await workflows.wait_for(held, "paid", step_key="wait", seq=0, timeout=60)
        assert result == WorkflowWaitResult(received=True, payload=1)
    assert (await row(workflows, held.id)).status is RUNNING


async def test_an_event_ends_the_wait(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    for _ in range(2):
        assert await workflows.wait_for(held, "paid", step_key="wait", seq=0) is None
    found = await row(workflows, held.id)
    assert (found.status, found.waiting_for, found.wait_deadline_at) == (PENDING, "paid", None)
    assert await workflows.claim("w", [held.workflow_id]) == []
    assert await workflows.deliver(held.id, "other") is True
    assert await workflows.claim("w", [held.workflow_id]) == []
    assert await workflows.deliver(held.id, "paid", {"amount": 5}) is True
    assert await workflows.deliver(held.id, "paid", {"amount": 6}) is False
    held = await next_claim(workflows, held)
    for _ in range(2):
        result = await workflows.wait_for(held, "paid", step_key="wait", seq=0)
        assert result == WorkflowWaitResult(received=True, payload={"amount": 5})
    assert [event.name for event in await workflows.events(held.id)] == ["other", "paid"]


async def test_a_wait_ends_when_its_time_is_up(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    wait = {"step_key": "wait", "seq": 0, "timeout": 60.0}

    async def wait_again(held: ClaimedWorkflow) -> WorkflowWaitResult | None:
        return await workflows.wait_for(held, "paid", **wait)  # type: ignore[arg-type]

    assert await wait_again(held) is None
    deadline = (await row(workflows, held.id)).wait_deadline_at
    assert deadline is not None
    assert (await row(workflows, held.id)).available_at == deadline
    await expire(workflows._session, held.id, "available_at")
    held = await next_claim(workflows, held)
    assert await wait_again(held) is None  # woken too early: it waits on, until the same time
    assert (await row(workflows, held.id)).wait_deadline_at == deadline
    await expire(workflows._session, held.id, "available_at")
    await expire(workflows._session, held.id, "wait_deadline_at")
    held = await again(workflows, await next_claim(workflows, held))
    assert await wait_again(held) == WorkflowWaitResult(received=False, payload=None)
    assert await workflows.deliver(held.id, "paid", 1) is True
    assert await wait_again(held) == WorkflowWaitResult(received=False, payload=None)
    held = await again(workflows, held)
    assert await wait_again(held) == WorkflowWaitResult(received=False, payload=None)
    assert (await row(workflows, held.id)).wait_deadline_at is None


async def test_what_has_ended_takes_no_more_events(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.deliver(held.id, "paid", 1)
    await workflows.complete(held)
    assert await workflows.deliver(held.id, "paid", 1) is False
    with pytest.raises(InvalidTransition, match="is completed and takes no more events"):
        await workflows.deliver(held.id, "other")
    with pytest.raises(NotFoundError, match="workflow execution 0"):
        await workflows.deliver(0, "paid")
