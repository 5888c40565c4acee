from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from plans import Explain
from sqlalchemy import Select, func, insert, literal, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import (
    AsyncDatabase,
    Workflow,
    WorkflowExecution,
    WorkflowExecutionStatus,
    WorkflowStatus,
    WorkflowStep,
)
from alfred_db.errors import (
    ConflictError,
    InvalidInputError,
    InvalidTransition,
    LeaseLost,
    NotFoundError,
)
from alfred_db.queries import workflow_executions as executions
from alfred_db.queries import workflow_steps
from alfred_db.queries import workflows as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.workflows import AsyncWorkflowRepository
from alfred_db.results.workflows import MAX_JSON_BYTES, ClaimedWorkflow, WaitResult

HOSTILE = "'; DROP TABLE workflows; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"
DEFINITION = {"steps": ["fetch", "sum", "report"]}
PENDING = WorkflowExecutionStatus.PENDING
CANCELLED = WorkflowExecutionStatus.CANCELLED
RUNNING = WorkflowExecutionStatus.RUNNING


@pytest.fixture
def workflows(uow: AsyncUnitOfWork) -> AsyncWorkflowRepository:
    return AsyncWorkflowRepository(uow.session)


async def active(workflows: AsyncWorkflowRepository, name: str = "ingest") -> Workflow:
    workflow, _ = await workflows.define(name, DEFINITION)
    return await workflows.activate(workflow.id)


async def claimed(workflows: AsyncWorkflowRepository, **settings: Any) -> ClaimedWorkflow:
    """An execution of a new workflow that a worker holds."""
    workflow = await active(workflows)
    await workflows.start("ingest", {"n": 1}, **settings)
    (held,) = await workflows.claim("worker", [workflow.id])
    return held


async def again(workflows: AsyncWorkflowRepository, held: ClaimedWorkflow) -> ClaimedWorkflow:
    """The same execution, claimed by another worker after its own vanished."""
    await expire(workflows._session, held.id)
    assert await workflows.reap() == {held.id: PENDING}
    return await next_claim(workflows, held)


async def next_claim(workflows: AsyncWorkflowRepository, held: ClaimedWorkflow) -> ClaimedWorkflow:
    (found,) = await workflows.claim("other", [held.workflow_id])
    assert found.id == held.id
    return found


async def expire(session: AsyncSession, execution_id: int, column: str = "lease_expires_at") -> None:
    await set_columns(session, execution_id, **{column: func.now() - timedelta(seconds=1)})


async def set_columns(session: AsyncSession, execution_id: int, **values: Any) -> None:
    await session.execute(
        update(WorkflowExecution).where(WorkflowExecution.id == execution_id).values(values),
        execution_options={"synchronize_session": False},
    )


async def row(workflows: AsyncWorkflowRepository, execution_id: int) -> WorkflowExecution:
    found = await workflows.get_execution(execution_id)
    assert found is not None
    return found


# Definitions


async def test_versions_of_a_definition_are_counted(workflows: AsyncWorkflowRepository) -> None:
    first, created = await workflows.define("ingest", DEFINITION, created_by="me")
    second, again = await workflows.define("ingest", {"steps": []})
    other, _ = await workflows.define("other", {})
    assert (created, again) == (True, True)
    assert (first.version, second.version, other.version) == (1, 2, 1)
    assert (first.definition, first.status, first.created_by) == (DEFINITION, WorkflowStatus.DRAFT, "me")
    assert [found.version for found in await workflows.versions("ingest")] == [2, 1]
    assert await workflows.versions("none") == []
    assert await workflows.get(first.id) is first
    assert await workflows.get(0) is None


async def test_every_replica_may_file_a_version(workflows: AsyncWorkflowRepository) -> None:
    first, created = await workflows.define("ingest", DEFINITION, version=7)
    second, again = await workflows.define("ingest", DEFINITION, version=7)
    assert (created, again, second.id) == (True, False, first.id)
    with pytest.raises(ConflictError, match="version 7: has another definition"):
        await workflows.define("ingest", {"steps": ["other"]}, version=7)
    after, _ = await workflows.define("ingest", {"steps": ["other"]})
    assert after.version == 8


async def test_one_version_is_active(workflows: AsyncWorkflowRepository) -> None:
    first, _ = await workflows.define("ingest", DEFINITION)
    second, _ = await workflows.define("ingest", DEFINITION)
    other = await active(workflows, "other")
    for version in (first, second, first, first):
        assert (await workflows.activate(version.id)).status is WorkflowStatus.ACTIVE
        statuses = {found.id: found.status for found in await workflows.versions("ingest")}
        assert [key for key, status in statuses.items() if status == "active"] == [version.id]
    assert other.status is WorkflowStatus.ACTIVE
    assert (await workflows.archive(first.id)).status is WorkflowStatus.ARCHIVED
    for call in (workflows.activate, workflows.archive):
        with pytest.raises(NotFoundError, match="workflow 0: there is none"):
            await call(0)


