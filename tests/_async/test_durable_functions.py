"""Durable functions: what has finished is not run again, whatever ends a run."""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from _async.durable_runs import Killed, claim, execution, killed, run, run_all, started, steps, vanish

from alfred_db import (
    AsyncDatabase,
    AsyncUnitOfWork,
    AsyncWorkflowContext,
    AsyncWorkflows,
    WorkflowExecutionStatus,
    WorkflowRun,
    WorkflowStepFailed,
    workflow,
    workflow_step,
)
from alfred_db.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    InvalidTransition,
    NotFoundError,
)
from alfred_db.repositories import AsyncWorkflowRepository

COMPLETED, FAILED = WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED


async def test_what_has_finished_is_not_run_again(committed: AsyncDatabase) -> None:
    ran: list[str] = []
    killing = [True]

    async def fetch(url: str, *, depth: int) -> dict[str, Any]:
        ran.append(f"fetch {url} {depth}")
        return {"words": ("a", "b"), "n": 1}

    async def count(words: list[str]) -> int:
        ran.append("count")
        return len(words)

    async def report() -> str:
        ran.append("report")
        if killing.pop() if killing else False:
            raise Killed
        return "done"

    @workflow("ingest", version=3)
    async def ingest(ctx: AsyncWorkflowContext, url: str) -> dict[str, Any]:
        page = await ctx.step(fetch, url, depth=2)
        await ctx.sleep(3600)
        number = await ctx.step(count, page["words"])
        event = await ctx.wait_for("approved")
        await ctx.sleep_until(datetime.now(UTC) + timedelta(hours=1))
        text = await ctx.step(report)
        return {"page": page, "number": number, "by": event.payload, "text": text}

    id = await started(committed, ingest, {"url": "x"})
    outcome = await run(committed, ingest)
    assert outcome is not None
    assert outcome.status is WorkflowRun.SUSPENDED
    asleep = await execution(committed, id)
    assert asleep.status == "pending"
    assert timedelta(minutes=59) < asleep.available_at - asleep.created_at < timedelta(minutes=61)
    assert (await run_all(committed, ingest))[-1].status is WorkflowRun.SUSPENDED
    async with committed.begin() as uow:
        assert await uow.workflows.deliver(id, "approved", {"who": "Ada"})
    assert (await run(committed, ingest)).status is WorkflowRun.SUSPENDED  # type: ignore[union-attr]
    await killed(committed, ingest)
    assert [one.status for one in await run_all(committed, ingest)] == [WorkflowRun.COMPLETED]
    assert ran == ["fetch x 2", "count", "report", "report"], "the one that was killed, and no other"
    found = await execution(committed, id)
    page = {"n": 1, "words": ["a", "b"]}
    assert found.output_data == {"page": page, "number": 2, "by": {"who": "Ada"}, "text": "done"}
    kinds = [(step.seq, step.kind, step.name) for step in await steps(committed, id)]
    assert kinds == [
        (0, "step", "fetch"),
        (1, "sleep", "sleep"),
        (2, "step", "count"),
        (3, "event", "approved"),
        (4, "sleep", "sleep"),
        (5, "step", "report"),
    ]


async def test_values_are_the_same_in_later_runs(committed: AsyncDatabase) -> None:
    seen: list[Any] = []

    async def once() -> dict[str, Any]:
        return {"long": 1, "b": [{"zz": 1, "é": 2, "y": 3}], "a": 1e22}

    @workflow("values")
    async def values(ctx: AsyncWorkflowContext) -> None:
        now, number, key = await ctx.now(), await ctx.random(), await ctx.uuid()
        found = await ctx.step(once)
        seen.append([now, number, key, found, list(found), list(found["b"][0])])
        await ctx.sleep(60)

    await started(committed, values)
    await run_all(committed, values)
    first, second = seen
    assert first == second, "keys in the same order, too: code that loops over them takes the same way"
    now, number, key = first[:3]
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=5)
    assert 0 <= number < 1
    assert isinstance(key, uuid.UUID)


