"""Callers of the memories who come at the same time: what each of them gets, and that none waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import URL

from alfred_db import AsyncDatabase
from alfred_db.errors import NotFoundError
from alfred_db.repositories._async.memories import AsyncMemoryRepository
from alfred_db.repositories._async.memory_banks import AsyncMemoryBankRepository
from alfred_db.values.memories import MemoryOutcome


@pytest.fixture
async def committed(database_url: URL) -> AsyncIterator[AsyncDatabase]:
    """A database of the test's own."""
    async with AsyncDatabase(database_url, pool_size=10) as database:
        yield database


async def test_two_who_want_a_bank_get_the_same(committed: AsyncDatabase) -> None:
    async def want() -> int:
        async with committed.begin() as uow:
            bank = await AsyncMemoryBankRepository(uow.session).get_or_create("shared")
            await asyncio.sleep(0.05)
            return bank.id

    assert len(set(await asyncio.gather(want(), want(), want()))) == 1


async def test_two_who_remember_the_same_make_one_memory(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        bank = (await AsyncMemoryBankRepository(uow.session).get_or_create("bank")).id

    async def tell() -> MemoryOutcome:
        async with committed.begin() as uow:
            remembered = await AsyncMemoryRepository(uow.session).remember(bank, "the same")
            await asyncio.sleep(0.05)
            return remembered.outcome

    outcomes = await asyncio.gather(tell(), tell(), tell())
    assert sorted(outcomes) == [MemoryOutcome.SEEN, MemoryOutcome.SEEN, MemoryOutcome.STORED]
    async with committed.begin() as uow:
        (memory,) = await AsyncMemoryRepository(uow.session).list(bank)
        assert memory.seen_count == 3


async def test_two_batches_in_opposite_order_do_not_deadlock(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        bank = (await AsyncMemoryBankRepository(uow.session).get_or_create("bank")).id
    contents = [f"memory {number}" for number in range(200)]

    async def tell(order: list[str]) -> None:
        async with committed.begin() as uow:
            memories = AsyncMemoryRepository(uow.session)
            await memories.remember_many(bank, [{"content": content} for content in order])

    await asyncio.gather(*(tell(order) for order in (contents, contents[::-1]) * 4))
    async with committed.begin() as uow:
        page = await AsyncMemoryRepository(uow.session).list(bank, limit=1000)
        assert {memory.seen_count for memory in page} == {8}
        assert len(page) == 200


async def test_two_who_remember_nearly_the_same_make_one_memory(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        bank = (await AsyncMemoryBankRepository(uow.session).get_or_create("bank")).id

    async def tell(content: str, second: float) -> MemoryOutcome:
        async with committed.begin() as uow:
            (remembered,) = await AsyncMemoryRepository(uow.session).remember_many(
                bank, [{"content": content, "embedding": [1.0, second, *[0.0] * 382]}], near=0.08
            )
            await asyncio.sleep(0.05)
            return remembered.outcome

    outcomes = await asyncio.gather(tell("a", 0.0), tell("b", 0.1))
    assert sorted(outcomes) == [MemoryOutcome.MERGED, MemoryOutcome.STORED]


async def test_two_who_touch_in_opposite_order_do_not_deadlock(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        bank = (await AsyncMemoryBankRepository(uow.session).get_or_create("bank")).id
        memories = AsyncMemoryRepository(uow.session)
        remembered = await memories.remember_many(bank, [{"content": str(number)} for number in range(50)])
    ids = [one.id for one in remembered]

    async def touch(order: list[int]) -> None:
        for _ in range(10):
            async with committed.begin() as uow:
                assert await AsyncMemoryRepository(uow.session).touch(order) == 50

    await asyncio.gather(touch(ids), touch(ids[::-1]), touch(ids))
    async with committed.begin() as uow:
        page = await AsyncMemoryRepository(uow.session).list(bank)
        assert {memory.access_count for memory in page} == {30}


async def test_remembering_in_a_bank_that_goes_is_an_error(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        bank = (await AsyncMemoryBankRepository(uow.session).get_or_create("bank")).id
    removed = asyncio.Event()

    async def remove() -> None:
        async with committed.begin() as uow:
            await AsyncMemoryBankRepository(uow.session).delete(bank)
            removed.set()
            await asyncio.sleep(0.1)

    async def tell() -> None:
        await removed.wait()
        async with committed.begin() as uow:
            await AsyncMemoryRepository(uow.session).remember(bank, "x")

    _, remembered = await asyncio.gather(remove(), tell(), return_exceptions=True)
    assert isinstance(remembered, NotFoundError)