@pytest.mark.parametrize("version", [-1, 2**31])
async def test_a_version_is_a_number_from_one(workflows: AsyncWorkflowRepository, version: int) -> None:
    with pytest.raises(InvalidInputError, match="version: expected 1 to"):
        await workflows.define("ingest", DEFINITION, version=version)


# Starting


async def test_an_execution_is_pinned_to_the_definition_at_its_start(
    workflows: AsyncWorkflowRepository,
) -> None:
    first = await active(workflows)
    started, created = await workflows.start("ingest", {"n": 1})
    assert created
    assert (started.workflow_id, started.workflow_version, started.definition) == (first.id, 1, DEFINITION)
    assert (started.input_data, started.status) == ({"n": 1}, PENDING)
    second, _ = await workflows.define("ingest", {"steps": []})
    await workflows.activate(second.id)
    later, _ = await workflows.start("ingest")
    assert (later.workflow_version, later.definition, later.input_data) == (2, {"steps": []}, None)
    await workflows._session.execute(update(Workflow).values(definition={"steps": ["changed"]}))
    (held,) = await workflows.claim("w", [first.id])
    assert (held.id, held.version, held.definition, held.name) == (started.id, 1, DEFINITION, "ingest")


async def test_starting_is_idempotent_by_key(workflows: AsyncWorkflowRepository) -> None:
    workflow = await active(workflows)
    first, created = await workflows.start("ingest", {"n": 1}, idempotency_key="k")
    second, again = await workflows.start("ingest", {"n": 2}, idempotency_key="k")
    assert (created, again, second is first, second.input_data) == (True, False, True, {"n": 1})
    await workflows.archive(workflow.id)
    third, again = await workflows.start("ingest", idempotency_key="k")
    assert (again, third is first) == (False, True)
    assert await workflows.get_by_key("k") is first
    assert await workflows.get_by_key("l") is None
    await active(workflows, "other")
    with pytest.raises(ConflictError, match="idempotency_key 'k': is another"):
        await workflows.start("other", idempotency_key="k")


async def test_only_an_active_version_is_started(workflows: AsyncWorkflowRepository) -> None:
    with pytest.raises(NotFoundError, match="workflow 'ingest': there is none"):
        await workflows.start("ingest")
    draft, _ = await workflows.define("ingest", DEFINITION)
    with pytest.raises(InvalidTransition, match="workflow 'ingest': is not active"):
        await workflows.start("ingest")
    await workflows.activate(draft.id)
    await workflows.start("ingest", version=1)
    with pytest.raises(NotFoundError, match="version 2: there is none"):
        await workflows.start("ingest", version=2)
    await workflows.archive(draft.id)
    with pytest.raises(InvalidTransition, match="version 1: is not active"):
        await workflows.start("ingest", version=1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("delay", -1), ("delay", 1e12), ("max_retries", -1), ("timeout_seconds", 0), ("timeout_seconds", 2**40)],
)
async def test_a_setting_has_its_range(workflows: AsyncWorkflowRepository, setting: str, value: Any) -> None:
    settings: Any = {setting: value}
    with pytest.raises(InvalidInputError, match=f"{setting}: expected"):
        await workflows.start("ingest", **settings)


async def test_a_delayed_start_is_claimed_later(workflows: AsyncWorkflowRepository) -> None:
    workflow = await active(workflows)
    started, _ = await workflows.start("ingest", delay=60)
    assert await workflows.claim("w", [workflow.id]) == []
    await expire(workflows._session, started.id, "available_at")
    assert len(await workflows.claim("w", [workflow.id])) == 1


async def test_hostile_text_is_stored_as_it_is(workflows: AsyncWorkflowRepository) -> None:
    value = {HOSTILE: [HOSTILE * 1000, None, 1.5, True, {"": ""}]}
    workflow, _ = await workflows.define(HOSTILE, value)
    await workflows.activate(workflow.id)
    started, _ = await workflows.start(HOSTILE, value, idempotency_key=HOSTILE)
    (held,) = await workflows.claim(HOSTILE, [workflow.id])
    assert (held.id, held.name, held.definition, held.input) == (started.id, HOSTILE, value, value)
    stored = await workflows.checkpoint(held.id, held.lease_token, HOSTILE, value, seq=0, name=HOSTILE)
    assert stored == value
    assert await workflows.deliver(held.id, HOSTILE, value)
    await workflows.complete(held.id, held.lease_token, value)
    assert (await row(workflows, held.id)).output_data == value
    (event,) = await workflows.events(held.id)
    assert event.payload == value


BAD_JSON: list[Any] = [
    {"a": float("nan")},
    {"a": object()},
    {"a": {1, 2}},
    {"a": "x" * MAX_JSON_BYTES},
]


