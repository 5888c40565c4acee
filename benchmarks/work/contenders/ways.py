"""The parts of the driver's path, one after the other: what a unit of work that claims a task or searches takes with each."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from contender import serve
from sqlalchemy.orm import Session, sessionmaker

from alfred_db import Database, NewTask, UnitOfWork
from alfred_db.engine.session import DirectSession
from alfred_db.engine.unit import Begun
from alfred_db.execution._sync import search
from alfred_db.queries.shapes.driver_statement import DriverStatement
from alfred_db.repositories._sync import task_leases

DOCUMENTS, WARM = 2000, 100


def prepare(url: str) -> None:
    """Fill a migrated database with documents."""
    numbers = random.Random(1)
    with Database(url) as db:
        db.upgrade()
        with db.begin() as uow:
            uow.documents.add_many(
                [{"content": f"document {number}"} for number in range(DOCUMENTS)],
                embeddings=[_vector(numbers) for _ in range(DOCUMENTS)],
            )
        with db.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("ANALYZE")


def claim(url: str, way: str, count: int) -> dict[str, float]:
    """Seconds of so many units of work that claim a task."""

    def one(uow: UnitOfWork) -> None:
        assert len(uow.tasks.claim(worker="bench")) == 1

    with Database(url) as db:
        with db.begin() as uow:
            uow.tasks.enqueue_many([NewTask(intent="noop")] * (count + WARM))
        return _timed(_unit(db, way), one, count)


def find(url: str, way: str, count: int) -> dict[str, float]:
    """The same of units that search the documents."""
    vector = _vector(random.Random(2))

    def one(uow: UnitOfWork) -> None:
        assert len(uow.documents.search(vector).hits) == 10

    with Database(url) as db:
        return _timed(_unit(db, way), one, count)


def _unit(db: Database, way: str) -> Callable[[], AbstractContextManager[UnitOfWork]]:
    if way == "kept connection":
        return db.begin
    kind = DirectSession if way == "begun by the driver" else Session
    sessions = sessionmaker(db.engine, class_=kind, expire_on_commit=False)
    if way == "plain SQLAlchemy":
        setattr(task_leases, "fetch", _by_sqlalchemy)  # noqa: B010
        setattr(search, "fetch_rows", _by_sqlalchemy)  # noqa: B010
    return lambda: Begun(sessions(), UnitOfWork)


def _by_sqlalchemy(
    session: Session, statement: DriverStatement[Any], parameters: Mapping[str, Any], **_: Any
) -> Sequence[Any]:
    return session.execute(statement.built, parameters).all()


def _timed(
    unit: Callable[[], AbstractContextManager[UnitOfWork]], one: Callable[[UnitOfWork], None], count: int
) -> dict[str, float]:
    def several(number: int) -> None:
        for _ in range(number):
            with unit() as uow:
                one(uow)

    several(WARM)
    start, cpu = time.perf_counter(), time.process_time()
    several(count)
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def _vector(numbers: random.Random) -> list[float]:
    return [numbers.gauss(0, 1) for _ in range(384)]


if __name__ == "__main__":
    serve(prepare, claim, find)