async def test_steps_that_are_gathered(committed: AsyncDatabase) -> None:
    ran: list[int] = []
    killing = [True]

    async def square(n: int) -> int:
        ran.append(n)
        if n == 3 and killing:
            killing.clear()
            raise Killed
        return n * n

    @workflow("squares")
    async def squares(ctx: AsyncWorkflowContext, numbers: list[int]) -> list[int]:
        assert await ctx.gather() == []
        return await ctx.gather(*[partial(square, n) for n in numbers], limit=1)

    id = await started(committed, squares, {"numbers": [1, 2, 3, 4]})
    await killed(committed, squares)
    assert (await run(committed, squares)).output == [1, 4, 9, 16]  # type: ignore[union-attr]
    assert sorted(ran) == [1, 2, 3, 3, 4]
    assert [step.output for step in await steps(committed, id)] == [1, 4, 9, 16]


async def test_a_step_is_retried_by_later_attempts(committed: AsyncDatabase) -> None:
    ran: list[str] = []

    async def first() -> None:
        ran.append("first")

    async def weak() -> str:
        ran.append("weak")
        if ran.count("weak") < 3:
            raise OSError("no connection")
        return "done"

    @workflow("weak")
    async def flow(ctx: AsyncWorkflowContext) -> str:
        await ctx.step(first)
        try:
            return await ctx.step(weak)
        except Exception as error:
            raise AssertionError("the code of a workflow does not see it") from error

    id = await started(committed, flow)
    outcome = await run(committed, flow)
    assert outcome is not None
    assert (outcome.status, outcome.error) == (WorkflowRun.FAILED, "step 1, weak: OSError: no connection")
    waiting = await execution(committed, id)
    assert (waiting.status, waiting.error_message, waiting.retry_count) == ("pending", outcome.error, 1)
    assert (await run_all(committed, flow))[-1].output == "done"
    assert ran == ["first", "weak", "weak", "weak"]
    assert [step.attempt for step in await steps(committed, id)] == [1, 3]


async def test_a_step_that_has_failed_for_good_is_not_called_again(committed: AsyncDatabase) -> None:
    ran: list[str] = []
    failures: list[tuple[int, str, str]] = []

    @workflow_step(name="charge", final=(ValueError,))
    async def card(amount: int) -> None:
        ran.append(f"charge {amount}")
        raise ValueError("card refused")

    @workflow_step(retries=1, delay=0)
    async def call() -> None:
        ran.append("call")
        raise OSError("no answer")

    async def refund() -> str:
        ran.append("refund")
        return "refunded"

    @workflow("order")
    async def order(ctx: AsyncWorkflowContext) -> str:
        try:
            await ctx.step(card, 5)
        except WorkflowStepFailed as error:
            failures.append((error.seq, error.name, error.error))
            await ctx.step(refund)
        await ctx.step(call)
        return "unreached"

    id = await started(committed, order)
    outcomes = await run_all(committed, order)
    assert ran == ["charge 5", "refund", "call", "call"]
    assert failures == [(0, "charge", "ValueError: card refused")] * 2
    assert [(one.error, one.retry) for one in outcomes] == [
        ("step 2, call: OSError: no answer", True),
        ("step 2, call: OSError: no answer", False),
    ]
    found = await execution(committed, id)
    assert (found.status, found.error_code) == (FAILED, "step")
    assert [step.error for step in await steps(committed, id)] == [
        "ValueError: card refused",
        None,
        "OSError: no answer",
    ]


async def test_the_effects_of_a_transaction_happen_once(committed: AsyncDatabase) -> None:
    calls: list[str] = []

    async def register(uow: AsyncUnitOfWork, name: str) -> str:
        calls.append(name)
        await uow.agents.register(name, type="llm", version="1")
        if len(calls) == 1:
            raise Killed
        if len(calls) == 2:
            raise OSError("undone")
        return name

    @workflow("agents")
    async def flow(ctx: AsyncWorkflowContext) -> str:
        name = await ctx.transaction(register, "writer")
        await ctx.sleep(60)
        return name

    await started(committed, flow)
    await killed(committed, flow)
    assert (await run_all(committed, flow))[-1].output == "writer"
    assert len(calls) == 3
    async with committed.begin() as uow:
        assert [agent.name for agent in (await uow.agents.list()).items] == ["writer"]


