"""Two calls that write the same rows, given in another order: they wait for each other, and neither deadlocks.

Which methods take several rows is read from their signatures; CALLS has a call of each that writes.
"""

from __future__ import annotations

import os
import threading
import typing
from collections import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from injection.signatures import hints, methods, repositories
from sqlalchemy import URL, text

from alfred_db import Database
from alfred_db.errors import AlfredDBError, ConflictError
from alfred_db.repositories import UnitOfWork

ROUNDS = 200 if os.environ.get("ALFRED_DB_FAULTS") else 5
ROWS = 150

Given = Callable[[UnitOfWork, Sequence[int]], Any]
"""Writes the rows of these numbers, in this order."""


def names(numbers: Sequence[int], prefix: str = "") -> list[str]:
    return [f"{prefix}{number:03}" for number in numbers]


class Ground:
    """Rows that are there before; a call finds those of a number by its place."""

    def __init__(self, db: Database) -> None:
        with db.begin() as uow:
            uow.memory_banks.get_or_create("races")
        with db.begin() as uow:
            uow.knowledge.create_collection("races")
            uow.knowledge.upsert("races", points(range(ROWS)))
            self.bank = uow.memory_banks.get_or_create("races").id
            told = [{"content": name, "embedding": vector(384)} for name in names(range(ROWS))]
            self.memories = [row.id for row in uow.memories.remember_many(self.bank, told)]  # type: ignore[arg-type]
            uow.tasks.enqueue_many([{"intent": "race"} for _ in range(ROWS)])
            self.tasks = uow.tasks.claim(limit=ROWS, worker="w", lease=600.0, intents=["race"])
            workflow = uow.workflows.activate(uow.workflows.define("race", {})[0].id).id
            for _ in range(ROWS):
                uow.workflows.start("race")
            runs = uow.workflows.claim("w", [workflow], limit=ROWS, lease=600.0)
            self.runs, self.run_token = [run.id for run in runs], runs[0].lease_token
            job = uow.scheduler.create("race", "c", schedule_key="race")[0].id
            for _ in range(ROWS):
                uow.scheduler.trigger(job)
            executions = uow.scheduler.claim("w", limit=ROWS, lease=600.0)
            self.executions, self.token = [one.id for one in executions], executions[0].lease_token


def vector(dimensions: int) -> list[float]:
    return [1.0] + [0.0] * (dimensions - 1)


def points(numbers: Sequence[int], mark: int = 0) -> list[dict[str, Any]]:
    return [{"id": name, "payload": {"mark": mark}} for name in names(numbers)]


def documents(numbers: Sequence[int], prefix: str) -> list[dict[str, Any]]:
    return [{"external_id": name, "content": os.urandom(4).hex()} for name in names(numbers, prefix)]


