"""What a user of the library writes: mypy and pyright, both strict, accept it and infer these types."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

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
    ClaimedTask,
    Database,
    DatabaseUnavailable,
    Embedding,
    Lease,
    Memory,
    MemoryBank,
    NewResult,
    Page,
    Task,
    TaskFailed,
    TaskStatus,
    UnitOfWork,
    VectorLike,
    Worker,
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
            assert_type(uow.agents.list_alive(within=60), Sequence[Agent])
            assert_type(uow.agents.find_by_capability("draft", "edit"), Sequence[Agent])
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
            assert_type(await AsyncAgentRepository(session).list_alive(), Sequence[Agent])


def workers(db: Database, other: AsyncDatabase) -> tuple[Worker, AsyncWorker]:
    def plain(task: ClaimedTask, lease: Lease) -> list[NewResult]:
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
