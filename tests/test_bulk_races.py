"""Two calls that write the same rows, given in another order: they wait for each other, and neither deadlocks.

Which methods take several rows is read from their signatures; CALLS has a call of each that writes. Which rows go with
others is read from the foreign keys.
"""

from __future__ import annotations

import os
import threading
import time
import typing
from collections import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from injection.signatures import hints, methods, repositories
from sqlalchemy import URL, text

from alfred_db import Base, Database, NewDocument, NewKnowledgePoint
from alfred_db.errors import AlfredDBError, ConflictError, NotFoundError
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
            uow.spaces.create("races", kind="documents", model="m", dimensions=3)
            self.documents = uow.documents.add_many(documents(range(ROWS), ""))  # type: ignore[arg-type]
            uow.knowledge.create_collection("races")
            uow.knowledge.upsert("races", points(range(ROWS)))
            self.bank = uow.memory_banks.get_or_create("races").id
            remembered = [{"content": name, "embedding": vector(384)} for name in names(range(ROWS))]
            self.memories = [row.id for row in uow.memories.remember_many(self.bank, remembered)]  # type: ignore[arg-type]
            uow.tasks.enqueue_many([{"intent": "race"} for _ in range(ROWS)])
            self.tasks = uow.tasks.claim(limit=ROWS, worker="w", lease=600.0, intents=["race"])
            workflow = uow.workflows.activate(uow.workflows.define("race", {})[0].id).id
            for _ in range(ROWS):
                uow.workflows.start("race")
            self.runs = uow.workflows.claim("w", [workflow], limit=ROWS, lease=600.0)
            job = uow.scheduler.create("race", "c", schedule_key="race")[0].id
            for _ in range(ROWS):
                uow.scheduler.trigger(job)
            self.executions = uow.scheduler.claim("w", limit=ROWS, lease=600.0)


def vector(dimensions: int) -> list[float]:
    return [1.0] + [0.0] * (dimensions - 1)


def points(numbers: Sequence[int], mark: int = 0) -> list[NewKnowledgePoint]:
    return [{"id": name, "payload": {"mark": mark}} for name in names(numbers)]


def documents(numbers: Sequence[int], prefix: str) -> list[NewDocument]:
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
            documents(n, ""),
            on_conflict="update",
        ),
        "documents.add_many, ignore": counted(
            lambda u, n, p: u.documents.add_many(documents(n, p), on_conflict="ignore")
        ),
        "documents.add_many, error": counted(lambda u, n, p: u.documents.add_many(documents(n, p))),
        "knowledge.upsert": counted(
            lambda u, n, p: u.knowledge.upsert("races", [{"id": name} for name in names(n, p)])
        ),
        "knowledge.upsert, known": lambda u, n: u.knowledge.upsert(
            "races",
            points(n, int.from_bytes(os.urandom(4))),
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
        "spaces.store": lambda u, n: u.spaces.store("races", at(ground.documents, n), [vector(3)] * len(n)),
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
        "tasks.batch": counted(
            lambda u, n, p: u.tasks.batch([{"intent": "i", "dedupe_key": name} for name in names(n, f"b{p}")])
        ),
        "tasks.enqueue": lambda u, n: u.tasks.enqueue(
            "i", {}, after=[task.id for task in at(ground.tasks, n)]
        ),
        "tasks.heartbeat_many": lambda u, n: u.tasks.heartbeat_many(at(ground.tasks, n)),
        "tasks.complete_many": lambda u, n: u.tasks.complete_many(at(ground.tasks, n)),
        "workflows.heartbeat_many": lambda u, n: u.workflows.heartbeat_many(at(ground.runs, n)),
        "scheduler.heartbeat_many": lambda u, n: u.scheduler.heartbeat_many(at(ground.executions, n)),
        "conversations.append_many": lambda u, n: u.conversations.append_many(
            "race", [{"role": "user", "content": name} for name in names(n)]
        ),
        "cache.set_many": lambda u, n: u.cache.set_many(dict.fromkeys(names(n), b"v")),
        "cache.delete_many": lambda u, n: u.cache.delete_many(names(n)),
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
                        {"name": name, "display_name": "d", "provider": "p", "model_type": "t"}  # type: ignore[typeddict-item, typeddict-unknown-key]
                        for name in names(n, p)
                    ]
                }
            )
        ),
        "model_registry.register": lambda u, n: u.model_registry.register(
            "race", display_name="d", provider="p", model_type="t", capabilities=dict.fromkeys(names(n), 0.5)
        ),
        # The last one, as it deletes half of the memories.
        "memories.merge_groups": lambda u, n: u.memories.merge_groups(
            [[ground.memories[number ^ 1], ground.memories[number]] for number in n if not number % 2]
        ),
    }


ONE_ROW = {
    "agents.register": "the capabilities are a column of the agent",
    "documents.add": "one row",
    "events.subscribe": "the topics are a column of the consumer",
    "events.unsubscribe": "the topics are a column of the consumer",
    "knowledge.import_qdrant": "upserts",
    "memories.remember": "one row",
    "memories.consolidate": "merges groups",
    "memory_entries.remember": "one row",
    "scheduler.claim": "passes over what is locked",
    "scheduler.declare": "locks the schedules of the application one after the other, in the order of their keys",
    "storage.create_bucket": "the types are a column of the bucket",
    "tasks.claim": "passes over what is locked",
    "tasks.complete": "one task",
    "working_memory.store": "one row",
    "workflows.claim": "passes over what is locked",
}
"""Methods that take several of something, and write no several rows by it."""

