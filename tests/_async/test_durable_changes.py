"""Code that has changed since an execution began: noticed, allowed by a patch, or given a new version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from _async.durable_runs import Killed, execution, killed, run, run_all, started

from alfred_db import AsyncDatabase, AsyncWorkflowContext, WorkflowChanged, workflow
from alfred_db.durable.functions import WorkflowFunction


async def a() -> str:
    return "a"


async def b() -> str:
    return "b"


async def c() -> str:
    return "c"


async def d() -> str:
    return "d"


Code = Callable[[AsyncWorkflowContext], Awaitable[Any]]


async def _abc(ctx: AsyncWorkflowContext) -> None:
    for step in (a, b, c):
        await ctx.step(step)


async def _renamed(ctx: AsyncWorkflowContext) -> None:
    for step in (a, d, c):
        await ctx.step(step)


async def _removed(ctx: AsyncWorkflowContext) -> None:
    for step in (a, c):
        await ctx.step(step)


async def _added(ctx: AsyncWorkflowContext) -> None:
    for step in (a, d, b, c):
        await ctx.step(step)


async def _reordered(ctx: AsyncWorkflowContext) -> None:
    for step in (b, a, c):
        await ctx.step(step)


async def _last_removed(ctx: AsyncWorkflowContext) -> None:
    for step in (a, b):
        await ctx.step(step)


async def _all_removed(ctx: AsyncWorkflowContext) -> None: ...


async def _gathered(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.gather(c, b)


async def _sleeps(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.sleep(1)


async def _sleeps_until(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.sleep_until(await ctx.now())


async def _waits(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.wait_for("b")


async def _starts(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.start_child("b")


async def _takes_a_result(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.child_result(1)


async def _draws(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.random()


async def _makes_an_id(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.uuid()


async def _shows(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    await ctx.set_state("b", 1)


CHANGES: dict[str, tuple[Code, int, str, str]] = {
    "renamed": (_renamed, 1, "step 'b'", "step 'd'"),
    "removed": (_removed, 1, "step 'b'", "step 'c'"),
    "added": (_added, 1, "step 'b'", "step 'd'"),
    "reordered": (_reordered, 0, "step 'a'", "step 'b'"),
    "last removed": (_last_removed, 2, "step 'c'", "the end of the code"),
    "all removed": (_all_removed, 0, "step 'a'", "the end of the code"),
    "gathered": (_gathered, 1, "step 'b'", "step 'c'"),
    "sleep": (_sleeps, 1, "step 'b'", "sleep 'sleep'"),
    "sleep until": (_sleeps_until, 1, "step 'b'", "value 'now'"),
    "event": (_waits, 1, "step 'b'", "event 'b'"),
    "child": (_starts, 1, "step 'b'", "child 'b'"),
    "result": (_takes_a_result, 1, "step 'b'", "result 'result'"),
    "random": (_draws, 1, "step 'b'", "value 'random'"),
    "uuid": (_makes_an_id, 1, "step 'b'", "value 'uuid'"),
    "state": (_shows, 1, "step 'b'", "state 'b'"),
}


def flow(code: Code, *, version: int = 1) -> WorkflowFunction[Any, Any]:
    """A workflow of this code, which waits at the end."""

    @workflow("changing", version=version)
    async def changing(ctx: AsyncWorkflowContext) -> str:
        await code(ctx)
        if code is _abc:
            await ctx.wait_for("end")
        return "done"

    return changing


async def test_a_change_is_named_and_can_be_taken_back(committed: AsyncDatabase) -> None:
    ids: dict[str, int] = {}
    for change in CHANGES:
        ids[change] = await started(committed, flow(_abc))
        await run(committed, flow(_abc))
    for change, (code, seq, expected, found) in CHANGES.items():
        async with committed.begin() as uow:
            await uow.workflows.deliver(ids[change], "end")
        outcome = await run(committed, flow(code))
        assert outcome is not None
        assert not outcome.retry
        error = outcome.exception
        assert isinstance(error, WorkflowChanged), change
        assert (error.workflow, error.seq, error.expected, error.found) == ("changing", seq, expected, found)
        assert str(error) == (
            f"workflow 'changing', version 1, execution {ids[change]}: step {seq} has changed: expected {expected}, as"
            f" stored, and found {found}; run the code that began the execution, put the change behind"
            " `ctx.patched`, or define a new version"
        )
        row = await execution(committed, ids[change])
        assert (row.status, row.error_code, row.error_message) == ("failed", "changed", str(error))
        async with committed.begin() as uow:
            await uow.workflows.resume(row.id)
        assert (await run(committed, flow(_abc))).output == "done"  # type: ignore[union-attr]


async def test_a_change_of_a_sleep_and_of_an_event_is_named(committed: AsyncDatabase) -> None:
    async def old(ctx: AsyncWorkflowContext) -> None:
        await ctx.sleep(1)
        await ctx.wait_for("one")
        await ctx.wait_for("end")

    async def other(ctx: AsyncWorkflowContext) -> None:
        await ctx.sleep(1)
        await ctx.wait_for("two")

    async def step(ctx: AsyncWorkflowContext) -> None:
        await ctx.step(a)

    id = await started(committed, flow(old))
    await run_all(committed, flow(old))
    async with committed.begin() as uow:
        await uow.workflows.deliver(id, "one")
    await run(committed, flow(old))
    for code, expected, found in (
        (other, "event 'one'", "event 'two'"),
        (step, "sleep 'sleep'", "step 'a'"),
    ):
        async with committed.begin() as uow:
            await uow.workflows.cancel(id)
            await uow.workflows.resume(id)
        error = (await run(committed, flow(code))).exception  # type: ignore[union-attr]
        assert isinstance(error, WorkflowChanged)
        assert (error.expected, error.found) == (expected, found)
        async with committed.begin() as uow:
            await uow.workflows.resume(id)


async def _patched(ctx: AsyncWorkflowContext) -> None:
    await ctx.step(a)
    if await ctx.patched("d before b"):
        await ctx.step(d)
    await ctx.step(b)
    if await ctx.patched("d before b"):
        await ctx.step(d)
    await ctx.step(c)


async def _without_the_call(ctx: AsyncWorkflowContext) -> None:
    for step in (a, d, b, d, c):
        await ctx.step(step)


async def names(db: AsyncDatabase, id: int) -> list[str]:
    async with db.begin() as uow:
        return [f"{step.kind} {step.name}" for step in (await uow.workflows.steps(id)).items]


async def test_a_patch_leaves_old_executions_as_they_were(committed: AsyncDatabase) -> None:
    old = await started(committed, flow(_abc))
    await run(committed, flow(_abc))

    async def only_a(ctx: AsyncWorkflowContext) -> None:
        await ctx.step(a)
        await ctx.step(killing)

    async def killing() -> None:
        raise Killed

    async with committed.begin() as uow:
        await uow.workflows.deliver(old, "end")
    assert (await run(committed, flow(_patched))).status == "completed"  # type: ignore[union-attr]
    assert await names(committed, old) == ["step a", "step b", "step c"]
    between = await started(committed, flow(only_a))
    await killed(committed, flow(only_a))
    new = await started(committed, flow(_patched))
    await run_all(committed, flow(_patched))
    way = ["step a", "patch d before b", "step d", "step b", "step d", "step c"]
    assert await names(committed, between) == way, "it had not come to the change"
    assert await names(committed, new) == way
    for id in (between, new):
        assert (await execution(committed, id)).status == "completed"
    # The call is removed: executions with the marker and without it take the same way.
    async with committed.begin() as uow:
        fork, _ = await uow.workflows.fork(new, 4)
        empty, _ = await uow.workflows.fork(new, 0)
    await run_all(committed, flow(_without_the_call))
    for id in (fork.id, empty.id):
        assert (await execution(committed, id)).status == "completed"


async def test_a_gather_of_fewer_steps_is_noticed(committed: AsyncDatabase) -> None:
    async def several(number: int, ctx: AsyncWorkflowContext) -> None:
        await ctx.gather(*[partial(a) for _ in range(number)])

    async def held(ctx: AsyncWorkflowContext) -> None:
        await several(3, ctx)
        await ctx.wait_for("end")

    async def fewer(ctx: AsyncWorkflowContext) -> None:
        await several(2, ctx)
        await ctx.wait_for("end")

    id = await started(committed, flow(held))
    await run(committed, flow(held))
    async with committed.begin() as uow:
        await uow.workflows.deliver(id, "end")
    error = (await run(committed, flow(fewer))).exception  # type: ignore[union-attr]
    assert isinstance(error, WorkflowChanged)
    assert (error.seq, error.expected, error.found) == (2, "step 'a'", "event 'end'")


@pytest.mark.parametrize("version", [None, 1])
async def test_a_version_or_each_of_them(committed: AsyncDatabase, version: int | None) -> None:
    """A definition as JSON, run by one function: what an orchestrator does."""

    @workflow("defined", version=version)
    async def interpret(ctx: AsyncWorkflowContext) -> list[str]:
        return [await ctx.step({"a": a, "b": b}[name]) for name in ctx.definition.get("steps", [])]

    async with committed.begin() as uow:
        for steps in (["a"], ["a", "b"]):
            defined, _ = await uow.workflows.define("defined", {"steps": steps})
            await uow.workflows.activate(defined.id)
            await uow.workflows.start("defined")
    if version is None:
        outputs = [one.output for one in await run_all(committed, interpret)]
        assert sorted(outputs) == [["a"], ["a", "b"]]