@pytest.mark.parametrize("value", BAD_JSON, ids=["nan", "object", "set", "long"])
async def test_what_is_no_json_or_too_long_is_refused(
    workflows: AsyncWorkflowRepository, value: dict[str, Any]
) -> None:
    held = await claimed(workflows)
    key = (held.id, held.lease_token)
    with pytest.raises(InvalidInputError, match="definition: "):
        await workflows.define("ingest", value)
    with pytest.raises(InvalidInputError, match="input: "):
        await workflows.start("ingest", value)
    with pytest.raises(InvalidInputError, match="output: "):
        await workflows.checkpoint(*key, "a", value, seq=0)
    with pytest.raises(InvalidInputError, match="output: "):
        await workflows.complete(*key, value)
    with pytest.raises(InvalidInputError, match="payload: "):
        await workflows.deliver(held.id, "e", value)
    assert await workflows.steps(held.id) == []


@pytest.mark.parametrize("value", ["a\0b", "\ud800", {"a\0": 1}])
async def test_json_that_the_database_cannot_hold_is_refused(
    workflows: AsyncWorkflowRepository, value: Any
) -> None:
    held = await claimed(workflows)
    with pytest.raises(InvalidInputError):
        await workflows.checkpoint(held.id, held.lease_token, "a", value, seq=0)


# Claiming


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
        await workflows.complete(held.id, held.lease_token, ["done"])
    found = await row(workflows, held.id)
    assert (found.status, found.output_data) == (WorkflowExecutionStatus.COMPLETED, ["done"])
    assert found.completed_at is not None
    with pytest.raises(LeaseLost, match="its lease is not yours"):
        await workflows.complete(held.id, uuid.uuid4())
    with pytest.raises(LeaseLost):
        await workflows.fail(held.id, held.lease_token, "late")
    with pytest.raises(LeaseLost):
        await workflows.complete(0, held.lease_token)


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


async def test_the_longest_waiting_comes_first_and_so_many(workflows: AsyncWorkflowRepository) -> None:
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
    token = held[0].lease_token
    await workflows.complete(held[1].id, token)
    beat = await workflows.heartbeat([held[2].id, held[1].id, held[0].id, 0], token, lease=100)
    assert [found.id for found in beat] == [held[0].id, held[2].id]
    assert all(found.lease_expires_at > held[0].lease_expires_at for found in beat)
    assert await workflows.heartbeat([held[0].id], uuid.uuid4()) == []