async def test_a_transaction_of_a_lost_lease_is_undone(committed: AsyncDatabase) -> None:
    async def register(uow: AsyncUnitOfWork) -> None:
        await uow.agents.register("writer", type="llm", version="1")
        await vanish(committed)

    @workflow("agents")
    async def flow(ctx: AsyncWorkflowContext) -> None:
        try:
            await ctx.transaction(register)
        except Exception:
            await ctx.transaction(register)  # code that goes on all the same

    await started(committed, flow)
    held = await claim(committed, flow)
    assert held is not None
    outcome = await AsyncWorkflows([flow]).run(committed, held)
    assert outcome.status is WorkflowRun.LOST
    async with committed.begin() as uow:
        assert not (await uow.agents.list()).items


@pytest.mark.parametrize("value", [object(), float("nan"), "\0", {"a": "\ud800"}, {1, 2}, "x" * (1 << 20)])
async def test_what_is_no_json_is_refused_by_name(committed: AsyncDatabase, value: Any) -> None:
    async def bad() -> Any:
        return value

    async def good() -> int:
        return 1

    @workflow("bad")
    async def flow(ctx: AsyncWorkflowContext) -> None:
        await ctx.step(good)
        try:
            await ctx.step(bad)
        except Exception:
            await ctx.step(good)

    id = await started(committed, flow)
    outcome = await run(committed, flow)
    assert outcome is not None
    assert outcome.error.startswith(f"workflow 'bad', version 1, execution {id}: step 1, 'bad': output")
    found = await execution(committed, id)
    assert (found.status, found.error_code) == (FAILED, "result")
    assert [step.name for step in await steps(committed, id)] == ["good"]


async def test_an_output_that_is_no_json_ends_the_execution(committed: AsyncDatabase) -> None:
    @workflow("bad")
    async def flow(ctx: AsyncWorkflowContext) -> Any:
        return object()

    id = await started(committed, flow)
    await run(committed, flow)
    found = await execution(committed, id)
    assert (found.status, found.error_code) == (FAILED, "result")
    assert (found.error_message or "").startswith("output: not a JSON value")


async def test_code_that_catches_everything_is_ended_all_the_same(committed: AsyncDatabase) -> None:
    ran: list[str] = []

    async def after() -> None:
        ran.append("after")

    @workflow("greedy")
    async def flow(ctx: AsyncWorkflowContext) -> str:
        with suppress(BaseException):
            await ctx.sleep(60)
        with suppress(BaseException):
            await ctx.step(after)
        return "done"

    await started(committed, flow)
    assert (await run(committed, flow)).status is WorkflowRun.SUSPENDED  # type: ignore[union-attr]
    assert ran == []
    assert (await run(committed, flow)).output == "done"  # type: ignore[union-attr]
    assert ran == ["after"]


async def test_an_exception_of_the_code_itself_is_retried(committed: AsyncDatabase) -> None:
    async def one() -> int:
        return 1

    @workflow("buggy", max_retries=1)
    async def flow(ctx: AsyncWorkflowContext) -> None:
        await ctx.step(one)
        raise KeyError("missing")

    id = await started(committed, flow)
    outcomes = await run_all(committed, flow)
    assert [one.error for one in outcomes] == ["KeyError: 'missing'"] * 2
    assert (await execution(committed, id)).status == FAILED


async def test_no_connection_is_held_while_code_runs(committed: AsyncDatabase) -> None:
    busy: list[int] = []

    async def look() -> None:
        async with committed.begin() as uow:
            number = await uow.session.connection()
            found = await number.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'"
                " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            busy.append(found.scalar_one())

    @workflow("idle")
    async def flow(ctx: AsyncWorkflowContext) -> None:
        await ctx.step(look)
        await ctx.step(look)
        await ctx.sleep(60)

    await started(committed, flow)
    await run_all(committed, flow)
    assert busy == [0, 0]


