"""The cases of aiocache's own acceptance tests of a backend, against the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiocache import cached  # type: ignore[import-untyped]
from aiocache.lock import OptimisticLock, OptimisticLockError, RedLock  # type: ignore[import-untyped]
from aiocache.serializers import PickleSerializer, StringSerializer  # type: ignore[import-untyped]
from sqlalchemy import URL, update

from alfred_db import AsyncDatabase, CacheEntry
from alfred_db.integrations.aiocache import AlfredDBCache


@pytest.fixture
async def db(database_url: URL) -> AsyncIterator[AsyncDatabase]:
    async with AsyncDatabase(database_url) as db:
        yield db


@pytest.fixture
def cache(db: AsyncDatabase) -> Any:
    return AlfredDBCache(db, namespace="test")


async def test_values_are_stored_and_found(cache: Any) -> None:
    assert await cache.get("k") is None
    assert await cache.get("k", default=1) == 1
    for value in ("text", "é", 7, 1.5, None, {"a": [1]}):
        assert await cache.set("k", value) is True
        assert await cache.get("k") == value
    assert await cache.exists("k") is True
    assert await cache.delete("k") == 1
    assert await cache.delete("k") == 0
    assert await cache.exists("k") is False


async def test_many_values_keep_their_order(cache: Any) -> None:
    assert await cache.multi_set([("a", 1), ("b", "x")], ttl=60) is True
    assert await cache.multi_get(["b", "none", "a"]) == ["x", None, 1]
    assert await cache.multi_get([]) == []


async def test_add_and_increment_refuse_what_does_not_fit(cache: Any) -> None:
    assert await cache.add("k", "v") is True
    with pytest.raises(ValueError, match="already exists"):
        await cache.add("k", "v")
    assert await cache.increment("n", 2) == 2
    assert await cache.increment("n", -3) == -1
    with pytest.raises(TypeError, match="not an integer"):
        await cache.increment("k", 2)


async def test_values_expire(cache: Any, db: AsyncDatabase) -> None:
    await cache.set("k", "v", ttl=0.05)
    await cache.multi_set([("m", "v")], ttl=0.05)
    await cache.set("kept", "v", ttl=60)
    assert await cache.expire("kept", 0) is True
    await asyncio.sleep(0.1)
    async with db.begin() as uow:
        await uow.session.execute(update(CacheEntry).values(expires_us=CacheEntry.expires_us - 60_000_000))
    assert await cache.multi_get(["k", "m", "kept"]) == [None, None, "v"]
    assert await cache.expire("k", 1) is False


async def test_a_namespace_is_cleared_alone(cache: Any, db: AsyncDatabase) -> None:
    await cache.set("k", "v")
    await cache.set("k", "v", namespace="other")
    await cache.clear(namespace="other")
    assert await cache.get("k", namespace="other") is None
    assert await cache.get("k") == "v"
    assert await db.cache.get("test:k") == b'"v"'
    await cache.clear()
    assert (await db.cache.size()).entries == 0


async def test_serializers_decide_what_is_stored(db: AsyncDatabase) -> None:
    pickled = AlfredDBCache(db, PickleSerializer())
    await pickled.set("k", {1, 2})
    assert await pickled.get("k") == {1, 2}
    plain = AlfredDBCache(db, StringSerializer())
    await plain.set("s", 7)
    assert await plain.get("s") == "7"
    assert await plain.raw("get", "s") == "7"


async def test_locks_exclude_and_notice_changes(cache: Any) -> None:
    ran: list[int] = []

    async def work() -> None:
        async with RedLock(cache, "k", lease=5):
            if await cache.get("k") is None:
                ran.append(1)
                await asyncio.sleep(0.7)  # until the others wait
                await cache.set("k", "v")

    # A lock of aiocache lets those pass who come while it is being taken or released.
    first = asyncio.create_task(work())
    while not ran:
        await asyncio.sleep(0.01)
    await asyncio.gather(first, *(work() for _ in range(3)))
    assert len(ran) == 1
    async with OptimisticLock(cache, "k") as lock:
        await lock.cas("w", ttl=60)
    async with OptimisticLock(cache, "k") as lock:
        await cache.set("k", "changed")
        with pytest.raises(OptimisticLockError):
            await lock.cas("x")
    assert await cache.get("k") == "changed"


async def test_the_decorator_computes_once(db: AsyncDatabase) -> None:
    ran: list[int] = []

    async def compute(number: int) -> int:
        ran.append(number)
        return number * 2

    function = cached(ttl=60, cache=AlfredDBCache, key_builder=lambda f, n: f"twice:{n}", database=db)(
        compute
    )
    assert [await function(4), await function(4)] == [8, 8]
    assert ran == [4]
