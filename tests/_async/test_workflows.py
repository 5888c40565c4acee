from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from _async.workflow_runs import (
    CANCELLED,
    DEFINITION,
    PENDING,
    RUNNING,
    active,
    claimed,
    expire,
    row,
    set_columns,
)
from plans import SIZES, Explain
from sqlalchemy import ColumnElement, Select, func, insert, literal, literal_column, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import (
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
    NotFoundError,
)
from alfred_db.queries import leases, workflow_steps
from alfred_db.queries import workflow_executions as executions
from alfred_db.queries import workflows as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.workflows import AsyncWorkflowRepository
from alfred_db.values.workflows import MAX_JSON_BYTES

HOSTILE = "'; DROP TABLE workflows; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


@pytest.fixture
def workflows(uow: AsyncUnitOfWork) -> AsyncWorkflowRepository:
    return AsyncWorkflowRepository(uow.session)


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


async def test_every_replica_may_define_a_version(workflows: AsyncWorkflowRepository) -> None:
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
        with pytest.raises(NotFoundError, match="workflow 0: not found"):
            await call(0)


@pytest.mark.parametrize("version", [-1, 2**31])
async def test_a_version_is_a_number_from_one(workflows: AsyncWorkflowRepository, version: int) -> None:
    with pytest.raises(InvalidInputError, match="version: expected 1 to"):
        await workflows.define("ingest", DEFINITION, version=version)


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
    with pytest.raises(NotFoundError, match="workflow 'ingest': not found"):
        await workflows.start("ingest")
    draft, _ = await workflows.define("ingest", DEFINITION)
    with pytest.raises(InvalidTransition, match="workflow 'ingest': is not active"):
        await workflows.start("ingest")
    await workflows.activate(draft.id)
    await workflows.start("ingest", version=1)
    with pytest.raises(NotFoundError, match="version 2: not found"):
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


async def test_hostile_text_is_stored_unchanged(workflows: AsyncWorkflowRepository) -> None:
    value = {HOSTILE: [HOSTILE * 1000, None, 1.5, True, {"": ""}]}
    workflow, _ = await workflows.define(HOSTILE, value)
    await workflows.activate(workflow.id)
    started, _ = await workflows.start(HOSTILE, value, idempotency_key=HOSTILE)
    (held,) = await workflows.claim(HOSTILE, [workflow.id])
    assert (held.id, held.name, held.definition, held.input) == (started.id, HOSTILE, value, value)
    stored = await workflows.checkpoint(held, HOSTILE, value, seq=0, name=HOSTILE)
    assert stored == value
    assert await workflows.deliver(held.id, HOSTILE, value)
    await workflows.complete(held, value)
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
    with pytest.raises(InvalidInputError, match="definition: "):
        await workflows.define("ingest", value)
    with pytest.raises(InvalidInputError, match="input: "):
        await workflows.start("ingest", value)
    with pytest.raises(InvalidInputError, match="output: "):
        await workflows.checkpoint(held, "a", value, seq=0)
    with pytest.raises(InvalidInputError, match="output: "):
        await workflows.complete(held, value)
    with pytest.raises(InvalidInputError, match="payload: "):
        await workflows.deliver(held.id, "e", value)
    assert len(await workflows.steps(held.id)) == 0


@pytest.mark.parametrize("value", ["a\0b", "\ud800", {"a\0": 1}])
async def test_json_that_the_database_cannot_hold_is_refused(
    workflows: AsyncWorkflowRepository, value: Any
) -> None:
    held = await claimed(workflows)
    with pytest.raises(InvalidInputError):
        await workflows.checkpoint(held, "a", value, seq=0)


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
    await workflows.complete(held[1])
    locked = await workflows._session.scalars(queries.tree(parent))
    assert locked.all() == [parent, one, two, three]
    cancelled = await workflows.cancel(parent)
    assert list(cancelled.items()) == [(parent, RUNNING), (two, CANCELLED), (three, CANCELLED)]
    assert (await row(workflows, stranger)).status is PENDING
    assert (await row(workflows, one)).status is WorkflowExecutionStatus.COMPLETED
    assert (await workflows.heartbeat(held[0])).cancel_requested
    assert await workflows.cancel(parent) == {parent: RUNNING}
    assert await workflows.fail(held[0], "stopped") is CANCELLED
    assert await workflows.cancel(parent) == {}
    found = await row(workflows, parent)
    assert found.cancelled_at is not None
    assert found.failed_at is None


