"""What a user of the library writes: mypy and pyright, both strict, accept it and infer these types."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
import pgvector
from sqlalchemy import ColumnElement, Row, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, mapped_column

from alfred_db import (
    Agent,
    AgentRepository,
    AgentStatus,
    AlfredDBError,
    AsyncAgentRepository,
    AsyncDatabase,
    AsyncLease,
    AsyncUnitOfWork,
    AsyncWorker,
    Base,
    Bit,
    Bits,
    ClaimedTask,
    Database,
    DatabaseUnavailable,
    DocumentRow,
    Embedding,
    HalfVector,
    Hit,
    Lease,
    Matrix,
    Memory,
    MemoryBank,
    MemoryRow,
    NewTaskResult,
    Page,
    SearchCandidates,
    SparseVector,
    Task,
    TaskFailed,
    TaskStatus,
    UnitOfWork,
    Vector,
    VectorLike,
    Worker,
    cosine_distance,
    hamming_distance,
    jaccard_distance,
    l1_distance,
    l2_distance,
    max_inner_product,
)


def work(url: str | None = None) -> None:
    with Database(url, schema="acme", pooler="transaction", pool_size=2, application_name="mine") as db:
        assert_type(db, Database)
        db.upgrade()
        db.verify()
        with db.begin() as uow:
            assert_type(uow, UnitOfWork)
            assert_type(uow.session, Session)
            assert_type(uow.agents, AgentRepository)
            agent = uow.agents.register("writer", type="llm", version="1", capabilities=["draft"])
            assert_type(agent, Agent)
            assert_type(agent.id, uuid.UUID)
            assert_type(agent.status, AgentStatus)
            assert_type(agent.capabilities, list[str])
            assert_type(agent.last_heartbeat, datetime | None)
            assert_type(agent.configuration, dict[str, Any])
            assert_type(uow.agents.get(agent.id), Agent | None)
            assert_type(uow.agents.get_by_name("writer"), Agent | None)
            assert_type(uow.agents.heartbeat(agent.id, agent.incarnation), datetime)
            assert_type(uow.agents.list_alive(within=60), Page[Agent])
            assert_type(uow.agents.find_by_capability("draft", "edit"), Page[Agent])
            page = uow.agents.list(limit=10)
            assert_type(page, Page[Agent])
            assert_type(page.next, str | None)
            assert_type([found.name for found in page], list[str])
        with db.session() as session:
            assert_type(session, Session)
            assert_type(AgentRepository(session).get(agent.id), Agent | None)
            assert_type(session.scalars(select(Task.status)).all(), Sequence[TaskStatus])


async def async_work(url: str | None = None) -> None:
    async with AsyncDatabase(url) as db:
        assert_type(db, AsyncDatabase)
        await db.upgrade()
        await db.verify()
        async with db.begin() as uow:
            assert_type(uow, AsyncUnitOfWork)
            assert_type(uow.session, AsyncSession)
            assert_type(uow.agents, AsyncAgentRepository)
            agent = await uow.agents.register("writer", type="llm", version="1")
            assert_type(agent, Agent)
            assert_type(await uow.agents.get(agent.id), Agent | None)
            assert_type(await uow.agents.heartbeat(agent.id, agent.incarnation), datetime)
            assert_type(await uow.agents.list(after=None), Page[Agent])
        async with db.session() as session:
            assert_type(session, AsyncSession)
            assert_type(await AsyncAgentRepository(session).list_alive(), Page[Agent])


def workers(db: Database, other: AsyncDatabase) -> tuple[Worker, AsyncWorker]:
    def plain(task: ClaimedTask, lease: Lease) -> list[NewTaskResult]:
        assert_type(lease.time_left, float)
        assert_type(lease.lost, bool)
        with db.begin() as uow:
            lease.complete(uow)
        return [{"result_type": "text", "content": {"text": task.content["text"]}}]

    async def unlike(task: ClaimedTask, lease: AsyncLease) -> None:
        async with other.begin() as uow:
            await lease.complete(uow, [{"result_type": "text", "content": {}}])
        if task.attempt > 1:
            raise TaskFailed("no", retry=False)

    return Worker(db, {"X": plain}, concurrency=2), AsyncWorker(other, {"X": unlike})


def models() -> None:
    bank = MemoryBank(name="mine")
    memory = Memory(content="…", bank=bank, embedding=np.zeros(384, dtype=np.float32))
    assert_type(memory.embedding, Embedding | None)
    assert_type(memory.importance, int)
    assert_type(memory.metadata_, dict[str, Any] | None)
    assert_type(bank.memories, list[Memory])
    for vector in ([0.1, 0.2], (1, 2), np.zeros(3)):
        takes(vector)


def takes(vector: VectorLike) -> npt.NDArray[np.float32] | None:
    try:
        return np.asarray(vector, dtype=np.float32)
    except DatabaseUnavailable as error:
        assert_type(error.retryable, bool)
    except AlfredDBError:
        raise
    return None


def vectors(session: Session, vector: VectorLike) -> None:
    found = cosine_distance(Memory.embedding, vector)
    assert_type(found, ColumnElement[float])
    for other in (l2_distance, l1_distance, max_inner_product):
        assert_type(other(Memory.embedding, Note.half), ColumnElement[float])
    for of_bits in (hamming_distance, jaccard_distance):
        assert_type(of_bits(Note.bits, [True, False]), ColumnElement[float])
    assert_type(l2_distance(Note.sparse, {0: 1.0, 7: 0.5}), ColumnElement[float])
    assert_type(cosine_distance(Note.sparse, pgvector.SparseVector({0: 1.0}, 30_000)), ColumnElement[float])
    nearest = select(Memory.id, found.label("distance")).order_by(found).limit(10)
    assert_type(session.execute(nearest).all(), Sequence[Row[int, float]])
    uow = UnitOfWork(session)
    ids, matrix = uow.fetch_matrix(select(Memory.id, Memory.embedding))
    assert_type(ids, list[int])
    assert_type(matrix, Matrix)
    candidates = uow.documents.candidates(vector, limit=200)
    assert_type(candidates, SearchCandidates[DocumentRow, int])
    hits = uow.documents.page(candidates, after=None, limit=20)
    assert_type(hits, Page[Hit[DocumentRow]])
    uow.documents.add_many([{"content": "x"}], embeddings=matrix)
    uow.documents.add_many([{"content": "x"}], embeddings=[vector, [0.5] * 384])
    assert_type(uow.documents.search_many(matrix), Sequence[Sequence[Hit[DocumentRow]]])
    note = session.get_one(Note, 1)
    assert_type(note.half, Embedding | None)
    assert_type(note.bits, Bits | None)


async def async_vectors(session: AsyncSession, vector: VectorLike) -> None:
    uow = AsyncUnitOfWork(session)
    assert_type(await uow.fetch_matrix(select(Note.id, Note.half)), tuple[list[int], Matrix])
    assert_type(await uow.memories.candidates(1, vector), SearchCandidates[MemoryRow, int])


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    half: Mapped[Embedding | None] = mapped_column(HalfVector(384), deferred=True)
    sparse: Mapped[pgvector.SparseVector | None] = mapped_column(SparseVector(30_000), deferred=True)
    bits: Mapped[Bits | None] = mapped_column(Bit(384), deferred=True)
    whole: Mapped[Embedding | None] = mapped_column(Vector(384, allow_zero=True), deferred=True)