READS = [
    "get_many",
    "list_progress",
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
    """Both calls at once; return the error of the one that fails, unless it is that a row exists."""
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


# Rows that go with another row, and calls that meet at them


@dataclass
class Meeting:
    """Two calls that lock the same rows: made for each round, and run at once."""

    prepare: Callable[[UnitOfWork, int], tuple[Callable[[UnitOfWork], Any], Callable[[UnitOfWork], Any]]]


def nodes(uow: UnitOfWork, number: int) -> Any:
    one, other = (uow.entities.upsert_node("race", f"{number} {end}").id for end in "ab")
    for place in range(40):
        uow.entities.upsert_edge(*((one, other) if place % 2 else (other, one)), f"{place}")
    return lambda u: u.entities.delete_node(one), lambda u: u.entities.delete_node(other)


def dropped_collection(uow: UnitOfWork, number: int) -> Any:
    name, other = f"dropped {number}", f"kept {number}"
    for each in (name, other):
        uow.knowledge.create_collection(each)
    aliases = [f"{number:03} {place:02}" for place in range(20)]
    for alias in reversed(aliases):  # the index of the collections has them in this order
        uow.knowledge.set_aliases({alias: name})
    moved = {alias: name if place == 10 else other for place, alias in enumerate(aliases)}

    def move(u: UnitOfWork) -> None:
        with suppress(NotFoundError):
            u.knowledge.set_aliases(moved)

    return lambda u: u.knowledge.drop_collection(name), move


def emptied_bank(uow: UnitOfWork, number: int) -> Any:
    bank = uow.memory_banks.get_or_create(f"emptied {number}").id
    rows = uow.memories.remember_many(bank, [{"content": name} for name in names(range(50))])
    ids = [row.id for row in rows]
    for start in range(50, 0, -10):  # written anew, so that they are stored in another order
        values = {"metadata_": {"k": "x" * 200}}
        for id in reversed(ids[start - 10 : start]):
            uow.memories.update(id, values)  # type: ignore[arg-type]
    return lambda u: u.memory_banks.delete(bank), lambda u: u.memories.touch(ids)


MEETINGS: Mapping[str, Meeting] = {
    "entity.entity_edge": Meeting(nodes),
    "knowledge_aliases": Meeting(dropped_collection),
    "memories": Meeting(emptied_bank),
}
"""By the table whose rows both calls lock."""

ONE_WAY = {
    "brk_registry.hosted_model_price": "no method removes a hosted model",
    "documents_embeddings": "whoever writes them holds their document",
    "memories_embeddings": "whoever writes them holds their memory",
    "memory_entries_embeddings": "whoever writes them holds their entry",
    "model_registry.model_capabilities": "whoever writes them holds their model",
    "model_registry.model_endpoints": "whoever writes them holds their model",
    "rag_query_documents": "a document's own are locked in order; no method removes a query",
    "task_dependencies": "whoever writes them holds the task that is waited for",
    "task_progress": "each row belongs to one task, and no call writes several tasks' rows in another order",
    "task_results": "written once, with the end of their task",
    "test_results": "no method removes a run",
    "wm.working_memory_embeddings": "whoever writes them holds their record",
    "workflow_events": "written once",
    "workflow_steps": "written once",
}
"""Tables whose rows go with others, and why no two calls meet at them."""


def test_every_table_whose_rows_go_with_others_is_tried() -> None:
    tables = Base.metadata.tables.values()
    cascading = {table.fullname for table in tables for key in table.foreign_keys if key.ondelete}
    assert cascading <= MEETINGS.keys() | ONE_WAY.keys()
    assert not MEETINGS.keys() & ONE_WAY.keys()
    assert ONE_WAY.keys() <= cascading


SLOWLY = """
    CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(0.003);
        IF TG_OP = 'DELETE' THEN RETURN OLD; ELSE RETURN NEW; END IF;
    END $$;
    CREATE TRIGGER slowly BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION slowly();
"""
"""So that a call is in the middle of the rows when the other begins."""


@pytest.mark.parametrize("table", MEETINGS)
def test_calls_that_meet_at_the_rows_of_others_do_not_deadlock(races: Database, table: str) -> None:
    prepared = []
    for number in range(3):
        with races.begin() as uow:
            prepared.append(MEETINGS[table].prepare(uow, number))
    with races.begin() as uow:
        uow.session.execute(text(SLOWLY.format(table=table)))
    try:
        for number, calls in enumerate(prepared):

            def run(uow: UnitOfWork, order: Sequence[int], calls: Any = calls) -> None:
                time.sleep(0.03 * order[0])
                calls[order[0]](uow)

            error = together(races, run, (0, 1))
            assert error is None, f"round {number}: {error}"
    finally:
        with races.begin() as uow:
            uow.session.execute(text("DROP FUNCTION slowly CASCADE"))
