"""Claims that run into a timeout, an empty pool or a cancellation: nothing is taken, and nothing stays broken."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import text

from alfred_db import AsyncDatabase, Database, TaskRepository, TaskStatus
from alfred_db.errors import DatabaseUnavailable

from .processes import Server

LOCK = text("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
"""As a migration does: even a claim has to wait."""


def test_a_claim_that_times_out_takes_nothing(db: Database) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue("x")
    with db.session() as blocker:
        blocker.execute(LOCK)
        with db.session() as session:
            session.execute(text("SET LOCAL statement_timeout = '200ms'"))
            with pytest.raises(DatabaseUnavailable, match="timeout"):
                TaskRepository(session).claim(worker="w")
    with db.begin() as uow:
        assert uow.tasks.count(status=TaskStatus.PENDING) == 1
        (held,) = uow.tasks.claim(worker="w")
        assert held.claim_seq == 1


def test_workers_that_find_no_connection_may_try_again(own_server: Server, database: str) -> None:
    with Database(own_server.url(database), pool_size=1) as db:
        pool = db.engine.pool
        pool._timeout, pool._max_overflow = 0.1, 0  # type: ignore[attr-defined]
        with db.begin() as uow:
            uow.tasks.enqueue_many([{"intent": "x"}] * 20)
        taken: list[str] = []
        refused: list[bool] = []

        def work() -> None:
            while len(taken) < 20:
                try:
                    with db.begin() as uow:
                        claims = uow.tasks.claim(worker="w")
                        uow.session.execute(text("SELECT pg_sleep(0.03)"))
                        taken.extend(held.task_id for held in claims)
                except DatabaseUnavailable as error:
                    refused.append(error.retryable)

        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert len(set(taken)) == len(taken) == 20
        assert refused
        assert all(refused)
        assert pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("committing", [False, True], ids=["claiming", "claimed"])
async def test_a_cancelled_claim(own_server: Server, database: str, db: Database, committing: bool) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue("x")
    async with AsyncDatabase(own_server.url(database), pool_size=1) as found:

        async def claim() -> None:
            async with found.begin() as uow:
                claims = await uow.tasks.claim(worker="w")
                assert len(claims) == 1
                await asyncio.sleep(30)

        with db.session() as blocker:
            if not committing:
                blocker.execute(LOCK)
            claiming = asyncio.create_task(claim())
            await asyncio.sleep(0.5)
            claiming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await claiming
            blocker.rollback()
        assert found.engine.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        async with found.begin() as later:
            (held,) = await later.tasks.claim(worker="w")
            assert held.claim_seq == 1
            await later.tasks.complete(held)
