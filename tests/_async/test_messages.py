from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from plans import SIZES, Explain
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, ProcessedMessage
from alfred_db.errors import InvalidInputError
from alfred_db.queries import messages as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.messages import AsyncMessageRepository

HOSTILE = "'; DROP TABLE processed_messages; -- %s %(x)s :x ::text \\ \" ü 漢 🦜"


@pytest.fixture
def messages(uow: AsyncUnitOfWork) -> AsyncMessageRepository:
    return AsyncMessageRepository(uow.session)


async def expire(session: AsyncSession, *message_ids: str) -> None:
    statement = update(ProcessedMessage).where(ProcessedMessage.message_id.in_(message_ids))
    await session.execute(statement.values(expires_at=func.statement_timestamp() - timedelta(seconds=1)))


async def count(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(ProcessedMessage)) or 0


async def test_a_message_is_new_once(messages: AsyncMessageRepository) -> None:
    assert await messages.first_time("m") is True
    assert await messages.first_time("m") is False
    assert await messages.first_time("n") is True
    assert await messages.first_time(HOSTILE) is True
    assert await messages.first_time(HOSTILE) is False
    assert await messages.first_time("M") is True


async def test_it_is_remembered_for_two_days_by_default(messages: AsyncMessageRepository) -> None:
    for ttl, kept in (({}, timedelta(hours=48)), ({"ttl": 1.5}, timedelta(seconds=1.5))):
        await messages.first_time(str(ttl), **ttl)
        message = await messages.get(str(ttl))
        assert message is not None
        assert message.expires_at - message.processed_at == kept
    assert await messages.get("other") is None


async def test_past_its_time_it_is_new_again_without_a_purge(messages: AsyncMessageRepository) -> None:
    await messages.first_time("m")
    await expire(messages._session, "m")
    assert await messages.first_time("m", ttl=100) is True
    assert await messages.first_time("m") is False
    message = await messages.get("m")
    assert message is not None
    assert message.expires_at - message.processed_at == timedelta(seconds=100)


async def test_of_many_the_new_ones_are_returned_in_order(messages: AsyncMessageRepository) -> None:
    await messages.first_time("known")
    await messages.first_time("expired")
    await expire(messages._session, "expired")
    given = ["z", "known", "a", "z", "expired", "a", HOSTILE]
    assert await messages.first_time_many(given) == ["z", "a", "expired", HOSTILE]
    assert await messages.first_time_many(given) == []
    assert await messages.first_time_many([]) == []
    many = [f"{number % 4000}" for number in range(5000)]
    assert await messages.first_time_many(many) == many[:4000]


BAD: dict[str, dict[str, Any]] = {
    "message_id: expected 1 to 2,000 bytes, got 0": {"message_id": ""},
    "message_id: expected 1 to 2,000 bytes, got 1,000,000": {"message_id": "x" * 1_000_000},
    "message_id: holds a NUL": {"message_id": "a\0"},
    "message_id: expected text": {"message_id": 7},
    "message_id: expected text without lone surrogates": {"message_id": "\ud800"},
    "ttl: expected": {"message_id": "m", "ttl": 0},
    "ttl: expected ": {"message_id": "m", "ttl": float("nan")},
}


@pytest.mark.parametrize("says", BAD)
async def test_bad_input_is_one_clear_error(messages: AsyncMessageRepository, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says.strip()):
        await messages.first_time(**BAD[says])
    with pytest.raises(InvalidInputError, match="message_ids: expected a sequence of ids"):
        await messages.first_time_many("abc")
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 10,000"):
        await messages.purge(limit=0)
    assert await count(messages._session) == 0


async def test_the_longest_possible_id_can_be_stored(messages: AsyncMessageRepository) -> None:
    # What does not compress needs the room that it has.
    long = "".join(chr(0x4E00 + (number * 7919) % 20_000) for number in range(666))
    assert await messages.first_time(long) is True
    assert await messages.first_time(long) is False


async def test_a_rollback_opens_it_again(committed: AsyncDatabase) -> None:
    async with committed.session() as session:
        assert await AsyncMessageRepository(session).first_time("m")
        await session.rollback()
        assert await AsyncMessageRepository(session).first_time("m")
        await session.commit()
    async with committed.begin() as uow:
        assert not await AsyncMessageRepository(uow.session).first_time("m")


async def test_purging_goes_in_batches_and_leaves_what_counts(messages: AsyncMessageRepository) -> None:
    await messages.first_time_many([str(number) for number in range(7)])
    await expire(messages._session, *(str(number) for number in range(5)))
    assert [await messages.purge(limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert await count(messages._session) == 2


async def test_a_purge_passes_over_what_is_claimed_anew(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        messages = AsyncMessageRepository(uow.session)
        await messages.first_time_many(["a", "b"])
        await expire(uow.session, "a", "b")
    async with committed.session() as one, committed.begin() as two:
        assert await AsyncMessageRepository(one).first_time("a")
        assert await AsyncMessageRepository(two.session).purge() == 1
        await one.commit()
        assert not await AsyncMessageRepository(two.session).first_time("a")


async def test_a_claim_after_an_open_purge_finds_it_gone(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await AsyncMessageRepository(uow.session).first_time("a")
        await expire(uow.session, "a")
    async with committed.session() as one:
        assert await AsyncMessageRepository(one).purge() == 1
        await one.commit()
        assert await AsyncMessageRepository(one).first_time("a")


async def test_the_tenant_is_the_only_one_that_remembers(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await AsyncMessageRepository(uow.session).first_time("m")
    other = AsyncDatabase(committed.url, schema="acme" if committed.schema is None else None)
    async with other, other.begin() as uow:
        assert await AsyncMessageRepository(uow.session).purge() == 0
        assert await AsyncMessageRepository(uow.session).first_time("m")


async def test_the_index_serves_the_purge(committed: AsyncDatabase) -> None:
    name = "processed_messages" if committed.schema is None else f"{committed.schema}.processed_messages"
    fill = text(
        f"INSERT INTO {name} (message_id, expires_at)"
        " SELECT number::text, now() + (number - 100) * interval '1 minute' FROM generate_series(1, :size) AS number"
    )
    for size in SIZES if committed.schema is None else SIZES[:2]:
        async with committed.session() as session:
            await session.execute(text(f"TRUNCATE {name}"))
            await session.execute(fill, {"size": size})
            await session.execute(text(f"ANALYZE {name}"))
            plan = "\n".join(await session.scalars(Explain(queries.purge(limit=1000))))
            assert "LockRows" in plan
            if size:
                assert "Index Scan using idx_processed_messages_expires_at" in plan
                assert "Sort" not in plan
            assert await AsyncMessageRepository(session).purge() == min(size, 100)
