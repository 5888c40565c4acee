from __future__ import annotations

from typing import get_args

import pytest
from sqlalchemy import select, text

from alfred_db import RateLimitMethod, RateLimitState
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork


async def pass_by(uow: AsyncUnitOfWork, seconds: int) -> None:
    """Have all states become so much older."""
    stored = select(RateLimitState).execution_options(populate_existing=True)
    for state in await uow.session.scalars(stored):
        for name in ("at_us", "start_us", "expires_us"):
            setattr(state, name, getattr(state, name) - seconds * 1_000_000)
        if state.entries is not None:
            state.entries = [entry - seconds * 1_000_000 for entry in state.entries]
    await uow.session.flush()


ALGORITHMS: tuple[RateLimitMethod, ...] = get_args(RateLimitMethod)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_no_more_than_the_limit_is_allowed(uow: AsyncUnitOfWork, algorithm: RateLimitMethod) -> None:
    limits = uow.rate_limits
    key = f"k:{algorithm}"
    said = [await limits.hit(key, limit=10, period=86_400, cost=4, algorithm=algorithm) for _ in range(3)]
    assert [bool(one) for one in said] == [True, True, False]
    assert [one.remaining for one in said] == [6, 2, 2]
    assert said[0].retry_after == 0
    assert 0 < said[2].retry_after <= 86_400 * 2
    checked = await limits.check(key, limit=10, period=86_400, cost=2, algorithm=algorithm)
    assert checked
    assert checked.remaining == 2
    assert await limits.hit(key, limit=10, period=86_400, cost=2, algorithm=algorithm)
    assert not await limits.check(key, limit=10, period=86_400, algorithm=algorithm)
    assert await limits.reset(key) is True
    assert await limits.reset(key) is False
    assert await limits.hit(key, limit=10, period=86_400, cost=10, algorithm=algorithm)


async def test_a_reset_concerns_its_key_alone(uow: AsyncUnitOfWork) -> None:
    limits = uow.rate_limits
    for key in ("mine", "another"):
        assert await limits.hit(key, limit=1, period=86_400)
    assert await limits.reset("mine") is True
    assert await limits.hit("mine", limit=1, period=86_400)
    assert not await limits.hit("another", limit=1, period=86_400)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_what_was_refused_is_allowed_after_retry_after(
    uow: AsyncUnitOfWork, algorithm: RateLimitMethod
) -> None:
    while said := await uow.rate_limits.hit(algorithm, limit=3, period=0.3, algorithm=algorithm):
        assert said.remaining < 3
    seconds = said.retry_after + 0.002
    assert 0 <= said.retry_after <= 0.6  # 0 if the window has ended meanwhile
    await uow.session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})
    assert await uow.rate_limits.hit(algorithm, limit=3, period=0.3, algorithm=algorithm)
    await uow.session.execute(text("SELECT pg_sleep(0.7)"))
    assert await uow.rate_limits.purge() == 1


async def test_what_cannot_be_allowed_is_refused(uow: AsyncUnitOfWork) -> None:
    for limit, period, cost in ((0, 60, 1), (10, 0, 1), (10, 60, 11), (10, 60, 0), (1001, 0.001, 1)):
        with pytest.raises(InvalidInputError):
            await uow.rate_limits.hit("k", limit=limit, period=period, cost=cost)


async def test_a_moving_window_never_has_more_than_the_limit(uow: AsyncUnitOfWork) -> None:
    limits = uow.rate_limits
    assert await limits.hit("k", limit=3, period=300, cost=2, algorithm="moving-window")
    await pass_by(uow, 200)
    assert await limits.hit("k", limit=3, period=300, algorithm="moving-window")
    refused = await limits.hit("k", limit=3, period=300, cost=2, algorithm="moving-window")
    assert not refused
    assert 0 < refused.retry_after <= 100
    usage = await limits.usage("k", period=300, window="moving-window")
    assert usage.hits == 3
    assert 0 < usage.reset_after <= 100
    await pass_by(uow, 150)
    assert (await limits.usage("k", period=300, window="moving-window")).hits == 1
    assert await limits.hit("k", limit=3, period=300, cost=2, algorithm="moving-window")
    assert not await limits.hit("k", limit=3, period=300, algorithm="moving-window")
    with pytest.raises(InvalidInputError, match="limit"):
        await limits.hit("k", limit=1_000_001, period=60, algorithm="moving-window")


async def test_a_counter_refuses_nothing_and_begins_again(uow: AsyncUnitOfWork) -> None:
    limits = uow.rate_limits
    assert (await limits.usage("k")).hits == 0
    assert (await limits.count("k", period=200)).hits == 1
    counted = await limits.count("k", period=60, cost=5)
    assert counted.hits == 6
    assert 0 < counted.reset_after <= 200
    assert (await limits.usage("k")).hits == 6
    await pass_by(uow, 250)
    assert (await limits.usage("k")).hits == 0
    assert (await limits.count("k", period=60)).hits == 1


async def test_a_prefix_is_cleared_of_all_algorithms(uow: AsyncUnitOfWork) -> None:
    limits = uow.rate_limits
    for algorithm in ALGORITHMS:
        await limits.hit("a:1", limit=1, period=60, algorithm=algorithm)
        await limits.hit("b:1", limit=1, period=60, algorithm=algorithm)
    await limits.count("a:1", period=60)
    sliding = await limits.usage("a:1", period=60, window="sliding-window")
    assert (sliding.hits, sliding.previous) == (1, 0)
    assert await limits.clear("a:") == 5
    assert (await limits.usage("a:1")).hits == 0
    assert not await limits.check("b:1", limit=1, period=60, algorithm="moving-window")
    assert await limits.clear() == 4
