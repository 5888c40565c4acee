"""What lets callers act at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import Any, TypeVar

from alfred_db import Database
from alfred_db.repositories import UnitOfWork

T = TypeVar("T")


def call(db: Database, work: Callable[[UnitOfWork], T]) -> T:
    """Work in a transaction of its own."""
    with db.begin() as uow:
        return work(uow)


def together(db: Database, *works: Callable[[UnitOfWork], Any]) -> list[Future[Any]]:
    """Each in a transaction and a thread of its own, from the same moment."""
    barrier = Barrier(len(works))

    def begin(work: Callable[[UnitOfWork], Any]) -> Any:
        with db.begin() as uow:
            uow.session.connection()
            barrier.wait()
            return work(uow)

    with ThreadPoolExecutor(len(works)) as pool:
        return [pool.submit(begin, work) for work in works]


def results(futures: list[Future[Any]]) -> list[Any]:
    """What each gave; an error of one is raised."""
    return [future.result() for future in futures]


def errors(futures: list[Future[Any]]) -> list[type[BaseException]]:
    return [type(error) for future in futures if (error := future.exception()) is not None]
