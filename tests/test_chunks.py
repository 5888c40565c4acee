"""Long work in short transactions: the same outcome as in one, and nobody waits for it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sized
from typing import Any

import numpy as np
import pytest
from sqlalchemy import URL, event, text

from alfred_db import AsyncDatabase, Database, UnitOfWork
from alfred_db.engine import chunks
from alfred_db.errors import InvalidTransition, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.search.filters import Filter, eq
from alfred_db.values.rate_limits import RateLimitMethod

ROWS, LIMIT = 25, 10
Call = Callable[[UnitOfWork, int | None], int | Sized]


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def _bank(uow: UnitOfWork) -> Call:
    bank = uow.memory_banks.get_or_create("bank").id
    uow.memories.remember_many(bank, [{"content": f"memory {n}"} for n in range(ROWS)])
    return lambda uow, limit: uow.memory_banks.delete(bank, limit=limit)


def _pruned(uow: UnitOfWork) -> Call:
    bank = uow.memory_banks.get_or_create("pruned").id
    uow.memories.remember_many(bank, [{"content": f"memory {n}"} for n in range(ROWS + 7)])
    return lambda uow, limit: uow.memories.prune(bank, keep=7, limit=limit)


def _entries(uow: UnitOfWork) -> Call:
    for number in range(ROWS):
        uow.memory_entries.remember("space", f"entry {number}")
    return lambda uow, limit: uow.memory_entries.forget_all("space", limit=limit)


def _session(uow: UnitOfWork) -> Call:
    uow.conversations.append_many("talk", [{"role": "user", "content": f"{n}"} for n in range(ROWS)])
    return lambda uow, limit: uow.conversations.delete_session("talk", limit=limit)


def _cached(uow: UnitOfWork) -> Call:
    uow.cache.set_many({f"p:{number}": b"" for number in range(ROWS)})
    uow.cache.set("q:1", b"")
    return lambda uow, limit: uow.cache.clear("p:", limit=limit)


def _limited(uow: UnitOfWork) -> Call:
    for number in range(ROWS):
        algorithm: RateLimitMethod = "token-bucket" if number % 2 else "fixed-window"
        uow.rate_limits.hit(f"p:{number}", limit=5, period=60, algorithm=algorithm)
    uow.rate_limits.hit("q:1", limit=5, period=60)
    return lambda uow, limit: uow.rate_limits.clear("p:", limit=limit)


def _signed_in(uow: UnitOfWork) -> Call:
    for _ in range(ROWS):
        uow.web_sessions.create("ada")
    kept = uow.web_sessions.create("ada").token
    return lambda uow, limit: uow.web_sessions.revoke_user("ada", keep=kept, limit=limit)


def _node(uow: UnitOfWork) -> Call:
    hub = uow.entities.upsert_node("t", "hub").id
    for number in range(ROWS):
        other = uow.entities.upsert_node("t", f"n{number}").id
        uow.entities.upsert_edge(*((hub, other) if number % 2 else (other, hub)), "knows")
    return lambda uow, limit: uow.entities.delete_node(hub, limit=limit)


def _points(uow: UnitOfWork) -> None:
    uow.knowledge.create_collection("points")
    uow.knowledge.upsert(
        "points", [{"id": f"{n}", "vector": None, "payload": {"k": n % 2, "x": 1}} for n in range(2 * ROWS)]
    )


def _deleted(uow: UnitOfWork) -> Call:
    _points(uow)
    return lambda uow, limit: uow.knowledge.delete(
        "points", where=Filter(must=[eq("payload.k", 1)]), limit=limit
    )


def _set(uow: UnitOfWork) -> Call:
    _points(uow)
    return lambda uow, limit: uow.knowledge.set_payload(
        "points", {"y": 2}, where=Filter(must=[eq("payload.k", 1)]), limit=limit
    )


def _overwritten(uow: UnitOfWork) -> Call:
    _points(uow)
    payload = {"k": 1, "z": 1}
    return lambda uow, limit: uow.knowledge.overwrite_payload(
        "points", payload, where=Filter(must=[eq("payload.k", 1)]), limit=limit
    )


def _shortened(uow: UnitOfWork) -> Call:
    _points(uow)
    return lambda uow, limit: uow.knowledge.delete_payload(
        "points", ["x"], where=Filter(must=[eq("payload.k", 1)]), limit=limit
    )


def _parts(uow: UnitOfWork) -> Call:
    root, _ = uow.tasks.enqueue("root")
    branch, _ = uow.tasks.enqueue("branch", parent_task_id=root.id)
    for number in range(ROWS - 2):
        uow.tasks.enqueue("leaf", parent_task_id=branch.id if number % 2 else root.id)
    uow.tasks.claim(worker="w", limit=5, intents=["leaf"])
    return lambda uow, limit: uow.tasks.cancel(root.id, limit=limit)


def _executions(uow: UnitOfWork) -> Call:
    workflow, _ = uow.workflows.define("flow", {})
    uow.workflows.activate(workflow.id)
    root, _ = uow.workflows.start("flow")
    for _ in range(ROWS - 1):
        uow.workflows.start("flow", parent_id=root.id)
    uow.workflows.claim("w", [workflow.id], limit=3)
    return lambda uow, limit: uow.workflows.cancel(root.id, limit=limit)


CASES = {
    build.__name__: build
    for build in (
        _bank, _pruned, _entries, _session, _cached, _limited, _signed_in, _node, _deleted, _set, _overwritten, _shortened, _parts,
        _executions,
    )
}  # fmt: skip

CONTENT = (
    "SELECT count(*) FROM memory_banks",
    "SELECT array_agg(content ORDER BY content) FROM memories",
    "SELECT count(*) FROM memory_entries",
    "SELECT count(*), (SELECT count(*) FROM conversation_sessions) FROM conversations",
    "SELECT array_agg(key ORDER BY key) FROM cache",
    "SELECT count(*) FROM web_sessions",
    "SELECT array_agg(key ORDER BY key) FROM rate_limits",
    "SELECT count(*), (SELECT count(*) FROM entity.entity_node) FROM entity.entity_edge",
    "SELECT array_agg((id, payload) ORDER BY id) FROM knowledge_points",
    "SELECT array_agg((intent, status, cancel_requested_at IS NULL) ORDER BY id) FROM tasks",
    "SELECT array_agg((status, cancel_requested_at IS NULL) ORDER BY id) FROM workflow_executions",
)


def _numbered(done: int | Sized) -> int:
    return done if isinstance(done, int) else len(done)


def content(uow: UnitOfWork) -> list[Any]:
    return [uow.session.execute(text(sql)).one() for sql in CONTENT]


@pytest.mark.parametrize("name", CASES)
def test_in_parts_it_does_the_same(migrated_url: URL, name: str) -> None:
    with Database(migrated_url) as database, database.session() as session:
        uow = UnitOfWork(session)
        call = CASES[name](uow)
        session.flush()
        savepoint = session.begin_nested()
        assert _numbered(call(uow, None)) == ROWS
        whole = content(uow)
        savepoint.rollback()
        savepoint = session.begin_nested()
        assert [_numbered(call(uow, LIMIT)) for _ in range(3)] == [LIMIT, LIMIT, ROWS - 2 * LIMIT]
        assert content(uow) == whole
        savepoint.rollback()
        # The last part is full: one more call says that nothing is left.
        assert [_numbered(call(uow, ROWS)) for _ in range(2)] == [ROWS, 0]
        assert content(uow) == whole
        session.rollback()


def test_what_has_ended_cannot_be_cancelled_in_parts_either(migrated_url: URL) -> None:
    with Database(migrated_url) as database, database.session() as session:
        uow = UnitOfWork(session)
        uow.tasks.enqueue("done")
        (claimed,) = uow.tasks.claim(worker="w", intents=["done"])
        uow.tasks.complete(claimed)
        with pytest.raises(InvalidTransition):
            uow.tasks.cancel(claimed.id, limit=5)
        with pytest.raises(NotFoundError):
            uow.tasks.cancel(uuid.uuid4(), limit=5)
        with pytest.raises(NotFoundError):
            uow.workflows.cancel(4711, limit=5)
        session.rollback()


def test_each_chunk_is_committed(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "FIRST", 4)
    with db.begin() as uow:
        call = _bank(uow)
    seen: list[tuple[int, int]] = []

    def left(rows: int) -> None:
        with db.begin() as uow:
            seen.append((rows, uow.session.scalar(text("SELECT count(*) FROM memories")) or 0))

    assert db.in_chunks(call, limit=6, progress=left) == ROWS
    assert seen[0] == (4, ROWS - 4)
    assert seen[-1] == (ROWS, 0)
    assert all(rows + rest == ROWS for rows, rest in seen)
    with db.begin() as uow:
        assert uow.memory_banks.get_by_name("bank") is None


def test_what_is_committed_stays_when_a_later_chunk_fails(db: Database) -> None:
    with db.begin() as uow:
        call = _session(uow)
    calls: list[int] = []

    def failing(uow: UnitOfWork, limit: int) -> int | Sized:
        calls.append(limit)
        if len(calls) == 2:
            raise RuntimeError("stop")
        return call(uow, limit)

    with pytest.raises(RuntimeError, match="stop"):
        db.in_chunks(failing, limit=10)
    with db.begin() as uow:
        assert uow.session.scalar(text("SELECT count(*) FROM conversations")) == ROWS - 10


def test_parts_of_a_sequence(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "LONG", 1e6)
    reported: list[int] = []
    with db.begin() as uow:
        bank = uow.memory_banks.get_or_create("bank").id
    told: list[Any] = [{"content": f"memory {number}"} for number in range(ROWS)]
    stored = db.in_chunks_of(
        told, lambda uow, part: uow.memories.remember_many(bank, part), limit=10, progress=reported.append
    )
    assert (stored, reported) == (ROWS, [10, 20, 25])


def test_the_same_for_asyncio(database_url: URL) -> None:
    async def run() -> list[int]:
        async with AsyncDatabase(database_url) as db:
            async with db.begin() as uow:
                bank = (await uow.memory_banks.get_or_create("bank")).id

            async def remember(uow: AsyncUnitOfWork, part: Any) -> Sized:
                return await uow.memories.remember_many(bank, part)

            async def delete(uow: AsyncUnitOfWork, limit: int) -> int:
                return await uow.memory_banks.delete(bank, limit=limit)

            told = [{"content": f"memory {number}"} for number in range(ROWS)]
            return [await db.in_chunks_of(told, remember, limit=10), await db.in_chunks(delete, limit=10)]

    assert asyncio.run(run()) == [ROWS, ROWS]


def test_chunks_follow_the_time_that_their_rows_take() -> None:
    made = chunks.Chunks(1000, None)
    sizes: list[int] = []
    for seconds in (0.01, 0.01, 0.15, 0.08, 0.01, 0.2, 0.11, 0.06):
        made.took(seconds)
        sizes.append(made.size)
    assert sizes == [200, 400, 200, 200, 400, 200, 100, 100]


def test_chunks_stay_large_if_smaller_ones_take_as_long() -> None:
    made = chunks.Chunks(1000, None)
    sizes: list[int] = []
    for _ in range(6):
        made.took(0.3)
        sizes.append(made.size)
    assert sizes == [50, 100, 100, 100, 100, 100]
    small = chunks.Chunks(10, None)
    for _ in range(4):
        small.took(0.3)
    assert small.size == 10


# Consolidation


def _similar(uow: UnitOfWork) -> int:
    """Ten texts three times each, as near to each other as vectors of single precision are."""
    chance = np.random.default_rng(7)
    directions = chance.standard_normal((10, 384), dtype=np.float32)
    bank = uow.memory_banks.get_or_create("similar").id
    for number in range(30):
        noise = chance.standard_normal(384, dtype=np.float32) * np.float32(0.001)
        uow.memories.remember(
            bank, f"memory {number}", embedding=directions[number % 10] + noise, importance=1 + number // 10
        )
    return bank


def test_groups_are_found_without_a_transaction_id(db: Database) -> None:
    with db.begin() as uow:
        bank = _similar(uow)
    compared: list[int] = []
    with db.begin() as uow:
        groups = uow.memories.find_groups(bank, progress=compared.append)
        assert uow.session.scalar(text("SELECT pg_current_xact_id_if_assigned()::text")) is None
    assert (len(groups), {len(group) for group in groups}, compared) == (10, {3}, [30])
    assert all(list(group) == sorted(group, reverse=True) for group in groups)
    with db.begin() as uow, pytest.raises(NotFoundError):
        uow.memories.find_groups(4711)


def test_groups_are_merged_in_parts(db: Database) -> None:
    with db.begin() as uow:
        bank = _similar(uow)
        groups = list(uow.memories.find_groups(bank))
        # One that is gone by now, one that means something else, and one whose newest is gone.
        uow.memories.forget(groups[0][1])
        uow.memories.update(groups[1][2], {"embedding": np.eye(1, 384, 5, dtype=np.float32)[0]})
        uow.memories.forget(groups[2][0])
    removed = db.in_chunks_of(
        groups,
        lambda uow, part: uow.memories.merge_groups(part, merge=lambda group: group[-1].content),
        limit=3,
    )
    assert removed == 1 + 1 + 0 + 7 * 2
    with db.begin() as uow:
        left = {memory.id: memory for memory in uow.memories.list(bank)}
    assert len(left) == 30 - 2 - removed
    assert set(groups[2][1:]) <= left.keys()
    newest = left[groups[4][0]]
    assert (newest.seen_count, newest.importance) == (3, 3)
    assert int(newest.content.removeprefix("memory ")) < 10


def test_merging_takes_three_statements(db: Database) -> None:
    with db.begin() as uow:
        bank = _similar(uow)
        groups = uow.memories.find_groups(bank)
    with db.begin() as uow:
        sent: list[str] = []
        connection = uow.session.connection()
        event.listen(connection, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
        assert uow.memories.merge_groups(groups) == 20
    assert [statement.split(" ", 1)[0] for statement in sent] == ["SELECT", "SELECT", "WITH", "UPDATE"]