async def test_steps_neither_nest_nor_overlap(committed: AsyncDatabase) -> None:
    @workflow("nested")
    async def flow(ctx: AsyncWorkflowContext) -> None:
        async def inner() -> None: ...

        async def outer() -> None:
            await ctx.step(inner)

        await ctx.step(outer)

    id = await started(committed, flow)
    outcome = await run(committed, flow)
    assert outcome is not None
    assert outcome.error.endswith(
        "step 'inner' began while step 'outer' was running; use `gather` for steps at the same time, and no context"
        " within a step"
    )
    assert (await execution(committed, id)).status == FAILED


async def test_a_step_needs_a_name(committed: AsyncDatabase) -> None:
    async def one() -> int:
        return 1

    async def number(text: str) -> int:
        return int(text)

    @workflow("unnamed", max_retries=0)
    async def flow(ctx: AsyncWorkflowContext, way: int) -> Any:
        if way == 0:
            return await ctx.step(lambda: one())
        if way == 1:
            return await ctx.step(workflow_step(name="one")(lambda: one()))
        return await ctx.step(partial(number, "4"))

    for way in range(3):
        await started(committed, flow, {"way": way})
    outcomes = {str(one.output or one.error) for one in [await run(committed, flow) for _ in range(3)] if one}
    assert {"1", "4"} < outcomes
    (message,) = outcomes - {"1", "4"}
    assert "has no name by which a later run finds it; pass a named function" in message


async def test_a_start_is_idempotent_and_checks_its_input(committed: AsyncDatabase) -> None:
    @workflow("mail", max_retries=7, timeout_seconds=60)
    async def mail(ctx: AsyncWorkflowContext, to: str, copies: int = 1) -> None: ...

    flows = AsyncWorkflows([mail])
    async with committed.begin() as uow:
        with pytest.raises(NotFoundError, match="workflow 'mail': not found"):
            await flows.start(uow, mail, {"to": "a"})
    async with committed.begin() as uow:
        await flows.register(uow)
        first, created = await flows.start(uow, mail, {"to": "a"}, key="k")
        again, repeated = await flows.start(uow, mail, {"to": "b"}, key="k")
        assert (created, repeated, first.id) == (True, False, again.id)
        assert (first.max_retries, first.timeout_seconds) == (7, 60)
        for wrong in ({}, {"to": "a", "from": "b"}, {"to": "a", "ctx": 1}):
            with pytest.raises(InvalidInputError, match="workflow 'mail': input: "):
                await flows.start(uow, mail, wrong)
        # One that was started by hand
        await uow.workflows.start("mail", {"too": 1}, idempotency_key="other")
    outcomes = await run_all(committed, mail)
    assert sorted(one.code for one in outcomes if one.status is WorkflowRun.FAILED) == ["input"]


async def test_an_execution_runs_with_the_version_that_it_began_with(committed: AsyncDatabase) -> None:
    @workflow("pinned", version=1)
    async def old(ctx: AsyncWorkflowContext) -> str:
        await ctx.sleep(60)
        return "old"

    @workflow("pinned", version=2)
    async def new(ctx: AsyncWorkflowContext) -> str:
        return "new"

    id = await started(committed, old)
    await run(committed, old)
    later = await started(committed, new, None, old)
    held = await claim(committed, old)
    assert held is not None
    assert held.version == 1
    with pytest.raises(ConfigurationError, match="the code of workflow 'pinned', version 1, is not here"):
        await AsyncWorkflows([new]).run(committed, held)
    assert (await AsyncWorkflows([new, old]).run(committed, held)).output == "old"
    assert [one.output for one in await run_all(committed, new)] == ["new"]
    assert (
        (await execution(committed, id)).workflow_version,
        (await execution(committed, later)).workflow_version,
    ) == (
        1,
        2,
    )
    async with committed.begin() as uow:
        await AsyncWorkflows([old]).register(uow)  # an old program starts again
        active = [one.version for one in await uow.workflows.versions("pinned") if one.status == "active"]
        assert active == [2]
        with pytest.raises(ConflictError, match="has another definition"):
            await AsyncWorkflows([workflow("pinned", 2, definition={"a": 1})(new.function)]).register(uow)