def calls(ground: Ground) -> Mapping[str, Given]:
    """A call of each method that writes several rows which it is given; a method may have several."""
    fresh = {"number": 0}

    def new() -> str:
        """A prefix of keys that are not there; the same for both calls of a round."""
        return f"{fresh['number'] // 2:04}-"

    def counted(call: Callable[[UnitOfWork, Sequence[int], str], Any]) -> Given:
        def run(uow: UnitOfWork, numbers: Sequence[int]) -> Any:
            prefix = new()
            return call(uow, numbers, prefix)

        run.fresh = fresh  # type: ignore[attr-defined]
        return run

    def at(known: Sequence[Any], numbers: Sequence[int]) -> list[Any]:
        return [known[number] for number in numbers]

    return {
        "documents.add_many": counted(
            lambda u, n, p: u.documents.add_many(documents(n, p), on_conflict="update")
        ),
        "documents.add_many, known": lambda u, n: u.documents.add_many(
            documents(n, ""), on_conflict="update"
        ),
        "documents.add_many, ignore": counted(
            lambda u, n, p: u.documents.add_many(documents(n, p), on_conflict="ignore")
        ),
        "documents.add_many, error": counted(lambda u, n, p: u.documents.add_many(documents(n, p))),
        "knowledge.upsert": counted(
            lambda u, n, p: u.knowledge.upsert("races", [{"id": name} for name in names(n, p)])
        ),
        "knowledge.upsert, known": lambda u, n: u.knowledge.upsert(
            "races", points(n, int.from_bytes(os.urandom(4)))
        ),
        "knowledge.set_payload": lambda u, n: u.knowledge.set_payload(
            "races", {"k": os.urandom(4).hex()}, ids=names(n)
        ),
        "knowledge.overwrite_payload": lambda u, n: u.knowledge.overwrite_payload(
            "races", {"k": os.urandom(4).hex()}, ids=names(n)
        ),
        "knowledge.delete_payload": lambda u, n: u.knowledge.delete_payload("races", ["k"], ids=names(n)),
        "knowledge.delete": lambda u, n: u.knowledge.delete("races", ids=names(n)),
        "knowledge.set_aliases": lambda u, n: u.knowledge.set_aliases(dict.fromkeys(names(n, "a"), "races")),
        "memories.remember_many": counted(
            lambda u, n, p: u.memories.remember_many(ground.bank, [{"content": name} for name in names(n, p)])
        ),
        "memories.remember_many, near": lambda u, n: u.memories.remember_many(
            ground.bank, [{"content": name, "embedding": vector(384)} for name in names(n, "n")], near=0.01
        ),
        "memories.touch": lambda u, n: u.memories.touch(at(ground.memories, n)),
        "messages.first_time_many": counted(lambda u, n, p: u.messages.first_time_many(names(n, p))),
        "tasks.enqueue_many": counted(
            lambda u, n, p: u.tasks.enqueue_many(
                [{"intent": "i", "dedupe_key": name} for name in names(n, p)]
            )
        ),
        "tasks.enqueue_many, by COPY": counted(
            lambda u, n, p: u.tasks.enqueue_many(
                [{"intent": "i", "task_id": name} for name in names([*n, *range(1000, 1800)], p)]
            )
        ),
        "tasks.heartbeat_many": lambda u, n: u.tasks.heartbeat_many(at(ground.tasks, n)),
        "tasks.complete_many": lambda u, n: u.tasks.complete_many(at(ground.tasks, n)),
        "workflows.heartbeat": lambda u, n: u.workflows.heartbeat(at(ground.runs, n), ground.run_token),
        "scheduler.heartbeat": lambda u, n: u.scheduler.heartbeat(at(ground.executions, n), ground.token),
        "conversations.append_many": lambda u, n: u.conversations.append_many(
            "race", [{"role": "user", "content": name} for name in names(n)]
        ),
        "events.publish_many": lambda u, n: u.events.publish_many(
            [{"topic": "t", "key": name} for name in names(n)]
        ),
        "broker_requests.log_many": lambda u, n: u.broker_requests.log_many(
            [{"request_id": name, "model": "m"} for name in names(n)]
        ),
        "broker_catalog.import_catalog": counted(
            lambda u, n, p: u.broker_catalog.import_catalog(
                {"providers": [{"code": name, "name": "n"} for name in names(n, p)]}
            )
        ),
        "model_registry.import_catalog": counted(
            lambda u, n, p: u.model_registry.import_catalog(
                {
                    "models": [
                        {"name": name, "display_name": "d", "provider": "p", "model_type": "t"}
                        for name in names(n, p)
                    ]
                }
            )
        ),
        "model_registry.register": lambda u, n: u.model_registry.register(
            "race", display_name="d", provider="p", model_type="t", capabilities=dict.fromkeys(names(n), 0.5)
        ),
    }


