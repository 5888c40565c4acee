from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select, update

from alfred_db import AsyncDatabase, Memory, MemoryBank
from alfred_db.errors import InvalidInputError, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.memories import AsyncMemoryRepository
from alfred_db.repositories._async.memory_banks import AsyncMemoryBankRepository


@pytest.fixture
def banks(uow: AsyncUnitOfWork) -> AsyncMemoryBankRepository:
    return AsyncMemoryBankRepository(uow.session)


async def test_a_name_makes_one_bank(banks: AsyncMemoryBankRepository) -> None:
    bank = await banks.get_or_create("notes", description="of the writer")
    again = await banks.get_or_create("notes")
    assert again.id == bank.id
    assert (again.name, again.description) == ("notes", "of the writer")
    again = await banks.get_or_create("notes", description="other")
    assert (again.id, again.description) == (bank.id, "other")
    assert (await banks.get_or_create("Notes")).id != bank.id
    assert await banks.get(bank.id) is again
    assert await banks.get_by_name("none") is None


async def test_of_several_with_a_name_the_oldest_is_returned(banks: AsyncMemoryBankRepository) -> None:
    first, second = MemoryBank(name="twice"), MemoryBank(name="twice")
    banks._session.add(first)
    await banks._session.flush()
    banks._session.add(second)
    await banks._session.flush()
    assert (await banks.get_or_create("twice")).id == first.id


async def test_banks_are_listed_with_their_memories(banks: AsyncMemoryBankRepository) -> None:
    memories = AsyncMemoryRepository(banks._session)
    made = [await banks.get_or_create(f"bank {number}") for number in range(5)]
    await memories.remember_many(made[1], [{"content": str(number)} for number in range(3)])
    first = await banks.list(limit=3)
    rest = await banks.list(limit=3, after=first.next)
    assert [(bank.name, bank.memories) for bank in (*first, *rest)] == [
        ("bank 0", 0),
        ("bank 1", 3),
        ("bank 2", 0),
        ("bank 3", 0),
        ("bank 4", 0),
    ]
    assert (first.items[0].id, first.items[0].created_at) == (made[0].id, made[0].created_at)
    assert rest.next is None


async def test_the_count_of_a_bank_shows_whether_it_is_exact(banks: AsyncMemoryBankRepository) -> None:
    memories = AsyncMemoryRepository(banks._session)
    bank = await banks.get_or_create("counted")
    await memories.remember_many(bank, [{"content": str(number)} for number in range(5)])
    expired = update(Memory).where(Memory.content == "4").values(expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    await banks._session.execute(expired, execution_options={"synchronize_session": False})
    for up_to, expected in ((None, (4, True)), (5, (4, True)), (4, (4, False)), (2, (2, False))):
        (found,) = await banks.list(up_to=up_to)
        assert (found.memories, found.exact) == expected, up_to


async def test_a_bank_goes_with_its_memories(banks: AsyncMemoryBankRepository) -> None:
    memories = AsyncMemoryRepository(banks._session)
    gone, kept = await banks.get_or_create("gone"), await banks.get_or_create("kept")
    await memories.remember_many(gone, [{"content": "a"}, {"content": "b"}])
    await memories.remember(kept, "c")
    assert await banks.delete(gone) == 2
    assert await banks.get(gone.id) is None
    assert await banks._session.scalar(select(func.count()).select_from(Memory)) == 1
    with pytest.raises(NotFoundError, match=f"memory bank {gone.id}: does not exist"):
        await banks.delete(gone.id)


async def test_a_change_names_attributes(banks: AsyncMemoryBankRepository) -> None:
    bank = await banks.get_or_create("a")
    assert (await banks.update(bank.id, {"name": "b", "description": "c"})).name == "b"
    with pytest.raises(InvalidInputError, match="MemoryBank: 'nope': no such attribute"):
        await banks.update(bank.id, {"nope": 1})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(NotFoundError, match="does not exist"):
        await banks.update(bank.id + 999, {"name": "x"})


@pytest.mark.parametrize("name", ["", " ", "a\x00b"])
async def test_a_name_is_checked(banks: AsyncMemoryBankRepository, name: str) -> None:
    with pytest.raises(InvalidInputError):
        await banks.get_or_create(name)


@pytest.mark.parametrize("name", ["'; DROP TABLE memory_banks; --", "100% :x %s", "\U0001f419", "x" * 2000])
async def test_a_hostile_name_is_stored(banks: AsyncMemoryBankRepository, name: str) -> None:
    bank = await banks.get_or_create(name)
    assert (await banks.get_or_create(name)).id == bank.id


async def test_sweeping_passes_over_what_others_hold(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        bank = (await AsyncMemoryBankRepository(uow.session).get_or_create("bank")).id
        remembered = await AsyncMemoryRepository(uow.session).remember_many(
            bank, [{"content": "a"}, {"content": "b"}]
        )
        past = func.now() - func.make_interval(0, 0, 0, 1)
        await uow.session.execute(update(Memory).values(expires_at=past))
    async with committed.begin() as holder, committed.begin() as sweeper:
        await holder.session.scalars(select(Memory).where(Memory.id == remembered[0].id).with_for_update())
        assert await AsyncMemoryRepository(sweeper.session).sweep() == 1