async def test_versions_that_are_stored_are_found_and_not_defined_again(
    committed: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    @workflow("numbered", version=3, definition={"steps": [1, 2.5, {"a": None}]})
    async def numbered(ctx: AsyncWorkflowContext) -> None: ...

    @workflow("by hand")
    async def any_version(ctx: AsyncWorkflowContext) -> None: ...

    flows = AsyncWorkflows([numbered, any_version])
    async with committed.begin() as uow:
        draft, _ = await uow.workflows.define("by hand", {})
        ids = await flows.register(uow)
    for name in ("define", "activate", "versions"):
        monkeypatch.setattr(AsyncWorkflowRepository, name, None, raising=False)
    async with committed.begin() as uow:
        assert await flows.register(uow) == ids
    assert draft.id in ids
    assert len(ids) == 2


async def test_two_functions_of_one_version_are_refused() -> None:
    @workflow("same")
    async def one(ctx: AsyncWorkflowContext) -> None: ...

    with pytest.raises(ConfigurationError, match="workflow 'same', version 1: has two functions"):
        AsyncWorkflows([one, workflow("same")(one.function)])
    with pytest.raises(ConfigurationError, match="is no workflow; decorate it"):
        AsyncWorkflows([one.function])  # type: ignore[list-item]


async def test_an_execution_is_cancelled_between_its_steps(committed: AsyncDatabase) -> None:
    @workflow("long")
    async def flow(ctx: AsyncWorkflowContext) -> None:
        async def cancel() -> None:
            async with committed.begin() as uow:
                await uow.workflows.cancel(ctx.id)

        await ctx.step(cancel)
        await ctx.sleep(60)

    id = await started(committed, flow)
    await run(committed, flow)
    assert (await execution(committed, id)).status == "cancelled"


async def test_others_see_the_state(committed: AsyncDatabase) -> None:
    @workflow("shown")
    async def flow(ctx: AsyncWorkflowContext) -> None:
        await ctx.set_state("phase", "begun")
        await ctx.set_state("done", 0.5)
        await ctx.set_state("phase", {"name": "waits"})
        await ctx.wait_for("go")

    id = await started(committed, flow)
    await run(committed, flow)
    async with committed.begin() as uow:
        assert await uow.workflows.state(id) == {"phase": {"name": "waits"}, "done": 0.5}
        assert await uow.workflows.state(id + 1) == {}


async def test_a_failed_execution_is_resumed(committed: AsyncDatabase) -> None:
    ran: list[str] = []
    broken = [True]

    async def first() -> None:
        ran.append("first")

    @workflow_step(retries=0)
    async def second() -> None:
        ran.append("second")
        if broken:
            raise OSError("down")

    @workflow("resumed")
    async def flow(ctx: AsyncWorkflowContext) -> str:
        await ctx.step(first)
        await ctx.step(second)
        return "done"

    id = await started(committed, flow)
    await run_all(committed, flow)
    assert (await execution(committed, id)).status == FAILED
    broken.clear()
    async with committed.begin() as uow:
        found = await uow.workflows.resume(id)
        assert (found.status, found.failed_at, found.retry_count, found.current_step) == (
            "pending",
            None,
            0,
            1,
        )
        with pytest.raises(InvalidTransition, match="is pending; it needs no resuming"):
            await uow.workflows.resume(id)
    assert (await run(committed, flow)).output == "done"  # type: ignore[union-attr]
    assert ran == ["first", "second", "second"]
    async with committed.begin() as uow:
        with pytest.raises(InvalidTransition, match="is completed; fork it instead"):
            await uow.workflows.resume(id)
        with pytest.raises(NotFoundError, match="workflow execution 4711: not found"):
            await uow.workflows.resume(4711)


async def test_a_cancelled_execution_is_resumed_from_a_step(committed: AsyncDatabase) -> None:
    ran: list[int] = []

    async def note(n: int) -> None:
        ran.append(n)

    @workflow("again")
    async def flow(ctx: AsyncWorkflowContext) -> None:
        for n in range(3):
            await ctx.step(note, n)
        await ctx.wait_for("never")

    id = await started(committed, flow)
    await run(committed, flow)
    async with committed.begin() as uow:
        await uow.workflows.cancel(id)
        await uow.workflows.resume(id, from_seq=1)
    await run(committed, flow)
    assert ran == [0, 1, 2, 1, 2]
