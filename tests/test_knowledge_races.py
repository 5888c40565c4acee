"""Several callers of the knowledge collections at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import URL

from alfred_db import AsyncDatabase
from alfred_db.errors import ConflictError, NotFoundError
from alfred_db.repositories._async.knowledge import AsyncKnowledgeRepository

LEGAL = "legal-knowledge"
UNIT = [1.0, *[0.0] * 1535]


@pytest.fixture(params=[None, "acme"], ids=["public", "acme"])
async def committed(database_url: URL, request: pytest.FixtureRequest) -> AsyncIterator[AsyncDatabase]:
    async with AsyncDatabase(database_url, schema=request.param) as database:
        yield database


async def test_two_callers_make_one_collection(committed: AsyncDatabase) -> None:
    async def make() -> str:
        async with committed.begin() as uow:
            return (await AsyncKnowledgeRepository(uow.session).create_collection("notes")).name

    assert await asyncio.gather(*(make() for _ in range(4))) == ["notes"] * 4
    async with committed.begin() as uow:
        knowledge = AsyncKnowledgeRepository(uow.session)
        await knowledge.upsert("notes", [{"id": 1, "vector": UNIT}])
        assert await knowledge.count("notes") == 1


async def test_two_writers_of_the_same_points_leave_one_of_each(committed: AsyncDatabase) -> None:
    rows = [{"id": n, "payload": {"n": n}} for n in range(200)]

    async def write(order: list[dict[str, Any]], writer: int) -> int:
        async with committed.begin() as uow:
            marked = [{**row, "payload": {"writer": writer}} for row in order]
            return await AsyncKnowledgeRepository(uow.session).upsert(LEGAL, marked)  # type: ignore[arg-type]

    written = await asyncio.gather(write(rows, 1), write(rows[::-1], 2), write(rows, 3))
    assert [*written] == [200] * 3
    async with committed.begin() as uow:
        (facet,) = await AsyncKnowledgeRepository(uow.session).facet(LEGAL, "writer")
        assert facet.count == 200


async def test_a_drop_waits_for_a_writer_and_the_next_gets_an_error(committed: AsyncDatabase) -> None:
    async with committed.session() as one, committed.session() as two:
        first, second = AsyncKnowledgeRepository(one), AsyncKnowledgeRepository(two)
        await first.upsert(LEGAL, [{"id": 1}])
        dropped = asyncio.create_task(second.drop_collection(LEGAL))
        await asyncio.sleep(0.3)
        assert not dropped.done()
        await one.commit()
        await dropped
        written = asyncio.create_task(first.upsert(LEGAL, [{"id": 2}]))
        await asyncio.sleep(0.1)
        await two.commit()
        with pytest.raises(NotFoundError, match="does not exist"):
            await written


async def test_an_alias_and_a_collection_of_one_name_are_not_both_made(committed: AsyncDatabase) -> None:
    async def alias() -> None:
        async with committed.begin() as uow:
            await AsyncKnowledgeRepository(uow.session).set_aliases({"both": LEGAL})
            await asyncio.sleep(0.1)

    async def collection() -> None:
        async with committed.begin() as uow:
            await AsyncKnowledgeRepository(uow.session).create_collection("both")
            await asyncio.sleep(0.1)

    for _ in range(3):
        outcomes = await asyncio.gather(alias(), collection(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [ConflictError]
        async with committed.begin() as uow:
            knowledge = AsyncKnowledgeRepository(uow.session)
            if outcomes[0] is None:
                await knowledge.delete_alias("both")
            else:
                await knowledge.drop_collection("both")


async def test_a_reader_sees_the_alias_before_or_after_never_between(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        knowledge = AsyncKnowledgeRepository(uow.session)
        for number, name in enumerate(("v1", "v2")):
            await knowledge.create_collection(name)
            await knowledge.upsert(name, [{"id": number, "vector": UNIT}])
        await knowledge.set_aliases({"live": "v1", "next": "v2"})

    async def switch() -> None:
        for number in range(20):
            names = ("v2", "v1") if number % 2 else ("v1", "v2")
            async with committed.begin() as uow:
                await AsyncKnowledgeRepository(uow.session).set_aliases(
                    dict(zip(("live", "next"), names, strict=True))
                )

    async def read() -> set[str]:
        seen: set[str] = set()
        for _ in range(40):
            async with committed.begin() as uow:
                knowledge = AsyncKnowledgeRepository(uow.session)
                aliases = await knowledge.list_aliases()
                assert {alias.collection for alias in aliases} == {"v1", "v2"}
                seen |= {hit.row.id for hit in await knowledge.query("live", UNIT)}
        return seen

    _, seen = await asyncio.gather(switch(), read())
    assert seen <= {"0", "1"}
    assert seen
