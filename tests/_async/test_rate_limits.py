from __future__ import annotations

import pytest
from sqlalchemy import text

from alfred_db import RateLimitMethod
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork

ALGORITHMS: tuple[RateLimitMethod, ...] = ("fixed-window", "sliding-window", "token-bucket")


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
