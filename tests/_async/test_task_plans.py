"""What the server makes of the statements, on an empty, a middling and a large queue."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from plans import SIZES
from sqlalchemy import text, update
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import ClauseElement

from alfred_db import AsyncDatabase, NewTask, Task
from alfred_db.queries import lease_endings, queue_claims, task_releases
from alfred_db.queries import leases as held
from alfred_db.queries import task_claims as claims
from alfred_db.queries import task_maintenance as upkeep
from alfred_db.queries import tasks as enqueued
from alfred_db.queries.task_leases import TASKS
from alfred_db.repositories._async.tasks import AsyncTaskRepository

pytestmark = pytest.mark.not_on_citus("EXPLAIN shows the plan of the coordinator")

FILL = """
    INSERT INTO {table} (task_id, intent, priority, status, available_at, created_at, completed_at, failed_at,
        lease_token, lease_expires_at, attempt_deadline_at, parent_task_id, queue)
    SELECT gen_random_uuid()::text, 'intent-' || n % 7, 1 + n % 5, status,
        now() + CASE WHEN n % 10 < 3 AND status = 'pending' THEN interval '1 day' ELSE n * interval '-1 ms' END,
        now() - n * interval '1 s',
        CASE status WHEN 'completed' THEN now() - n * interval '1 s' END,
        CASE status WHEN 'failed' THEN now() - n * interval '1 s' END,
        gen_random_uuid(),
        CASE status WHEN 'processing' THEN now() + (n % 3 - 1) * interval '1 hour' END,
        CASE status WHEN 'processing' THEN now() + interval '1 hour' END,
        CASE WHEN n % 50 = 0 THEN (SELECT id FROM {table} WHERE task_id = 'whole-' || n / 50 % 200) END,
        'queue-' || n % 11
    FROM generate_series(1, :size) AS n,
        LATERAL (SELECT CASE WHEN n % 100 < 60 THEN 'pending' WHEN n % 100 < 97 THEN 'completed'
            WHEN n % 100 < 99 THEN 'failed' WHEN n % 1000 < 100 THEN 'processing' ELSE 'completed' END AS status) AS s
"""
"""60 in 100 wait, three in ten of these for tomorrow; 38 in 100 are over; 2 failed; one in 1000 runs."""

WHOLES = """
    INSERT INTO {table} (task_id, intent, available_at)
    SELECT 'whole-' || n, 'whole', now() + interval '1 day' FROM generate_series(0, 199) AS n
