"""Durable functions that wait for others: for children, and for events."""

from __future__ import annotations

import pytest
from _async.durable_runs import claim, execution, run, run_all, started, steps, vanish

from alfred_db import (
    AsyncDatabase,
    AsyncWorkflowContext,
    WorkflowChildFailed,
    WorkflowRun,
    workflow,
)
from alfred_db.errors import InvalidInputError, InvalidTransition


@workflow("part")
async def part(ctx: AsyncWorkflowContext, n: int) -> int:
    async def double() -> int:
        if n < 0:
            raise ValueError("negative")
        return 2 * n

    return await ctx.step(double)


async def test_children_are_started_once_and_waited_for(committed: AsyncDatabase) -> None:
    @workflow("whole")
    async def whole(ctx: AsyncWorkflowContext) -> list[int]:
        first = await ctx.child(part, {"n": 1})
        others = [await ctx.start_child("part", {"n": n}) for n in (2, 3)]
        return [first, *[await ctx.child_result(id) for id in others]]

    id = await started(committed, whole, None, part)
    assert (await run_all(committed, whole, part))[-1].output == [2, 4, 6]
    async with committed.begin() as uow:
        children = (await uow.workflows.children(id)).items
    assert [child.output_data for child in children] == [2, 4, 6]
    assert [step.kind for step in await steps(committed, id)] == [
        "child",
        "result",
        "child",
        "child",
        "result",
        "result",
    ]


async def test_a_child_that_fails(committed: AsyncDatabase) -> None:
    @workflow("careful", max_retries=0)
    async def careful(ctx: AsyncWorkflowContext) -> str:
        try:
            await ctx.child(part, {"n": -1}, max_retries=0)
        except WorkflowChildFailed as error:
            await ctx.set_state("child", [error.execution_id, error.status])
        await ctx.child(part, {"n": -2}, max_retries=0)
        return "unreached"

    id = await started(committed, careful, None, part)
    await run_all(committed, careful, part)
    found = await execution(committed, id)
    assert (found.status, found.error_code) == ("failed", "child")
    async with committed.begin() as uow:
        first, second = (await uow.workflows.children(id)).items
        assert await uow.workflows.state(id) == {"child": [first.id, "failed"]}
    assert found.error_message == (
        f"workflow execution {second.id}: is failed, a child of execution {id}: step 0, double: ValueError: negative"
    )


@pytest.mark.parametrize("end", ["cancelled", "reaped", "completed"])
async def test_whatever_ends_a_child_resumes_its_parent(committed: AsyncDatabase, end: str) -> None:
    @workflow("waiting")
    async def waiting(ctx: AsyncWorkflowContext) -> object:
        try:
            return await ctx.child(part, {"n": 1}, max_retries=0)
        except WorkflowChildFailed as error:
            return error.status

    id = await started(committed, waiting, None, part)
    await run(committed, waiting)
    assert (await execution(committed, id)).waiting_for is not None
    async with committed.begin() as uow:
        (child,) = (await uow.workflows.children(id)).items
    if end == "cancelled":
        async with committed.begin() as uow:
            await uow.workflows.cancel(child.id)
    else:
        held = await claim(committed, part)
        assert held is not None
        if end == "reaped":
            await vanish(committed)
        else:
            async with committed.autocommit() as uow:
                await uow.workflows.complete(held, "by hand")
    assert (await execution(committed, id)).waiting_for is None
    outcome = await run(committed, waiting)
    assert outcome is not None
    assert outcome.output == {"cancelled": "cancelled", "reaped": "failed", "completed": "by hand"}[end]


async def test_a_parent_looks_again_if_nothing_resumes_it(committed: AsyncDatabase) -> None:
    @workflow("waiting")
    async def waiting(ctx: AsyncWorkflowContext) -> None:
        await ctx.child(part, {"n": 1})

    id = await started(committed, waiting, None, part)
    await run(committed, waiting)
    found = await execution(committed, id)
    assert 0 < (found.available_at - found.created_at).total_seconds() < 90


async def test_a_cancelled_parent_takes_its_children_along(committed: AsyncDatabase) -> None:
    @workflow("waiting")
    async def waiting(ctx: AsyncWorkflowContext) -> None:
        await ctx.child(part, {"n": 1})

    id = await started(committed, waiting, None, part)
    await run(committed, waiting)
    async with committed.begin() as uow:
        await uow.workflows.cancel(id)
        (child,) = (await uow.workflows.children(id)).items
    assert (await execution(committed, child.id)).status == "cancelled"


async def test_what_a_child_needs_is_checked(committed: AsyncDatabase) -> None:
    @workflow("wrong", max_retries=0)
    async def wrong(ctx: AsyncWorkflowContext, way: int) -> None:
        if way == 0:
            await ctx.start_child(part, {"m": 1})
        if way == 1:
            await ctx.start_child("unknown")
        await ctx.child_result(4711)

    for way in range(3):
        await started(committed, wrong, {"way": way}, part)
    errors = sorted(one.error for one in await run_all(committed, wrong))
    assert len(errors) == 3
    assert "workflow 'unknown': not found" in errors[1]
    assert "has no child 4711; pass one that it has started" in errors[2]
    assert errors[0].startswith("InvalidInputError: workflow 'part': input: ")


async def test_an_event_ends_a_wait_or_the_time_does(committed: AsyncDatabase) -> None:
    @workflow("events")
    async def events(ctx: AsyncWorkflowContext) -> list[object]:
        early = await ctx.wait_for("early")
        late = await ctx.wait_for("late", timeout=0.001)
        again = await ctx.wait_for("early", timeout=60)
        return [early.payload, late.received, late.payload, again.payload]

    id = await started(committed, events)
    async with committed.begin() as uow:
        assert await uow.workflows.deliver(id, "early", [1])
        assert not await uow.workflows.deliver(id, "early", [2])
    assert (await run_all(committed, events))[-1].output == [[1], False, None, [1]]
    async with committed.begin() as uow:
        with pytest.raises(InvalidTransition, match="is completed and takes no more events"):
            await uow.workflows.deliver(id, "later")


async def test_the_names_of_events_are_checked(committed: AsyncDatabase) -> None:
    @workflow("events", max_retries=0)
    async def events(ctx: AsyncWorkflowContext) -> None:
        await ctx.wait_for("\0")

    await started(committed, events)
    outcome = await run(committed, events)
    assert outcome is not None
    assert isinstance(outcome.exception, InvalidInputError)
    assert outcome.status is WorkflowRun.FAILED
