"""Rate limits as a storage of limits, for Flask-Limiter, SlowAPI and others. Needs the extra `limits`.

import alfred_db.integrations.limits  # registers the schemes alfred-db:// and async+alfred-db://

limiter = MovingWindowRateLimiter(storage_from_string("alfred-db://", database=db))
"""

from __future__ import annotations

import time
from typing import Any

import limits.aio.storage
import limits.storage
from limits.storage.base import TimestampedSlidingWindow

from ..database import AsyncDatabase, Database
from ..errors import AlfredDBError
from ..repositories import AsyncRateLimitRepository, RateLimitRepository
from ..values.rate_limits import RateLimitUsage

__all__ = ["AlfredDBStorage", "AsyncAlfredDBStorage"]

PREFIX = "limits:"
"""What the keys begin with, so that `reset` leaves the limits of others alone."""


class AlfredDBStorage(
    limits.storage.Storage,
    limits.storage.MovingWindowSupport,
    limits.storage.SlidingWindowCounterSupport,
    TimestampedSlidingWindow,
):
    """A storage of limits in the database, with all of its strategies.

    A moving window keeps the time of each hit, a fixed window begins with its first hit, and sliding windows begin at the
    multiples of their period. The clock is the database's.

    Args:
        uri: `alfred-db://user:password@host/name`, or `alfred-db://` for `ALFRED_DB_URL`; unused with `database`.
        wrap_exceptions: Whether to raise `limits.errors.StorageError` in place of an `AlfredDBError`.
        database: The database, if it exists already.
        **options: What `Database` takes.
    """

    STORAGE_SCHEME = ["alfred-db"]  # noqa: RUF012

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        database: Database | None = None,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._database = database or Database(_url(uri), **options)

    @property
    def _limits(self) -> RateLimitRepository:
        return self._database.rate_limits

    @property
    def base_exceptions(self) -> type[Exception]:
        """The base class of what the methods raise."""
        return AlfredDBError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter that expires `expiry` seconds after its first hit, and return it."""
        return self._limits.count(PREFIX + key, period=float(expiry), cost=amount).hits

    def get(self, key: str) -> int:
        """Return a counter."""
        return self._limits.usage(PREFIX + key).hits

    def get_expiry(self, key: str) -> float:
        """Return when a counter expires, in seconds since 1970; now if it has."""
        return time.time() + self._limits.usage(PREFIX + key).reset_after

    def check(self) -> bool:
        """Return whether the database answers."""
        try:
            self._limits.usage(PREFIX)
        except AlfredDBError:
            return False
        return True

    def reset(self) -> int | None:
        """Forget everything that was counted through limits; return the number of keys."""
        return self._limits.clear(PREFIX)

    def clear(self, key: str) -> None:
        """Forget what was counted for a key."""
        self._limits.reset(PREFIX + key)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit of a moving window unless it exceeds the limit."""
        return amount <= limit and bool(
            self._limits.hit(
                PREFIX + key, limit=limit, period=float(expiry), cost=amount, algorithm="moving-window"
            )
        )

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the oldest hit of a moving window was, and the number of its hits."""
        return _moving(self._limits.usage(PREFIX + key, period=float(expiry), window="moving-window"), expiry)

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit of a sliding window unless it exceeds the limit."""
        return amount <= limit and bool(
            self._limits.hit(
                PREFIX + key, limit=limit, period=float(expiry), cost=amount, algorithm="sliding-window"
            )
        )

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the hits of the window before and of this one, each with the seconds until it expires."""
        return _sliding(
            self._limits.usage(PREFIX + key, period=float(expiry), window="sliding-window"), expiry
        )

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget what was counted for a key."""
        self.clear(key)


class AsyncAlfredDBStorage(
    limits.aio.storage.Storage,
    limits.aio.storage.MovingWindowSupport,
    limits.aio.storage.SlidingWindowCounterSupport,
    TimestampedSlidingWindow,
):
    """The storage for asyncio: `AlfredDBStorage` with an `AsyncDatabase`.

    Args:
        uri: `async+alfred-db://user:password@host/name`, or `async+alfred-db://` for `ALFRED_DB_URL`; unused with
            `database`.
        wrap_exceptions: Whether to raise `limits.errors.StorageError` in place of an `AlfredDBError`.
        database: The database, if it exists already.
        **options: What `AsyncDatabase` takes.
    """

    STORAGE_SCHEME = ["async+alfred-db"]  # noqa: RUF012

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,
        *,
        database: AsyncDatabase | None = None,
        **options: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._database = database or AsyncDatabase(_url(uri), **options)

    @property
    def _limits(self) -> AsyncRateLimitRepository:
        return self._database.rate_limits

    @property
    def base_exceptions(self) -> type[Exception]:
        """The base class of what the methods raise."""
        return AlfredDBError

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add to a counter that expires `expiry` seconds after its first hit, and return it."""
        return (await self._limits.count(PREFIX + key, period=float(expiry), cost=amount)).hits

    async def get(self, key: str) -> int:
        """Return a counter."""
        return (await self._limits.usage(PREFIX + key)).hits

    async def get_expiry(self, key: str) -> float:
        """Return when a counter expires, in seconds since 1970; now if it has."""
        return time.time() + (await self._limits.usage(PREFIX + key)).reset_after

    async def check(self) -> bool:
        """Return whether the database answers."""
        try:
            await self._limits.usage(PREFIX)
        except AlfredDBError:
            return False
        return True

    async def reset(self) -> int | None:
        """Forget everything that was counted through limits; return the number of keys."""
        return await self._limits.clear(PREFIX)

    async def clear(self, key: str) -> None:
        """Forget what was counted for a key."""
        await self._limits.reset(PREFIX + key)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit of a moving window unless it exceeds the limit."""
        return amount <= limit and bool(
            await self._limits.hit(
                PREFIX + key, limit=limit, period=float(expiry), cost=amount, algorithm="moving-window"
            )
        )

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the oldest hit of a moving window was, and the number of its hits."""
        usage = await self._limits.usage(PREFIX + key, period=float(expiry), window="moving-window")
        return _moving(usage, expiry)

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit of a sliding window unless it exceeds the limit."""
        return amount <= limit and bool(
            await self._limits.hit(
                PREFIX + key, limit=limit, period=float(expiry), cost=amount, algorithm="sliding-window"
            )
        )

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the hits of the window before and of this one, each with the seconds until it expires."""
        usage = await self._limits.usage(PREFIX + key, period=float(expiry), window="sliding-window")
        return _sliding(usage, expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget what was counted for a key."""
        await self.clear(key)


def _url(uri: str | None) -> str | None:
    """Return the URL of the database; None leaves it to the environment."""
    rest = (uri or "").partition("://")[2]
    return f"postgresql://{rest}" if rest else None


def _moving(usage: RateLimitUsage, expiry: float) -> tuple[float, int]:
    now = time.time()
    return (now + usage.reset_after - expiry if usage.hits else now), usage.hits


def _sliding(usage: RateLimitUsage, expiry: float) -> tuple[int, float, int, float]:
    left = usage.reset_after if usage.previous else 0.0
    return usage.previous, left, usage.hits, usage.reset_after + expiry
