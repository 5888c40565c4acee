"""Settings of queues: created, replaced, paused, resumed and deleted."""

from __future__ import annotations

import pytest

from alfred_db import QueueRate, QueueSettings
from alfred_db.errors import InvalidInputError, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork


async def test_settings_are_replaced_as_a_whole_and_a_pause_stays(uow: AsyncUnitOfWork) -> None:
    assert await uow.queues.get("gpu") is None
    paused = await uow.queues.pause("gpu")
    assert (paused, paused.restricted) == (QueueSettings("gpu", True, None, None, None, None), True)
    rate = QueueRate(10, 1.5, burst=2)
    full = await uow.queues.set("gpu", max_running=5, max_running_per_key=1, rate=rate, ageing=60)
    assert full == await uow.queues.get("gpu") == QueueSettings("gpu", True, 5, 1, rate, 60.0)
    assert (await uow.queues.set("gpu", paused=False, rate=QueueRate(3))).rate == QueueRate(3, 60.0)
    aged = await uow.queues.set("aged", ageing=1)
    assert not aged.restricted
    assert [one.name for one in await uow.queues.list()] == ["aged", "gpu"]
    assert (await uow.queues.pause("gpu")).rate == QueueRate(3)
    resumed = await uow.queues.resume("gpu")
    assert (resumed.paused, resumed.rate) == (False, QueueRate(3))
    assert await uow.queues.set("gpu") == QueueSettings("gpu", False, None, None, None, None)
    assert await uow.queues.delete("gpu") is True
    assert await uow.queues.delete("gpu") is False
    with pytest.raises(NotFoundError, match="queue 'gpu': has no settings"):
        await uow.queues.resume("gpu")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "q" * 201},
        {"name": "a\0b"},
        {"max_running": 0},
        {"max_running": 1_000_001},
        {"max_running_per_key": -1},
        {"ageing": 0},
        {"ageing": float("nan")},
    ],
)
async def test_what_is_no_setting_is_refused(uow: AsyncUnitOfWork, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        await uow.queues.set(**{"name": "q", **wrong})  # type: ignore[arg-type]
    assert await uow.queues.list() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"jobs": 0},
        {"jobs": 1.5},
        {"jobs": True},
        {"jobs": 5, "period": 0},
        {"jobs": 5, "period": float("inf")},
        {"jobs": 5, "burst": 6},
        {"jobs": 5, "burst": 0},
        {"jobs": 5, "burst": 1.5},
    ],
)
def test_what_is_no_rate_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=f"QueueRate.{list(wrong)[-1]}"):
        QueueRate(**wrong)  # type: ignore[arg-type]
