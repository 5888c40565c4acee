"""Mistakes of users: mypy and pyright, both strict, find one in each line that ends in `# error`, and in no other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from alfred_db import (
    Agent,
    AsyncDatabase,
    AsyncUnitOfWork,
    Database,
    DocumentRow,
    Hit,
    MemoryRow,
    NewDocument,
    SearchCandidates,
    SearchResult,
    Task,
    UnitOfWork,
)
from alfred_db.execution._sync.driver import affected, fetch, fetch_rows
from alfred_db.queries import task_claims
from alfred_db.queries.shapes.driver_statement import driver_statement

VECTOR = [0.0] * 384


def databases() -> None:
    db = Database("postgresql:///d")
    Database(1)  # error
    Database(pooler="session")  # error
    Database(poolsize=5)  # error
    db.upgrad()  # error
    with AsyncDatabase():  # error
        pass


def calls(uow: UnitOfWork) -> None:
    uow.agents.register("writer")  # error
    uow.agents.register("writer", type="llm", version=1)  # error
    uow.agents.register("writer", "llm", "1")  # error
    uow.agents.get("not a uuid")  # error
    print(uow.agents.get(uuid.uuid4()).name)  # error
    print(uow.agent)  # error
    uow.agents.set_status(uuid.uuid4(), 5)  # error
    name: int = uow.agents.list_alive().items[0].name  # error
    print(name)


async def async_calls(uow: AsyncUnitOfWork) -> None:
    agent: Agent = uow.agents.register("writer", type="llm", version="1")  # error
    print(agent)
    print(uow.documents.add("x").id)  # error
    print((await uow.documents.add("x")).idd)  # error
    print(uow.documents.search(VECTOR).hits)  # error
    for _ in uow.memories.search(1, VECTOR):  # error
        pass
    async with uow.documents.list():  # error
        pass


def rows(uow: UnitOfWork) -> None:
    for hit in uow.documents.search(VECTOR):
        print(hit.row.title, hit.row.created_at.year, hit.distance)
        print(hit.row.titel)  # error
        print(hit.row.title.upper())  # error
        print(hit.row.embedding)  # error
        print(hit.rank)  # error
    for found in uow.documents.hybrid_search("x", VECTOR).hits:
        print(found.row.contents)  # error
    print(uow.documents.search_many([VECTOR])[0][0].row.importance)  # error
    print(uow.documents.page(uow.documents.candidates(VECTOR)).items[0].row.importance)  # error
    print(uow.memories.search(1, VECTOR).hits[0].row.title)  # error
    print(uow.memories.recall(1, VECTOR).hits[0].row.title)  # error
    print(uow.memories.duplicates(1, VECTOR)[0].row.title)  # error
    print(uow.memories.hybrid_search(1, "x", VECTOR).hits[0].row.namespace)  # error
    print(uow.memory_entries.search("n", VECTOR).hits[0].row.bank)  # error
    print(uow.memory_entries.hybrid_search("n", "x", VECTOR).hits[0].row.bank)  # error
    print(uow.working_memory.search(VECTOR).hits[0].row.title)  # error
    print(uow.conversations.search("x")[0].row.session)  # error
    print(uow.knowledge.query("c", VECTOR).hits[0].row.vector)  # error
    print(uow.knowledge.query_many("c", [VECTOR])[0][0].row.vector)  # error
    print(uow.knowledge.recommend("c", positive=["1"]).hits[0].row.vector)  # error
    for group in uow.knowledge.query_groups("c", VECTOR, group_by="k"):
        print([one.row.vector for one in group])  # error


async def async_rows(uow: AsyncUnitOfWork) -> None:
    for hit in await uow.documents.search(VECTOR):
        print(hit.row.title, hit.row.created_at.year, hit.distance)
        print(hit.row.titel)  # error
    print((await uow.documents.hybrid_search("x", VECTOR)).hits[0].row.contents)  # error
    print((await uow.documents.search_many([VECTOR]))[0][0].row.importance)  # error
    candidates = await uow.documents.candidates(VECTOR)
    print((await uow.documents.page(candidates)).items[0].row.importance)  # error
    print((await uow.memories.search(1, VECTOR)).hits[0].row.title)  # error
    print((await uow.memories.recall(1, VECTOR)).hits[0].row.title)  # error
    print((await uow.memory_entries.search("n", VECTOR)).hits[0].row.bank)  # error
    print((await uow.working_memory.search(VECTOR)).hits[0].row.title)  # error
    print((await uow.conversations.search("x"))[0].row.session)  # error
    print((await uow.knowledge.query("c", VECTOR)).hits[0].row.vector)  # error


def titles(hits: SearchResult[DocumentRow]) -> list[str | None]:
    return [hit.row.title for hit in hits]


def title(hit: Hit[DocumentRow]) -> str | None:
    return hit.row.title


def other_nouns(uow: UnitOfWork) -> None:
    titles(uow.documents.search(VECTOR))
    titles(uow.memories.search(1, VECTOR))  # error
    title(uow.memories.search(1, VECTOR).hits[0])  # error
    row: MemoryRow = uow.documents.search(VECTOR).hits[0].row  # error
    uow.memories.page(uow.documents.candidates(VECTOR))  # error
    kept: SearchCandidates[DocumentRow, int] = uow.working_memory.candidates(VECTOR)  # error
    print(row, kept)


async def async_other_nouns(uow: AsyncUnitOfWork) -> None:
    titles(await uow.documents.search(VECTOR))
    titles(await uow.memories.search(1, VECTOR))  # error
    title((await uow.memories.search(1, VECTOR)).hits[0])  # error
    await uow.memories.page(await uow.documents.candidates(VECTOR))  # error
    titles(uow.documents.search(VECTOR))  # error


def keys(uow: UnitOfWork) -> None:
    uow.documents.add_many([{"content": "x", "title": "y", "metadata": {"any": ["thing"]}}])
    uow.documents.add_many([{"content": f"{n}"} for n in range(3)])
    uow.documents.add_many([{"content": "x", "titel": "y"}])  # error
    uow.documents.add_many([{"content": f"{n}", "titel": "y"} for n in range(3)])  # error
    uow.documents.add_many([{"content": 5}])  # error
    uow.documents.add_many([{"title": "y"}])  # error
    uow.documents.update(1, {"title": None})
    uow.documents.update(1, {"titel": None})  # error
    uow.memories.remember_many(1, [{"contents": "x"}])  # error
    uow.memories.update(1, {"importance": "high"})  # error
    uow.memory_banks.update(1, {"title": "x"})  # error
    uow.working_memory.update(uuid.uuid4(), {"state": "active"})  # error
    uow.model_registry.update("m", {"depreciated_at": None})  # error
    uow.model_registry.import_catalog({"registri": []})  # error
    uow.broker_catalog.import_catalog({"makers": [{"code": "x"}]})  # error
    print(uow.broker_catalog.export_catalog()["maker"])  # error
    uow.broker_requests.log_many([{"request_id": "1", "tokens": 5}])  # error
    uow.conversations.append_many("s", [{"role": "user", "text": "x"}])  # error
    uow.events.publish_many([{"topic": "t", "data": {}}])  # error
    uow.knowledge.upsert("c", [{"id": 1, "vector": VECTOR, "payload": {"any": 1}}])
    uow.knowledge.upsert("c", [{"id": 1, "embedding": VECTOR}])  # error
    uow.tasks.enqueue_many([{"intent": "x", "prio": 5}])  # error
    uow.documents.add_many(list(documents()))
    uow.documents.add_many(documents())  # error


async def async_keys(uow: AsyncUnitOfWork) -> None:
    await uow.documents.add_many([{"content": "x", "title": "y", "metadata": {"any": ["thing"]}}])
    await uow.documents.add_many([{"content": "x", "titel": "y"}])  # error
    await uow.documents.update(1, {"titel": None})  # error
    await uow.memories.remember_many(1, [{"contents": "x"}])  # error
    await uow.memories.update(1, {"importance": "high"})  # error
    await uow.broker_requests.log_many([{"request_id": "1", "tokens": 5}])  # error
    await uow.knowledge.upsert("c", [{"id": 1, "embedding": VECTOR}])  # error
    await uow.tasks.enqueue_many([{"intent": "x", "prio": 5}])  # error


def documents() -> Iterator[NewDocument]:
    yield {"content": "x"}
    yield {"content": "x", "titel": "y"}  # error


# The driver's path accepts statements that are built once, and none that is built for the call.


def fresh(id: uuid.UUID) -> Select[uuid.UUID]:
    return select(Task.id).where(Task.id == id)


@driver_statement
def kept() -> Select[uuid.UUID, str]:
    return select(Task.id, Task.intent)


def statements(session: Session, values: dict[str, Any]) -> None:
    fetch(session, task_claims.standing(by_queue=False), values)
    fetch_rows(session, kept(), values)[0][1].upper()
    fetch(session, fresh(uuid.uuid4()), values)  # error
    fetch_rows(session, select(Task.id), values)  # error
    affected(session, fresh(uuid.uuid4()), values)  # error
    kept(1)  # error
    fetch_rows(session, kept(), values)[0][1].bit_length()  # error