"""
"""Tasks that one in 50 of the others is a part of."""

CLAIM: dict[str, Any] = {
    "worker": "w",
    "token": uuid.uuid4(),
    "lease": timedelta(seconds=60),
    "queues": ["queue-1", "queue-2"],
    "intents": ["intent-1", "intent-2"],
}
KINDS: list[tuple[dict[str, bool], str]] = [
    ({"by_queue": by_queue, "by_intent": by_intent, "single": single}, f"idx_tasks_waiting_{index}")
    for by_queue, by_intent, index in (
        (True, False, "queue"),
        (False, True, "intent"),
        (True, True, "queue_intent"),
    )
    for single in (True, False)
]
"""What can be claimed besides just anything, and the index that serves it."""
LIMITS = queue_claims.Limits(running=True, rates=True, keys=True, further=True)
RESTRICTED = [
    (False, False, False, False),
    (False, True, False, False),
    (True, False, False, False),
    (True, True, False, False),
    (True, False, True, True),
    (True, True, True, False),
]
"""The forms of a claim within limits: by queue, by intent, of one queue, and of one intent."""
BACKOFF = {"base": 1.0, "cap": 9.0, "jitter": 0.1}


async def fill(database: AsyncDatabase, size: int, *, analyze: bool = True) -> None:
    """Replace the tasks by so many."""
    table = "tasks" if database.schema is None else f"{database.schema}.tasks"
    async with database.session() as session:
        await session.execute(text(f"TRUNCATE {table} CASCADE"))
        await session.execute(text(WHOLES.format(table=table)))
        await session.execute(text(FILL.format(table=table)), {"size": size})
        if analyze:
            await session.execute(text(f"ANALYZE {table}"))
        await session.commit()


async def plan_of(
    session: AsyncSession,
    statement: Any,
    parameters: Mapping[str, Any],
    *,
    schema: Any,
    explain: str = "EXPLAIN",
) -> str:
    translation: dict[str, Any] = {}
    if schema is not None:
        translation = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
    compiled = statement.compile(dialect=psycopg.dialect(), **translation)
    connection = await session.connection()
    found = await connection.exec_driver_sql(f"{explain} {compiled}", {**compiled.params, **parameters})
    return "\n".join(found.scalars())


async def test_every_statement_goes_by_its_index(committed: AsyncDatabase) -> None:
    for size in SIZES if committed.schema is None else SIZES[:2]:
        await fill(committed, size, analyze=size > 0)
        async with committed.session() as session:
            for limit in (1, 10, 500):
                plan = await plan_of(
                    session,
                    claims.claim(limit, by_queue=False, by_intent=False, by_agent=False),
                    CLAIM,
                    schema=committed.schema,
                )
                _assert_claims_in_order(plan)
                for kinds, index in KINDS:
                    plan = await plan_of(
                        session,
                        claims.claim(limit, by_agent=False, **kinds),
                        CLAIM,
                        schema=committed.schema,
                    )
                    _assert_claims_of_kinds_in_order(plan, index)
            if size == 0:
                continue
            indexes: dict[str, tuple[ClauseElement, Mapping[str, Any]]] = {
                "idx_tasks_running": (lease_endings.reap(TASKS, 500), BACKOFF),  # type: ignore[dict-item]
                "idx_tasks_finished": (upkeep.purge(86400.0, status=None, limit=1000), {}),
                "idx_tasks_failed": (enqueued.requeue_failed(intent=None, limit=1000), {}),
                "idx_tasks_ready": (upkeep.health("tasks"), {}),
                "pk_tasks": (enqueued.list_(after=None, limit=100), {}),
                "idx_tasks_parent_task_id": (enqueued.cancel(uuid.uuid4(), children=True), {}),
                "uq_tasks_task_id": (enqueued.standing("t", "k"), {}),
                "(pk_tasks|idx_tasks_running)": (  # type: ignore[dict-item]
                    lease_endings.complete(TASKS),
                    {"id": uuid.uuid4(), "token": uuid.uuid4()},
                ),
                "(pk_tasks|idx_tasks_running) ": (  # type: ignore[dict-item]
                    held.heartbeat(TASKS),
                    {
                        "ids": [uuid.uuid4()] * 100,
                        "tokens": [uuid.uuid4()] * 100,
                        "lease": timedelta(seconds=1),
                    },
                ),
            }
            for index, (statement, parameters) in indexes.items():
                plan = await plan_of(session, statement, parameters, schema=committed.schema)
                assert re.search(index.strip(), plan), (size, plan)
                assert not re.search(r"Seq Scan on (\w+\.)?tasks", plan), (size, plan)


def _assert_claims_in_order(plan: str) -> None:
    """The loop over the levels is the outer one, and reads each of them from the index in order.

    That they are claimed in order of urgency rests on this, so it is more than speed.
    """
    claim = plan[plan.index("CTE claimed") : plan.index("\n  ->")]
    loop = claim[claim.index("Nested Loop") :]
    level, waiting = loop.index("Function Scan on generate_series level"), loop.index("LockRows")
    assert level < waiting, plan
    _assert_is_guarded(claim[: claim.index("Nested Loop")])
    assert "Index Scan using idx_tasks_ready" in loop[waiting:], plan
    assert "Index Cond: ((priority = level.priority) AND (available_at <=" in loop[waiting:], plan
    assert "Sort" not in loop, plan
    assert "Hash" not in loop, plan


def _assert_is_guarded(before: str) -> None:
    """Whether a queue is restricted is asked once, before the loop, and of the queues alone."""
    assert re.search(r"One-Time Filter: .*NOT \(?InitPlan|One-Time Filter: .*NOT \$\d", before), before
    assert set(re.findall(r"Scan (?:using \w+ )?on (?:\w+\.)?(\w+)", before)) <= {
        "queues",
        "idx_queues_restricted",
        "pk_queues",
    }


def _assert_claims_of_kinds_in_order(plan: str, index: str) -> None:
    """The same; each level and kind is one range of the index of this claim, whatever the size and the statistics."""
    claim = plan[plan.index("CTE claimed") : plan.index("\n  ->")]
    loop = claim[claim.index("Nested Loop") :]
    waiting = loop.index("LockRows")
    assert "Function Scan on generate_series level" in loop[:waiting], plan
    _assert_is_guarded(claim[: claim.index("Nested Loop")])
    scans = re.findall(r"Scan using (\w+) on", loop)
    assert set(scans) == {index}, plan
    assert loop.count("((- priority) = (- level.priority)) AND (available_at <=") == len(scans), plan
    assert "Sort" not in loop[waiting:], plan
    assert not re.search("Hash|Bitmap|Seq Scan", loop), plan


async def test_claims_of_kinds_go_by_their_index_under_statistics_of_another_time(
    committed: AsyncDatabase,
) -> None:
    table = "tasks" if committed.schema is None else f"{committed.schema}.tasks"
    filing = (
        f"INSERT INTO {table} (task_id, intent, queue)"
        " SELECT gen_random_uuid()::text, {intent}, {queue} FROM generate_series(1, {size}) AS n"
    )
    times = (
        ("'intent-1'", "'queue-1'", 3_000),  # all of one kind
        ("'x'", "'x'", 3_000),  # none of those that are asked for
        ("'x' || n", "'x' || n", 3_000),  # of very many kinds
    )
    async with committed.session() as session:
        for intent, queue, size in times:
            await session.execute(text(f"TRUNCATE {table} CASCADE"))
            await session.execute(text(filing.format(intent=intent, queue=queue, size=size)))
            await session.execute(text(f"ANALYZE {table}"))
            for kinds, index in KINDS:
                statement = claims.claim(1, by_agent=False, **kinds)
                plan = await plan_of(session, statement, CLAIM, schema=committed.schema)
                _assert_claims_of_kinds_in_order(plan, index)
            await session.execute(text(f"TRUNCATE {table} CASCADE"))
            for other, elsewhere in (("'other'", "'queue-1'"), ("'intent-1'", "'other'")):
                await session.execute(text(filing.format(intent=other, queue=elsewhere, size=10_000)))
            await session.execute(text(filing.format(intent="'intent-1'", queue="'queue-1'", size=10)))
            statement = claims.claim(1, by_queue=True, by_intent=True, by_agent=False)
            plan = await plan_of(
                session,
                statement,
                CLAIM,
                schema=committed.schema,
                explain="EXPLAIN (ANALYZE, BUFFERS)",
            )
            claim = plan[plan.index("CTE claimed") :]
            pages = re.search(r"Buffers: shared hit=(\d+)", claim)
            assert pages is not None
            assert int(pages[1]) < 200, plan
            assert re.search(r"rows=1(\.00)? loops=1", claim), plan
            _assert_claims_of_kinds_in_order(plan, "idx_tasks_waiting_queue_intent")
        await session.rollback()


@pytest.mark.parametrize("size", [0, 10_000])
async def test_a_restricted_claim_reads_nothing_of_closed_queues(committed: AsyncDatabase, size: int) -> None:
    """Each part goes by its index, and a backlog of a paused queue, a full one or a key adds no page to the claim."""
    await fill(committed, size, analyze=size > 0)
    table = "tasks" if committed.schema is None else f"{committed.schema}.tasks"
    filing = (
        f"INSERT INTO {table} (task_id, intent, queue, concurrency_key, priority, available_at)"
        " SELECT gen_random_uuid()::text, 'intent-1', :queue, :key, :priority, now() - interval '1 hour'"
        " FROM generate_series(1, :size)"
    )
    held = text(
        f"UPDATE {table} SET status = 'processing', lease_expires_at = now() + interval '1 hour' WHERE id IN"
        f" (SELECT id FROM {table} WHERE queue = :queue AND priority = 5 LIMIT 1)"
    )
    async with committed.begin() as uow:
        await uow.queues.pause("paused")
        await uow.queues.set("full", max_running=1)
        await uow.queues.set("queue-1", max_running=1000, max_running_per_key=1)
        await uow.session.execute(text(filing), {"queue": "full", "key": None, "priority": 5, "size": 1})
        await uow.session.execute(text(filing), {"queue": "queue-1", "key": "busy", "priority": 5, "size": 1})
        for queue in ("full", "queue-1"):
            await uow.session.execute(held, {"queue": queue})
        await uow.session.execute(text(filing), {"queue": "queue-1", "key": "idle", "priority": 4, "size": 3})
    pages: list[list[int]] = []
    for backlog in (200, 10_000):
        async with committed.session() as session:
            for queue in ("paused", "full", "queue-1"):
                given = {"queue": queue, "key": "busy", "priority": 4, "size": backlog}
                await session.execute(text(filing), given)
            pages.append([])
            # The first time marks the entries of rows that are gone.
            for by_queue, by_intent, one_queue, one_intent in 2 * RESTRICTED:
                statement = queue_claims.claim(
                    1,
                    by_queue,
                    by_intent,
                    by_agent=False,
                    limits=LIMITS,
                    one_queue=one_queue,
                    one_intent=one_intent,
                )
                given = {**CLAIM, "queues": CLAIM["queues"][: 1 if one_queue else None], "start": 0}
                savepoint = await session.begin_nested()
                plan = await plan_of(
                    session,
                    statement,
                    given,
                    schema=committed.schema,
                    explain="EXPLAIN (ANALYZE, BUFFERS)",
                )
                await savepoint.rollback()
                assert not re.search(r"(Seq|Bitmap Heap) Scan on (\w+\.)?tasks", plan), plan
                found = re.search(r"Buffers: shared hit=(\d+)", plan)
                assert found is not None
                pages[-1].append(int(found[1]))
                assert re.search(r"CTE done\s+-> +Update on .*rows=1(\.00)? loops=1", plan), plan
            await session.rollback()
    few, many = (each[len(RESTRICTED) :] for each in pages)
    assert all(after < 2 * before for before, after in zip(few, many, strict=True)), pages


@pytest.mark.parametrize("analyze", [True, False])
async def test_what_an_end_releases_is_found_by_its_key(committed: AsyncDatabase, analyze: bool) -> None:
    """However much waits, and whatever the planner knows of it: no index of all that waits is read for a key."""
    await fill(committed, 5000, analyze=False)
    table = "tasks" if committed.schema is None else f"{committed.schema}.tasks"
    async with committed.begin() as uow:
        keys = [f"key-{number}" for number in range(50)]
        await uow.tasks.enqueue_many(
            [NewTask(intent="own", queue="own", ordering_key=key) for key in 3 * keys]
        )
    if analyze:
        async with committed.autocommit() as uow:
            await uow.session.execute(text(f"ANALYZE {table}"))
    async with committed.session() as session:
        claimed = await AsyncTaskRepository(session).claim("w", limit=50, queues=["own"])
        ids = [task.id for task in claimed]
        savepoint = await session.begin_nested()
        one = await plan_of(
            session,
            task_releases.complete_followed(),
            {"id": claimed[0].id, "token": claimed[0].lease_token},
            schema=committed.schema,
            explain="EXPLAIN (ANALYZE, BUFFERS)",
        )
        await savepoint.rollback()
        await session.execute(
            update(Task).where(Task.id.in_(ids)).values(status="completed", lease_expires_at=None)
        )
        plan = await plan_of(
            session,
            task_releases.settle(),
            {"ids": ids},
            schema=committed.schema,
            explain="EXPLAIN (ANALYZE, BUFFERS)",
        )
        await session.rollback()
    assert len(ids) == 50
    for each in (plan, one):
        assert "idx_tasks_waiting" not in each, each
        assert not re.search(r"Seq Scan on (\w+\.)?tasks", each), each
    assert re.search(r"Update on (\w+\.)?tasks .*rows=50(\.00)? loops=1", plan), plan
    assert len(re.findall(r"Update on (?:\w+\.)?tasks .*rows=1(?:\.00)? loops=1", one)) == 2, one


async def test_claims_are_in_order_and_disjoint_whatever_the_statistics(committed: AsyncDatabase) -> None:
    await fill(committed, 3_000, analyze=False)
    async with committed.session() as session:
        tasks = AsyncTaskRepository(session)
        seen: list[int] = []
        ids: set[uuid.UUID] = set()
        while batch := await tasks.claim(worker="w", limit=70):
            assert len(batch) <= 70
            seen += [task.priority for task in batch]
            ids |= {task.id for task in batch}
        assert len(ids) == len(seen) == 3_000 * 6 // 10 * 7 // 10
        assert seen == sorted(seen, reverse=True)


async def test_statistics_of_an_idle_hour_do_no_harm(committed: AsyncDatabase) -> None:
    table = "tasks" if committed.schema is None else f"{committed.schema}.tasks"
    size, some = 4_000, 400
    async with committed.session() as session:
        await session.execute(text(f"TRUNCATE {table} CASCADE"))
        filing = text(
            f"INSERT INTO {table} (task_id, intent) SELECT gen_random_uuid()::text, 'x' FROM generate_series(1, :size)"
        )
        await session.execute(filing, {"size": size})
        await session.execute(text(f"ANALYZE {table}"))
        token = uuid.uuid4()
        holding = text(
            f"UPDATE {table} SET status = 'processing', lease_token = :token, attempt_deadline_at = now(),"
            " lease_expires_at = now() - interval '1 s' RETURNING id"
        )
        held_ids = (await session.scalars(holding, {"token": token})).all()
        mine = {"ids": held_ids[:some], "tokens": [token] * some}
        statements: dict[str, tuple[ClauseElement, Mapping[str, Any]]] = {
            "heartbeat_many": (held.heartbeat(TASKS), {**mine, "lease": timedelta(seconds=-1)}),  # type: ignore[dict-item]
            "reap": (lease_endings.reap(TASKS, some), BACKOFF),  # type: ignore[dict-item]
            "complete_many": (lease_endings.complete_many(TASKS), mine),  # type: ignore[dict-item]
        }
        for name, (statement, parameters) in statements.items():
            savepoint = await session.begin_nested()
            plan = await plan_of(
                session, statement, parameters, schema=committed.schema, explain="EXPLAIN (ANALYZE)"
            )
            await savepoint.rollback()
            compared = [int(rows) for rows in re.findall(r"Rows Removed by Join Filter: (\d+)", plan)]
            assert sum(compared) < size, (name, plan)
            assert re.search(rf"Update on .*actual .* rows={some}\b", plan), (name, plan)


async def test_a_claim_touches_few_pages_past_a_hill_of_future_work(committed: AsyncDatabase) -> None:
    await fill(committed, 0, analyze=False)
    async with committed.session() as session:
        table = "tasks" if committed.schema is None else f"{committed.schema}.tasks"
        for priority, delay in ((5, "1 day"), (1, "0")):
            await session.execute(
                text(
                    f"INSERT INTO {table} (task_id, intent, priority, available_at)"
                    f" SELECT gen_random_uuid()::text, 'x', {priority}, now() + interval '{delay}'"
                    " FROM generate_series(1, :size)"
                ),
                {"size": 60_000 if priority == 5 else 1_000},
            )
        await session.execute(text(f"ANALYZE {table}"))
        statement = claims.claim(10, by_queue=False, by_intent=False, by_agent=False)
        plan = await plan_of(
            session,
            statement,
            CLAIM,
            schema=committed.schema,
            explain="EXPLAIN (ANALYZE, BUFFERS)",
        )
        pages = re.findall(r"Buffers: shared (?:hit=(\d+))?(?: read=(\d+))?", plan)
        claim = max(int(hit or 0) + int(read or 0) for hit, read in pages)
        assert claim < 500, "all that it read and wrote, for ten tasks"
        assert (await AsyncTaskRepository(session).queue_health()).ready == 990


@pytest.mark.parametrize(
    "table", ["tasks", "scheduler_executions", "workflow_executions", "processed_messages"]
)
async def test_the_storage_suits_a_queue(db: AsyncDatabase, table: str) -> None:
    async with db.session() as session:
        options = await session.scalar(
            text("SELECT reloptions FROM pg_class WHERE oid = to_regclass(:name)"),
            {"name": table if db.schema is None else f"{db.schema}.{table}"},
        )
    expected = {
        "autovacuum_vacuum_scale_factor=0.01",
        "autovacuum_vacuum_threshold=1000",
        "autovacuum_vacuum_cost_delay=0",
    }
    if table != "processed_messages":  # which is not written twice
        expected.add("fillfactor=70")
    assert options is not None
    assert expected <= set(options)
