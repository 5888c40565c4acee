"""The cases of limits' own tests of a storage, sync and async, against the database."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import limits.aio.strategies
import limits.strategies
import pytest
from limits import RateLimitItemPerDay, RateLimitItemPerHour, RateLimitItemPerSecond
from limits.errors import StorageError
from limits.storage import storage_from_string
from sqlalchemy import URL, text

from alfred_db import AsyncDatabase, Database
from alfred_db.errors import InvalidInputError
from alfred_db.integrations.limits import AlfredDBStorage, AsyncAlfredDBStorage

STRATEGIES = ["FixedWindowRateLimiter", "MovingWindowRateLimiter", "SlidingWindowCounterRateLimiter"]
DAY = RateLimitItemPerDay(10)


async def value(of: Any) -> Any:
    """The result of a call, awaited if it must be."""
    return await of if inspect.isawaitable(of) else of


@pytest.fixture(params=["sync", "async"])
async def storage(request: pytest.FixtureRequest, database_url: URL) -> AsyncIterator[Any]:
    if request.param == "sync":
        with Database(database_url) as db:
            yield AlfredDBStorage(database=db)
    else:
        async with AsyncDatabase(database_url) as other:
            yield AsyncAlfredDBStorage(database=other)


@pytest.fixture(params=STRATEGIES)
def limiter(request: pytest.FixtureRequest, storage: Any) -> Any:
    module: Any = limits.strategies if isinstance(storage, AlfredDBStorage) else limits.aio.strategies
    return getattr(module, request.param)(storage)


async def until_a_window_begins(seconds: float = 86_400) -> None:
    """A sliding window begins at the multiples of its period: the end of one would fall into the test."""
    if seconds - time.time() % seconds < 30:
        await asyncio.sleep(seconds - time.time() % seconds)


async def test_a_strategy_allows_the_limit_and_no_more(limiter: Any) -> None:
    await until_a_window_begins()
    assert (await value(limiter.get_window_stats(DAY, "k"))).remaining == 10
    assert all([await value(limiter.hit(DAY, "k")) for _ in range(8)])
    assert not await value(limiter.test(DAY, "k", cost=3))
    assert await value(limiter.test(DAY, "k", cost=2))
    assert await value(limiter.hit(DAY, "k", cost=2))
    assert not await value(limiter.hit(DAY, "k"))
    assert not await value(limiter.test(DAY, "k"))
    stats = await value(limiter.get_window_stats(DAY, "k"))
    assert stats.remaining == 0
    assert time.time() - 1 < stats.reset_time <= time.time() + 86_401
    assert await value(limiter.hit(DAY, "other"))
    await value(limiter.clear(DAY, "k"))
    assert (await value(limiter.get_window_stats(DAY, "k"))).remaining == 10
    assert not await value(limiter.hit(DAY, "much", cost=11))


async def test_a_strategy_allows_again_after_the_period(limiter: Any) -> None:
    second = RateLimitItemPerSecond(2)
    asked = time.time()
    assert await value(limiter.hit(second, cost=2))
    if not await value(limiter.hit(second, cost=2)):
        await asyncio.sleep(2.05)
        assert await value(limiter.hit(second, cost=2))
    else:  # a busy machine, on which the period has passed by itself
        assert time.time() - asked > 1


async def test_counters_expire_and_are_cleared(storage: Any) -> None:
    assert await value(storage.check())
    assert await value(storage.get("k")) == 0
    assert await value(storage.get_expiry("k")) == pytest.approx(time.time(), abs=30)
    assert await value(storage.incr("k", 600)) == 1
    assert await value(storage.incr("k", 600, amount=10)) == 11
    assert await value(storage.get_expiry("k")) == pytest.approx(time.time() + 600, abs=30)
    await value(storage.clear("k"))
    assert await value(storage.get("k")) == 0
    assert await value(storage.incr("short", 1)) == 1
    await asyncio.sleep(1.05)
    assert await value(storage.get("short")) == 0


async def test_a_reset_leaves_other_limits_alone(storage: Any) -> None:
    own: Any = storage._database.rate_limits
    await value(own.hit("mine", limit=1, period=60.0))
    for number in range(5):
        await value(storage.incr(f"k{number}", 60))
        await value(storage.acquire_entry(f"k{number}", 1, 60))
    assert await value(storage.reset()) == 10
    assert not await value(own.check("mine", limit=1, period=60.0))


async def test_a_moving_window_begins_with_its_oldest_hit(storage: Any, database_url: URL) -> None:
    assert await value(storage.get_moving_window("k", 5, 600)) == (pytest.approx(time.time(), abs=30), 0)
    assert await value(storage.acquire_entry("k", 5, 600, 2))
    earlier = "UPDATE rate_limits SET entries = ARRAY(SELECT unnest(entries) - 300 * 1000000)"
    with Database(database_url) as db, db.begin() as uow:
        uow.session.execute(text(earlier))
    assert await value(storage.acquire_entry("k", 5, 600, 3))
    assert not await value(storage.acquire_entry("k", 5, 600))
    start, hits = await value(storage.get_moving_window("k", 5, 600))
    assert (start, hits) == (pytest.approx(time.time() - 300, abs=60), 5)


async def test_a_large_moving_window_is_possible(storage: Any) -> None:
    item = RateLimitItemPerHour(100_000)
    module: Any = limits.strategies if isinstance(storage, AlfredDBStorage) else limits.aio.strategies
    limiter = module.MovingWindowRateLimiter(storage)
    assert await value(limiter.hit(item, cost=99_999))
    assert await value(limiter.hit(item))
    assert not await value(limiter.hit(item))


async def test_a_storage_is_made_from_its_scheme(database_url: URL) -> None:
    url = database_url.set(drivername="alfred-db").render_as_string(hide_password=False)
    storage: Any = storage_from_string(url)
    assert isinstance(storage, AlfredDBStorage)
    assert storage.check()
    storage._database.close()
    other: Any = storage_from_string(f"async+{url}")
    assert isinstance(other, AsyncAlfredDBStorage)
    assert await other.check()
    await other._database.close()


@pytest.mark.parametrize("wrap", [True, False])
async def test_errors_are_wrapped_only_if_asked_for(database_url: URL, wrap: bool) -> None:
    expected: type[Exception] = StorageError if wrap else InvalidInputError
    calls: list[Callable[[Any], Any]] = [
        lambda one: one.incr("k\0", 60),
        lambda one: one.acquire_entry("k\0", 1, 60),
        lambda one: one.get_sliding_window("k\0", 60),
    ]
    with Database(database_url) as db:
        for call in calls:
            with pytest.raises(expected):
                call(AlfredDBStorage(database=db, wrap_exceptions=wrap))
    async with AsyncDatabase(database_url) as other:
        for call in calls:
            with pytest.raises(expected):
                await call(AsyncAlfredDBStorage(database=other, wrap_exceptions=wrap))


def test_a_database_that_does_not_answer_is_not_healthy() -> None:
    with Database("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1") as db:
        assert not AlfredDBStorage(database=db).check()