async def test_a_cancelled_execution_begins_no_step(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.checkpoint(held, "fetch", 1, seq=0)
    await workflows.cancel(held.id)
    assert await workflows.replay(held, "fetch", seq=0) is not None
    with pytest.raises(InvalidTransition, match="its cancellation was requested"):
        await workflows.replay(held, "sum", seq=1)
    with pytest.raises(InvalidTransition, match="its cancellation was requested"):
        await workflows.sleep_until(held, datetime.now(UTC), step_key="nap", seq=1)
    with pytest.raises(InvalidTransition, match="its cancellation was requested"):
        await workflows.wait_for(held, "e", step_key="wait", seq=1)
    with pytest.raises(InvalidTransition, match="starts no more parts"):
        await workflows.start("ingest", parent_id=held.id)
    assert await workflows.checkpoint(held, "sum", 2, seq=1) == 2  # a step that was under way is kept
    await expire(workflows._session, held.id)
    assert await workflows.reap() == {held.id: CANCELLED}


async def test_what_sleeps_or_waits_is_cancelled_at_once(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.wait_for(held, "e", step_key="wait", seq=0)
    assert await workflows.cancel(held.id) == {held.id: CANCELLED}
    found = await row(workflows, held.id)
    assert (found.waiting_for, found.status) == (None, CANCELLED)
    assert await workflows.claim("w", [held.workflow_id]) == []


async def test_what_has_ended_is_not_cancelled(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows)
    await workflows.complete(held)
    with pytest.raises(InvalidTransition, match="is completed and cannot be cancelled"):
        await workflows.cancel(held.id)
    with pytest.raises(InvalidTransition, match="starts no more parts"):
        await workflows.start("ingest", parent_id=held.id)
    with pytest.raises(NotFoundError, match="workflow execution 0"):
        await workflows.cancel(0)
    with pytest.raises(NotFoundError, match="id of the parent"):
        await workflows.start("ingest", parent_id=0)


async def test_a_fork_takes_the_first_steps_over(workflows: AsyncWorkflowRepository) -> None:
    held = await claimed(workflows, max_retries=7, timeout_seconds=9)
    for seq, step in enumerate(("fetch", "sum", "report")):
        await workflows.checkpoint(held, step, seq, seq=seq)
    await workflows.deliver(held.id, "paid", 1)
    await workflows.fail(held, "boom", retry=False)
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
    replayed = await workflows.replay(found, "sum", seq=1)
    assert replayed is not None
    assert await workflows.checkpoint(found, "report", 9, seq=2) == 9
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
        await workflows.checkpoint(held, "a", seq=0)
        await workflows.complete(held)
        await set_columns(workflows._session, held.id, completed_at=func.now() - timedelta(hours=2))
    assert await workflows.purge(older_than=3 * 3600) == 0
    assert await workflows.purge(older_than=3600, limit=1) == 1
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


@pytest.mark.parametrize("rows", SIZES)
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
    claim = {"worker": "w", "token": token, "lease": timedelta(seconds=60), "seconds": 60.0}
    parameters = {**claim, "base": 1.0, "cap": 300.0, "jitter": 0.1, "workflow_ids": ids[:3]}
    plans: dict[str, Any] = {
        "idx_workflow_executions_ready": executions.claim(limit=10),
        "idx_workflow_executions_running": executions.reap(100),
        "idx_workflow_executions_finished": queries.purge(3600, limit=100),
        "Index Cond: (id = '1'::bigint)": update(WorkflowExecution)
        .where(leases.held(executions.EXECUTIONS, 1, token))
        .values(executions.EXECUTIONS.progress)
        .returning(WorkflowExecution.id),
        "Index Cond: (id = '1'::bigint) ": workflow_steps.sleep(
            1, token, "a", seq=1, name="a", until=datetime.now(UTC)
        ),
    }
    for index, built in plans.items():
        statement = getattr(built, "built", built)  # the statement of SQLAlchemy, where the driver runs it
        selected = (
            statement if isinstance(statement, Select) else select(func.count()).select_from(statement.cte())
        )
        given = {name: parameters[name] for name in parameters.keys() & selected.compile().params.keys()}
        plan = "\n".join(await session.scalars(Explain(selected), given))
        assert "Seq Scan on workflow_" not in plan, plan
        assert rows == 0 or index.strip() in plan, plan


async def fill(session: AsyncSession, rows: int) -> Sequence[int]:
    """Ten versions, and so many executions, of which three in ten wait and one, with a step behind it, runs."""
    for version in range(10):
        await session.execute(insert(Workflow).values(name="w", version=version + 1, definition={}))
    ids = (await session.scalars(select(Workflow.id).order_by(Workflow.id))).all()
    number = func.generate_series(1, rows).column_valued("number")
    values: dict[str, ColumnElement[Any]] = {
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