async def test_heartbeats_stay_on_their_page(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        held = await claimed(AsyncWorkflowRepository(uow.session))
    for _ in range(20):
        async with committed.begin() as uow:
            assert await AsyncWorkflowRepository(uow.session).heartbeat([held.id], held.lease_token)
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


# Steps


async def test_a_checkpoint_is_stored_once(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    key = (held.id, held.lease_token)
    assert await workflows.checkpoint(*key, "fetch", {"rows": (1, 2)}, seq=0) == {"rows": [1, 2]}
    assert await workflows.checkpoint(*key, "fetch", {"rows": [9]}, seq=0) == {"rows": [1, 2]}
    assert await workflows.checkpoint(*key, "empty", seq=1) is None
    began = datetime.now(UTC)
    assert await workflows.checkpoint(*key, "bad", seq=2, error="no", attempt=3, started_at=began) is None
    fetch, empty, bad = await workflows.steps(held.id)
    assert (fetch.step_key, fetch.seq, fetch.name, fetch.attempt) == ("fetch", 0, "fetch", 1)
    assert (fetch.output, fetch.error, fetch.lease_token) == ({"rows": [1, 2]}, None, held.lease_token)
    assert (empty.output, bad.error, bad.attempt, bad.started_at) == (None, "no", 3, began)


async def test_a_checkpoint_keeps_the_lease(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    first = held.lease_expires_at
    for seq, (lease, least) in enumerate([(66, 0), (67, 6), (67, 6), (1000, 900), (60, 900)]):
        await workflows.checkpoint(held.id, held.lease_token, f"s{seq}", seq=seq, lease=lease)
        found = (await row(workflows, held.id)).lease_expires_at
        assert found is not None
        assert timedelta(seconds=least) <= found - first < timedelta(seconds=least + 60)
        assert (found == first) == (least == 0), "not written while nine tenths are left"


async def test_a_run_that_gets_further_has_all_its_retries_again(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.checkpoint(held.id, held.lease_token, "fetch", seq=0)
    held = await again(workflows, held)
    await workflows.fail(held.id, held.lease_token, "boom", delay=0)
    held = await next_claim(workflows, held)
    await workflows.checkpoint(held.id, held.lease_token, "fetch", seq=0)
    found = await row(workflows, held.id)
    assert (found.crash_count, found.retry_count) == (1, 1), "that step was there"
    await workflows.checkpoint(held.id, held.lease_token, "sum", seq=1)
    found = await row(workflows, held.id)
    assert (found.crash_count, found.retry_count, found.current_step) == (0, 0, 2)


@pytest.mark.parametrize("write", ["heartbeat", "wait", "sleep", "release", "fail", "reap", "complete"])
async def test_every_other_write_tells_how_far_it_is(workflows: AsyncWorkflowRepository, write: str) -> None:
    held = await claimed(workflows)
    key = (held.id, held.lease_token)
    for seq in range(2):
        await workflows.checkpoint(*key, f"s{seq}", seq=seq)
    reached = 2
    match write:
        case "heartbeat":
            await workflows.heartbeat([held.id], held.lease_token)
        case "wait":
            await workflows.wait_for(*key, "paid", step_key="wait", seq=2)
        case "sleep":
            await workflows.sleep_until(*key, datetime.now(UTC), step_key="nap", seq=2)
            reached = 3
        case "release":
            await workflows.release(*key)
        case "fail":
            await workflows.fail(*key, "boom")
        case "reap":
            await expire(workflows._session, held.id)
            await workflows.reap()
        case _:
            await workflows.complete(*key)
    assert (await row(workflows, held.id)).current_step == reached


async def test_a_finished_step_is_replayed(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    assert await workflows.replay(held.id, held.lease_token, "fetch", seq=0) is None
    await workflows.checkpoint(held.id, held.lease_token, "fetch", 5, seq=0, name="Fetch")
    held = await again(workflows, held)
    step = await workflows.replay(held.id, held.lease_token, "fetch", seq=0, name="Fetch")
    assert step is not None
    assert step.output == 5
    assert await workflows.checkpoint(held.id, held.lease_token, "fetch", 6, seq=0, name="Fetch") == 5
    assert await workflows.replay(held.id, held.lease_token, "sum", seq=1) is None


async def run(workflows: AsyncWorkflowRepository, held: ClaimedWorkflow, ran: list[str], until: int) -> None:
    """Run the steps of the definition, and stop before the checkpoint of the one numbered `until`."""
    for seq, step in enumerate(DEFINITION["steps"]):
        if await workflows.replay(held.id, held.lease_token, step, seq=seq) is not None:
            continue
        ran.append(step)
        if seq == until:
            return
        await workflows.checkpoint(held.id, held.lease_token, step, f"{step} done", seq=seq)
    await workflows.complete(held.id, held.lease_token, "all done")


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
        await workflows.checkpoint(held.id, held.lease_token, f"s{seq}", seq=seq)
        held = await again(workflows, held)
        assert held.crash_count == 1
        for done in range(seq + 1):
            await workflows.checkpoint(held.id, held.lease_token, f"s{done}", seq=done)
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
    await workflows.checkpoint(held.id, held.lease_token, "charge", 1, seq=0)
    await workflows.checkpoint(held.id, held.lease_token, "ship", 2, seq=1)
    held = await again(workflows, held)
    with pytest.raises(ConflictError, match=r"step \d was '(charge|ship)' .* fork it to a new version"):
        await workflows.replay(held.id, held.lease_token, key, seq=seq, name=name)
    with pytest.raises(ConflictError, match=r"step \d was"):
        await workflows.checkpoint(held.id, held.lease_token, key, 3, seq=seq, name=name)
    with pytest.raises(ConflictError, match=r"step \d was"):
        await workflows.wait_for(held.id, held.lease_token, "e", step_key=f"{key}!", seq=seq)
    with pytest.raises(ConflictError, match=r"step \d was"):
        await workflows.sleep_until(held.id, held.lease_token, datetime.now(UTC), step_key=f"{key}!", seq=seq)
    assert [step.output for step in await workflows.steps(held.id)] == [1, 2]


async def test_a_runner_that_lost_its_lease_is_refused(workflows: AsyncWorkflowRepository) -> None:
    first = await claimed(workflows)
    key = (first.id, first.lease_token)
    await workflows.checkpoint(*key, "fetch", "first", seq=0)
    second = await again(workflows, first)
    await workflows.checkpoint(second.id, second.lease_token, "sum", "second", seq=1)
    for step, seq in (("sum", 1), ("report", 2)):
        with pytest.raises(LeaseLost, match=f"workflow execution {first.id}: its lease is not yours"):
            await workflows.checkpoint(*key, step, "second", seq=seq)
        with pytest.raises(LeaseLost):
            await workflows.sleep_until(*key, datetime.now(UTC), step_key=step, seq=seq)
        with pytest.raises(LeaseLost):
            await workflows.wait_for(*key, "e", step_key=step, seq=seq)
    for step, seq in (("fetch", 0), ("sum", 1), ("report", 2)):
        with pytest.raises(LeaseLost):
            await workflows.replay(*key, step, seq=seq)
    with pytest.raises(LeaseLost):
        await workflows.complete(*key, "stale")
    with pytest.raises(LeaseLost):
        await workflows.fail(*key, "stale")
    with pytest.raises(LeaseLost):
        await workflows.release(*key)
    assert await workflows.heartbeat([first.id], first.lease_token) == []
    assert await workflows.checkpoint(*key, "fetch", "first", seq=0) == "first"  # it wrote that one itself
    assert [step.output for step in await workflows.steps(first.id)] == ["first", "second"]
    with pytest.raises(LeaseLost):
        await workflows.checkpoint(0, first.lease_token, "a", seq=0)


async def test_of_two_runners_at_once_the_one_with_the_lease_writes(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        first = await claimed(AsyncWorkflowRepository(uow.session))
    async with committed.begin() as uow:
        second = await again(AsyncWorkflowRepository(uow.session), first)
    async with committed.session() as a, committed.session() as b:
        stale, fresh = AsyncWorkflowRepository(a), AsyncWorkflowRepository(b)
        assert await fresh.checkpoint(second.id, second.lease_token, "fetch", "b", seq=0) == "b"
        with pytest.raises(LeaseLost):
            await stale.checkpoint(first.id, first.lease_token, "fetch", "a", seq=0)
        await b.commit()
        with pytest.raises(LeaseLost):
            await stale.checkpoint(first.id, first.lease_token, "fetch", "a", seq=0)
    async with committed.begin() as uow:
        steps = await AsyncWorkflowRepository(uow.session).steps(first.id)
        assert [step.output for step in steps] == ["b"]


async def test_a_step_and_its_effects_are_one_transaction(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        held = await claimed(AsyncWorkflowRepository(uow.session))
    async with committed.session() as session:
        workflows = AsyncWorkflowRepository(session)
        await workflows.define("effect", {})
        await workflows.checkpoint(held.id, held.lease_token, "fetch", 1, seq=0)
        await session.rollback()
    async with committed.begin() as uow:
        workflows = AsyncWorkflowRepository(uow.session)
        assert await workflows.steps(held.id) == []
        assert await workflows.versions("effect") == []


@pytest.mark.parametrize(("seq", "attempt"), [(-1, 1), (2**31, 1), (0, 0)])
async def test_the_number_of_a_step_is_checked(
    workflows: AsyncWorkflowRepository, seq: int, attempt: int
) -> None:
    with pytest.raises(InvalidInputError, match=r"(seq|attempt): expected"):
        await workflows.checkpoint(1, uuid.uuid4(), "a", seq=seq, attempt=attempt)


async def test_a_key_that_no_index_can_hold_is_refused(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    long = uuid.uuid4().hex + "".join(chr(0x4E00 + number % 20_000) for number in range(20_000))
    with pytest.raises(InvalidInputError):
        await workflows.checkpoint(held.id, held.lease_token, long, seq=0)


# Failing


async def test_a_failed_attempt_is_made_again_later(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, max_retries=2)
    for _ in range(2):
        assert await workflows.fail(held.id, held.lease_token, "boom") is PENDING
    found = await row(workflows, held.id)
    assert (found.retry_count, found.error_message, found.error_code) == (1, "boom", "handler")
    assert timedelta(0) < found.available_at - datetime.now(UTC) < timedelta(seconds=3)
    assert await workflows.claim("w", [held.workflow_id]) == []
    await expire(workflows._session, held.id, "available_at")
    held = await next_claim(workflows, held)
    assert held.retry_count == 1
    assert await workflows.fail(held.id, held.lease_token, "boom", delay=0, code="mine") is PENDING
    held = await next_claim(workflows, held)
    assert await workflows.fail(held.id, held.lease_token, "boom") is WorkflowExecutionStatus.FAILED
    found = await row(workflows, held.id)
    assert found.failed_at is not None
    assert (found.retry_count, found.completed_at) == (2, None)


async def test_a_failure_can_be_final(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    status = await workflows.fail(held.id, held.lease_token, "boom", retry=False)
    assert status is WorkflowExecutionStatus.FAILED
    with pytest.raises(InvalidInputError, match="delay: expected"):
        await workflows.fail(held.id, held.lease_token, "boom", delay=-1)


async def test_the_back_off_grows_and_is_bounded(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, max_retries=1000)
    for retries, low, high in ((0, 0.8, 2), (3, 7, 10), (500, 260, 340)):
        await set_columns(workflows._session, held.id, retry_count=retries)
        await workflows.fail(held.id, held.lease_token, "boom")
        delay = (await row(workflows, held.id)).available_at - datetime.now(UTC)
        assert low - 0.5 < delay.total_seconds() < high
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
    await workflows.heartbeat([held.id], held.lease_token)
    assert await workflows.reap() == {held.id: PENDING}
    found = await row(workflows, held.id)
    assert (found.error_code, found.retry_count, found.crash_count) == ("timeout", 1, 0)
    assert await workflows.reap() == {}


async def test_what_is_released_can_be_claimed_at_once(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    assert await workflows.release(held.id, held.lease_token) is PENDING
    held = await next_claim(workflows, held)
    assert (held.retry_count, held.crash_count) == (0, 0)
    await workflows.cancel(held.id)
    assert await workflows.release(held.id, held.lease_token) is CANCELLED


# Sleeping and waiting


async def test_an_execution_sleeps_until_its_time(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    key = (held.id, held.lease_token)
    until = datetime.now(UTC) + timedelta(hours=1)
    for _ in range(2):
        assert await workflows.sleep_until(*key, until, step_key="nap", seq=0) is True
    found = await row(workflows, held.id)
    assert (found.status, found.available_at, found.lease_expires_at) == (PENDING, until, None)
    with pytest.raises(LeaseLost):
        await workflows.checkpoint(*key, "a", seq=1)
    assert await workflows.claim("w", [held.workflow_id]) == []
    await expire(workflows._session, held.id, "available_at")
    held = await next_claim(workflows, held)
    slept = await workflows.sleep_until(held.id, held.lease_token, until, step_key="nap", seq=0)
    assert slept is False
    (step,) = await workflows.steps(held.id)
    assert (step.output, held.current_step) == (until.isoformat(), 1)
    with pytest.raises(InvalidInputError, match="until: a time without time zone"):
        await workflows.sleep_until(*key, datetime(2030, 1, 1), step_key="nap", seq=1)


async def test_an_event_that_came_before_the_wait_counts(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    assert await workflows.deliver(held.id, "paid", 1) is True
    assert await workflows.deliver(held.id, "paid", 2) is False
    key = (held.id, held.lease_token)
    for _ in range(2):
        result = await workflows.wait_for(*key, "paid", step_key="wait", seq=0, timeout=60)
        assert result == WaitResult(received=True, payload=1)
    assert (await row(workflows, held.id)).status is RUNNING


async def test_an_event_ends_the_wait(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    key = (held.id, held.lease_token)
    for _ in range(2):
        assert await workflows.wait_for(*key, "paid", step_key="wait", seq=0) is None
    found = await row(workflows, held.id)
    assert (found.status, found.waiting_for, found.wait_deadline_at) == (PENDING, "paid", None)
    assert await workflows.claim("w", [held.workflow_id]) == []
    assert await workflows.deliver(held.id, "other") is True
    assert await workflows.claim("w", [held.workflow_id]) == []
    assert await workflows.deliver(held.id, "paid", {"amount": 5}) is True
    assert await workflows.deliver(held.id, "paid", {"amount": 6}) is False
    held = await next_claim(workflows, held)
    for _ in range(2):
        result = await workflows.wait_for(held.id, held.lease_token, "paid", step_key="wait", seq=0)
        assert result == WaitResult(received=True, payload={"amount": 5})
    assert [event.name for event in await workflows.events(held.id)] == ["other", "paid"]


async def test_a_wait_ends_when_its_time_is_up(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    wait = {"step_key": "wait", "seq": 0, "timeout": 60.0}

    async def wait_again(held: ClaimedWorkflow) -> WaitResult | None:
        return await workflows.wait_for(held.id, held.lease_token, "paid", **wait)  # type: ignore[arg-type]

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
    assert await wait_again(held) == WaitResult(received=False, payload=None)
    assert await workflows.deliver(held.id, "paid", 1) is True
    assert await wait_again(held) == WaitResult(received=False, payload=None)
    held = await again(workflows, held)
    assert await wait_again(held) == WaitResult(received=False, payload=None)
    assert (await row(workflows, held.id)).wait_deadline_at is None


async def test_what_has_ended_takes_no_more_events(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.deliver(held.id, "paid", 1)
    await workflows.complete(held.id, held.lease_token)
    assert await workflows.deliver(held.id, "paid", 1) is False
    with pytest.raises(InvalidTransition, match="is completed and takes no more events"):
        await workflows.deliver(held.id, "other")
    with pytest.raises(NotFoundError, match="workflow execution 0"):
        await workflows.deliver(0, "paid")


# Cancelling


async def family(workflows: AsyncWorkflowRepository) -> list[int]:
    """A parent, two children, a grandchild of the second, and a stranger."""
    parent, _ = await workflows.start("ingest")
    one, _ = await workflows.start("ingest", parent_id=parent.id)
    two, _ = await workflows.start("ingest", parent_id=parent.id)
    three, _ = await workflows.start("ingest", parent_id=two.id)
    stranger, _ = await workflows.start("ingest")
    return [parent.id, one.id, two.id, three.id, stranger.id]


async def test_cancelling_reaches_all_that_was_started(workflows: AsyncWorkflowRepository) -> None:
    workflow = await active(workflows)
    parent, one, two, three, stranger = await family(workflows)
    assert [child.id for child in await workflows.children(parent)] == [one, two]
    held = await workflows.claim("w", [workflow.id], limit=2)
    assert [claim.id for claim in held] == [parent, one]
    await workflows.complete(one, held[1].lease_token)
    locked = await workflows._session.scalars(queries.tree(parent))
    assert locked.all() == [parent, one, two, three]
    cancelled = await workflows.cancel(parent)
    assert list(cancelled.items()) == [(parent, RUNNING), (two, CANCELLED), (three, CANCELLED)]
    assert (await row(workflows, stranger)).status is PENDING
    assert (await row(workflows, one)).status is WorkflowExecutionStatus.COMPLETED
    (beat,) = await workflows.heartbeat([parent], held[0].lease_token)
    assert beat.cancel_requested_at is not None
    assert await workflows.cancel(parent) == {parent: RUNNING}
    assert await workflows.fail(parent, held[0].lease_token, "stopped") is CANCELLED
    assert await workflows.cancel(parent) == {}
    found = await row(workflows, parent)
    assert found.cancelled_at is not None
    assert found.failed_at is None


async def test_a_cancelled_execution_begins_no_step(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    key = (held.id, held.lease_token)
    await workflows.checkpoint(*key, "fetch", 1, seq=0)
    await workflows.cancel(held.id)
    assert await workflows.replay(*key, "fetch", seq=0) is not None
    with pytest.raises(InvalidTransition, match="its cancellation was asked for"):
        await workflows.replay(*key, "sum", seq=1)
    with pytest.raises(InvalidTransition, match="its cancellation was asked for"):
        await workflows.sleep_until(*key, datetime.now(UTC), step_key="nap", seq=1)
    with pytest.raises(InvalidTransition, match="its cancellation was asked for"):
        await workflows.wait_for(*key, "e", step_key="wait", seq=1)
    with pytest.raises(InvalidTransition, match="starts no more parts"):
        await workflows.start("ingest", parent_id=held.id)
    assert await workflows.checkpoint(*key, "sum", 2, seq=1) == 2  # a step that was under way is kept
    await expire(workflows._session, held.id)
    assert await workflows.reap() == {held.id: CANCELLED}


async def test_what_sleeps_or_waits_is_cancelled_at_once(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.wait_for(held.id, held.lease_token, "e", step_key="wait", seq=0)
    assert await workflows.cancel(held.id) == {held.id: CANCELLED}
    found = await row(workflows, held.id)
    assert (found.waiting_for, found.status) == (None, CANCELLED)
    assert await workflows.claim("w", [held.workflow_id]) == []


async def test_what_has_ended_is_not_cancelled(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.complete(held.id, held.lease_token)
    with pytest.raises(InvalidTransition, match="is completed and cannot be cancelled"):
        await workflows.cancel(held.id)
    with pytest.raises(InvalidTransition, match="starts no more parts"):
        await workflows.start("ingest", parent_id=held.id)
    with pytest.raises(NotFoundError, match="workflow execution 0"):
        await workflows.cancel(0)
    with pytest.raises(NotFoundError, match="id of the parent"):
        await workflows.start("ingest", parent_id=0)


# Forking


async def test_a_fork_takes_the_first_steps_over(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, max_retries=7, timeout_seconds=9)
    key = (held.id, held.lease_token)
    for seq, step in enumerate(("fetch", "sum", "report")):
        await workflows.checkpoint(*key, step, seq, seq=seq)
    await workflows.deliver(held.id, "paid", 1)
    await workflows.fail(*key, "boom", retry=False)
    fork, created = await workflows.fork(held.id, 2, idempotency_key="f")
    assert created
    assert (fork.forked_from_id, fork.forked_from_seq, fork.current_step) == (held.id, 2, 2)
    assert (fork.input_data, fork.definition, fork.workflow_version) == ({"n": 1}, DEFINITION, 1)
    assert (fork.max_retries, fork.timeout_seconds, fork.status) == (7, 9, PENDING)
    assert [(step.step_key, step.output) for step in await workflows.steps(fork.id)] == [
        ("fetch", 0),
        ("sum", 1),
    ]
    assert await workflows.events(fork.id) == []
    same, created = await workflows.fork(held.id, 2, idempotency_key="f")
    assert (same is fork, created) == (True, False)
    with pytest.raises(ConflictError, match="idempotency_key 'f': is another"):
        await workflows.fork(held.id, 1, idempotency_key="f")
    (found,) = await workflows.claim("w", [held.workflow_id])
    assert found.id == fork.id
    step = await workflows.replay(found.id, found.lease_token, "sum", seq=1)
    assert step is not None
    assert await workflows.checkpoint(found.id, found.lease_token, "report", 9, seq=2) == 9
    assert [step.output for step in await workflows.steps(held.id)] == [0, 1, 2]


async def test_a_fork_may_go_to_another_version(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    newer, _ = await workflows.define("ingest", {"steps": ["fetch"]})
    fork, _ = await workflows.fork(held.id, 0, workflow_id=newer.id)
    assert (fork.workflow_id, fork.workflow_version, fork.definition) == (newer.id, 2, {"steps": ["fetch"]})
    with pytest.raises(InvalidTransition, match="only 0 of the 1 steps before step 1 are finished"):
        await workflows.fork(held.id, 1)
    with pytest.raises(NotFoundError, match="execution 0"):
        await workflows.fork(0, 0)
    with pytest.raises(NotFoundError, match="execution 0"):
        await workflows.fork(0, 3)
    with pytest.raises(NotFoundError, match="workflow 0"):
        await workflows.fork(held.id, 0, workflow_id=0)
    with pytest.raises(InvalidInputError, match="from_seq"):
        await workflows.fork(held.id, -1)


# History


async def test_the_history_covers_everything_once(workflows: AsyncWorkflowRepository) -> None:
    await active(workflows)
    started = [(await workflows.start("ingest"))[0].id for _ in range(5)]
    await active(workflows)
    started.append((await workflows.start("ingest"))[0].id)
    seen: list[int] = []
    after: str | None = None
    while True:
        page = await workflows.history("ingest", after=after, limit=4)
        seen += [execution.id for execution in page]
        after = page.next
        if after is None:
            break
    assert seen == started[::-1]
    assert (await workflows.history("other")).items == []
    with pytest.raises(InvalidInputError, match="limit"):
        await workflows.history("ingest", limit=0)


async def test_old_executions_are_purged_from_the_leaves(workflows: AsyncWorkflowRepository) -> None:
    workflow = await active(workflows)
    parent, _ = await workflows.start("ingest")
    child, _ = await workflows.start("ingest", parent_id=parent.id)
    live, _ = await workflows.start("ingest")
    for held in await workflows.claim("w", [workflow.id], limit=2):
        await workflows.checkpoint(held.id, held.lease_token, "a", seq=0)
        await workflows.complete(held.id, held.lease_token)
        await set_columns(workflows._session, held.id, completed_at=func.now() - timedelta(hours=2))
    assert await workflows.purge(older_than=3 * 3600) == 0
    assert await workflows.purge(older_than=3600) == 1
    assert [found.id for found in await workflows.history("ingest")] == [live.id, parent.id]
    assert await workflows.purge(older_than=3600) == 1
    assert [found.id for found in await workflows.history("ingest")] == [live.id]
    assert await workflows._session.scalar(select(func.count()).select_from(WorkflowStep)) == 0
    assert child.id != parent.id
    for _ in range(5):
        done, _ = await workflows.start("ingest")
        await workflows.cancel(done.id)
        await set_columns(workflows._session, done.id, cancelled_at=func.now() - timedelta(hours=2))
    assert await workflows.purge(older_than=3600, limit=2) == 2
    with pytest.raises(InvalidInputError, match="older_than"):
        await workflows.purge(older_than=-1)


# Plans


@pytest.mark.parametrize("rows", [0, 10_000, 300_000])
async def test_the_hot_statements_have_their_index(
    uow: AsyncUnitOfWork, schema: str | None, rows: int
) -> None:
    session = uow.session
    ids = await fill(session, rows if schema is None else min(rows, 10_000))
    for table in ("workflows", "workflow_executions", "workflow_steps"):
        await session.execute(text(f"ANALYZE {schema or 'public'}.{table}"))
    if rows == 0:  # an empty table is read as a whole unless that is forbidden
        await session.execute(text("SET LOCAL enable_seqscan = off"))
    token = uuid.uuid4()
    plans: dict[str, Any] = {
        "idx_workflow_executions_ready": executions.claim("w", token, ids[:3], limit=10, lease=60),
        "idx_workflow_executions_running": executions.reap(limit=100, jitter=1.0),
        "idx_workflow_executions_finished": queries.purge(3600, limit=100),
        "Index Cond: (id = '1'::bigint)": executions.complete(1, token, None),
        "Index Cond: (id = '1'::bigint) ": workflow_steps.sleep(
            1, token, "a", seq=1, until=datetime.now(UTC)
        ),
    }
    for index, statement in plans.items():
        selected = (
            statement if isinstance(statement, Select) else select(func.count()).select_from(statement.cte())
        )
        plan = "\n".join(await session.scalars(Explain(selected)))
        assert "Seq Scan on workflow_" not in plan, plan
        assert rows == 0 or index.strip() in plan, plan


async def fill(session: AsyncSession, rows: int) -> Sequence[int]:
    """Ten versions, and so many executions, of which three in ten wait and one, with a step behind it, runs."""
    for number in range(10):
        await session.execute(insert(Workflow).values(name="w", version=number + 1, definition={}))
    ids = (await session.scalars(select(Workflow.id).order_by(Workflow.id))).all()
    number = func.generate_series(1, rows).column_valued("number")
    values = {
        "workflow_id": ids[0] + number % 10,
        "status": literal_column(
            "CASE WHEN number / 10 % 10 < 3 THEN 'pending' WHEN number / 10 % 10 = 3 THEN 'running' ELSE 'completed' END"
        ),
        "completed_at": literal_column(
            "CASE WHEN number / 10 % 10 > 3 THEN now() - number * interval '1 second' END"
        ),
        "available_at": literal_column("now() - number * interval '1 second'"),
    }
    await session.execute(insert(WorkflowExecution).from_select([*values], select(*values.values())))
    step = {
        "execution_id": WorkflowExecution.id,
        "step_key": literal("a"),
        "seq": literal(0),
        "name": literal("a"),
    }
    running = select(*step.values()).where(WorkflowExecution.status == RUNNING)
    await session.execute(insert(WorkflowStep).from_select([*step], running))
    return ids