ONE_ROW = {
    "agents.register": "the capabilities are a column of the agent",
    "documents.add": "one row",
    "events.subscribe": "the topics are a column of the consumer",
    "events.unsubscribe": "the topics are a column of the consumer",
    "knowledge.import_qdrant": "upserts",
    "memories.remember": "one row",
    "memories.consolidate": "holds the bank",
    "memory_entries.remember": "one row",
    "storage.create_bucket": "the types are a column of the bucket",
    "tasks.claim": "passes over what is locked",
    "tasks.complete": "one task",
    "working_memory.store": "one row",
    "workflows.claim": "passes over what is locked",
}
"""Methods that take several of something, and write no several rows by it."""

READS = [
    "recall",
    "retrieve",
    "recommend",
    "query",
    "search",
    "candidates",
    "facts",
    "neighbours",
    "shortest_path",
    "subgraph",
    "usage",
    "waiting",
    "hybrid_search",
    "search_many",
    "build_context",
    "duplicates",
    "query_many",
    "query_groups",
]


def taking_several() -> Iterator[str]:
    """The methods that are given several rows or keys."""
    for noun, repository in repositories().items():
        for name, method in methods(repository):
            if any(is_several(hint) for hint in hints(method).values()) and name not in READS:
                yield f"{noun}.{name}"


def is_several(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (abc.Sequence, abc.Iterable, abc.Collection, list):
        return True
    if origin is abc.Mapping:
        return arguments[0] is str and arguments[1] is not Any
    return (
        any(is_several(one) for one in arguments) and origin is not abc.Callable and origin is not np.ndarray
    )


@pytest.fixture(scope="module")
def races(template: URL, new_database: Callable[..., URL]) -> Iterator[Database]:
    with Database(new_database(template.database), pool_size=4) as db:
        with db.engine.begin() as connection:
            # What would end after a second as a deadlock does so soon.
            connection.execute(text(f"ALTER DATABASE {db.url.database} SET deadlock_timeout = '30ms'"))
        db.engine.dispose()
        yield db


def test_every_method_that_writes_several_rows_is_tried(races: Database) -> None:
    tried = {name.partition(",")[0] for name in calls(Ground.__new__(Ground))}
    assert set(taking_several()) <= tried | set(ONE_ROW)


def test_calls_with_the_same_rows_in_another_order_do_not_deadlock(races: Database) -> None:
    ground = Ground(races)
    wrong: dict[str, str] = {}
    for name, call in calls(ground).items():
        fresh = getattr(call, "fresh", None)
        for number in range(ROUNDS):
            if fresh is not None:
                fresh["number"] += 2
            if (error := together(races, call, range(ROWS))) is not None:
                wrong[name] = f"round {number}: {error}"
                break
    assert not wrong, wrong


def together(db: Database, call: Given, numbers: Sequence[int]) -> str | None:
    """Both calls at once; gives the error of the one that fails, unless it is that a row is there."""
    begin, errors = threading.Barrier(2), list[str]()

    def run(order: Sequence[int]) -> None:
        try:
            with db.begin() as uow:
                uow.session.connection()
                begin.wait()
                call(uow, order)
        except ConflictError as error:
            if error.original is None or error.original.sqlstate != "23505":
                errors.append(str(error))
        except AlfredDBError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run, args=(order,)) for order in (numbers, numbers[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors[0] if errors else None


def test_ids_and_errors_are_in_the_order_of_the_caller(races: Database) -> None:
    rows = [{"external_id": f"order {number}", "content": str(number)} for number in (3, 1, 2)]
    for on_conflict in ("error", "ignore", "update"):
        with races.begin() as uow:
            given = [{**row, "external_id": f"{on_conflict} {row['external_id']}"} for row in rows]
            ids = uow.documents.add_many(given, on_conflict=on_conflict)  # type: ignore[arg-type]
            found = [uow.documents.get(id) for id in ids]
            assert [one.content for one in found if one is not None] == ["3", "1", "2"]
    rows[2]["embedding"] = "no vector"
    for on_conflict in ("error", "update"):
        with races.begin() as uow, pytest.raises(AlfredDBError, match=r"^row 2: "):
            uow.documents.add_many(rows, on_conflict=on_conflict)  # type: ignore[arg-type]
