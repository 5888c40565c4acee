"""Callers that wait for the end of tasks, and results as values of a type."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from sqlalchemy import URL, text

from alfred_db import AsyncDatabase, Database, TaskOutcome, TaskStatus, read_result
from alfred_db.errors import InvalidInputError, NotFoundError, WaitTimeout
from alfred_db.execution._sync import waiting
from alfred_db.values.tasks import NewTaskResult


class Color(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: float
    y: int = 0
    tags: list[str] = field(default_factory=list)


class Named(TypedDict):
    name: str
    points: NotRequired[list[Point]]


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, notify=True) as database:
        yield database


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements of a waiting caller."""
    sent: list[str] = []
    real = waiting.fetch

    def fetch(session: Any, statement: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(next((one.sql for one in statement.texts.values()), ""))
        return real(session, statement, *arguments, **options)

    monkeypatch.setattr(waiting, "fetch", fetch)
    monkeypatch.setattr(waiting, "LISTENING", 300.0)
    return sent


@contextmanager
def later(work: Callable[[], object]) -> Iterator[None]:
    """Do the work in another thread, in a second."""
    timer = threading.Timer(1.0, work)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def complete(db: Database, *results: NewTaskResult) -> None:
    with db.begin() as uow:
        (held,) = uow.tasks.claim("w")
        uow.tasks.complete(held, results)


def test_a_caller_is_notified_of_the_end(db: Database, looks: list[str]) -> None:
    """It would look again after five minutes only."""
    with db.begin() as uow:
        task, _ = uow.tasks.enqueue("x", task_id="t")
    result = NewTaskResult(result_type="r", content={"x": 1, "y": 2})
    with later(lambda: complete(db, result)):
        outcome = db.tasks.wait(task.id, 60, result=Point)
    assert outcome == TaskOutcome(
        task.id, "t", TaskStatus.COMPLETED, None, None, [("r", {"x": 1, "y": 2})], Point(1.0, 2)
    )
    assert len(looks) <= 5, "a mark, a look, one once it listens, one at the end, and the results"


@pytest.mark.parametrize("pooler", ["transaction", None])
def test_without_notifications_it_looks(
    database_url: URL, pooler: Literal["transaction"] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LISTENING", 0.5)
    with Database(database_url, pooler=pooler) as db:
        with db.begin() as uow:
            task, _ = uow.tasks.enqueue("x")

        def fail() -> None:
            with db.begin() as uow:
                (held,) = uow.tasks.claim("w")
                uow.tasks.fail(held, "it broke", code="broken", retry=False)

        with later(fail):
            outcome = db.tasks.wait(task.id, 60)
    assert (outcome.status, outcome.error_code, outcome.error) == (TaskStatus.FAILED, "broken", "it broke")
    assert (outcome.result, outcome.completed) == (None, False)


def test_a_task_that_has_ended_is_returned_at_once(db: Database) -> None:
    with db.begin() as uow:
        task, _ = uow.tasks.enqueue("x")
        uow.tasks.cancel(task.id)
    assert db.tasks.wait(task.id, 0).status is TaskStatus.CANCELLED


def test_a_wait_that_lasts_too_long_raises(db: Database) -> None:
    with db.begin() as uow:
        task, _ = uow.tasks.enqueue("x", delay=60)
    with pytest.raises(WaitTimeout, match=f"task {task.id}: is pending and has not ended in time"):
        db.tasks.wait(task.id, 0.1)
    with pytest.raises(TimeoutError):
        db.tasks.wait(task.id, 0)
    with pytest.raises(NotFoundError, match="not found"):
        db.tasks.wait(uuid.uuid4(), 0)
    with pytest.raises(InvalidInputError, match="timeout"):
        db.tasks.wait(task.id, -1)


def test_a_cancelled_wait_keeps_no_connection(database_url: URL) -> None:
    async def waits() -> None:
        async with AsyncDatabase(database_url, pool_size=1) as db:
            async with db.begin() as uow:
                task, _ = await uow.tasks.enqueue("x", delay=60)
            for _ in range(5):
                waiter = asyncio.create_task(db.tasks.wait(task.id))
                await asyncio.sleep(0.05)
                waiter.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiter
            async with db.begin() as uow:
                assert await uow.tasks.get(task.id) is not None
            count = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'alfred-db waiter'")
            left = None
            until = time.monotonic() + 20
            while left != 0 and time.monotonic() < until:
                async with db.begin() as uow:
                    left = await uow.session.scalar(count)
                await asyncio.sleep(0.1)
            assert left == 0

    asyncio.run(waits())


WHEN = datetime(2030, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Point, {"x": 1}, Point(1.0)),
        (Point, {"x": 1.5, "tags": ["a"]}, Point(1.5, tags=["a"])),
        (Named, {"name": "n", "points": [{"x": 1}]}, {"name": "n", "points": [Point(1.0)]}),
        (list[Point | None], [{"x": 1}, None], [Point(1.0), None]),
        (dict[str, Color], {"a": "red"}, {"a": Color.RED}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2], (1, 2)),
        (Literal["a", "b"], "b", "b"),
        (datetime, WHEN.isoformat(), WHEN),
        (uuid.UUID, str(uuid.UUID(int=1)), uuid.UUID(int=1)),
        (dict, {"a": 1}, {"a": 1}),
        (int, 1, 1),
        (bool, True, True),
    ],
)
def test_results_are_read_as_their_type(kind: Any, value: Any, expected: Any) -> None:
    found = read_result(kind, value)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Point, {"y": 1}, "result: x missing"),
        (Point, {"x": 1, "z": 1}, "result: 1 unknown names; expected tags, x, y"),
        (Point, {"x": "secret"}, "result.x: expected float, got str"),
        (Point, [], "result: expected Point, got list"),
        (Named, {"name": 1}, "result.name: expected str, got int"),
        (list[int], [1, "secret"], "result[1]: expected int, got str"),
        (tuple[int, str], [1], "result: expected 2 values, got 1"),
        (int, True, "result: expected int, got bool"),
        (int | None, "secret", "result: expected NoneType, got str"),
        (Color, "secret", "result: expected Color, got str"),
        (datetime, "secret", "result: expected datetime, got str"),
        (Literal["a"], "secret", "result: expected"),
    ],
)
def test_results_of_another_type_are_refused(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        read_result(kind, value)
    assert str(refused.value).startswith(message)
    assert "secret" not in str(refused.value)


def test_models_of_pydantic_are_read() -> None:
    pydantic = pytest.importorskip("pydantic", reason="pydantic is not installed")
    model = pydantic.create_model("Model", x=(int, ...))
    assert read_result(model, {"x": 1}).x == 1
    with pytest.raises(InvalidInputError, match="result: not a Model, at x"):
        read_result(model, {"x": "secret"})
