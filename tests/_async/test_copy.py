"""COPY, which the driver runs by itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text

from alfred_db import AsyncDatabase, Task
from alfred_db.errors import DatabaseUnavailable
from alfred_db.execution._async.copy import copy_rows
from alfred_db.models.base import table_of
from alfred_db.repositories._async.tasks import AsyncTaskRepository


async def test_a_connection_that_dies_in_a_copy_is_replaced(committed: AsyncDatabase) -> None:
    columns = table_of(Task).c
    async with committed.session() as session:
        await AsyncTaskRepository(session).enqueue("before")
        pid = await session.scalar(text("SELECT pg_backend_pid()"))

        def rows() -> Iterator[tuple[str, str]]:
            url = committed.url.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(url) as killer:
                killer.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            yield str(uuid.uuid4()), "x"

        with pytest.raises(DatabaseUnavailable, match="terminating connection") as caught:
            await copy_rows(session, table_of(Task), [columns.task_id, columns.intent], rows())
        assert caught.value.retryable
        await session.rollback()
        assert await AsyncTaskRepository(session).count() == 0
    async with committed.begin() as uow:
        await AsyncTaskRepository(uow.session).enqueue_many([{"intent": "x"}] * 1001)
        assert await AsyncTaskRepository(uow.session).count() == 1001


class Stop(BaseException):
    """What a framework may raise to end work, such as a timeout."""


@pytest.mark.parametrize("kind", [ValueError, psycopg.OperationalError, KeyboardInterrupt, SystemExit, Stop])
@pytest.mark.parametrize("after", [0, 5000], ids=["at once", "in the middle"])
async def test_what_the_rows_raise_goes_on(
    committed: AsyncDatabase, kind: type[BaseException], after: int
) -> None:
    """An ordinary error leaves the earlier work of the transaction; an interruption closes the connection."""
    columns = table_of(Task).c
    raised = kind("in the rows")

    def rows() -> Iterator[tuple[str, str]]:
        for _ in range(after):
            yield str(uuid.uuid4()), "x"
        raise raised

    async with committed.session() as session:
        await AsyncTaskRepository(session).enqueue("before")
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises((kind, DatabaseUnavailable)) as caught:
            await copy_rows(session, table_of(Task), [columns.task_id, columns.intent], rows())
        assert raised in (caught.value, caught.value.__cause__)
        if issubclass(kind, Exception):
            await session.commit()
    async with committed.session() as session:
        assert await AsyncTaskRepository(session).count() == int(issubclass(kind, Exception))
        if not issubclass(kind, Exception):
            alive = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND state = 'active'")
            assert await session.scalar(alive, {"pid": pid}) == 0
