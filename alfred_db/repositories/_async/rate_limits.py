"""Rate limits: how much of something is allowed in a period."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ...checks import MAX_SECONDS, check_text, check_word, storable, within
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import fetch
from ...queries import rate_limits as queries
from ...queries.shapes.clock import microseconds
from ...queries.shapes.prefixes import prefix_end
from ...values.rate_limits import RateLimit, RateLimitMethod, RateLimitUsage, RateLimitWindow

MAX_KEY_BYTES = 1900
"""The length that, with the name of the algorithm, always fits into an index entry."""

MAX_MOVING = 1_000_000
"""The largest limit of a moving window, which keeps the time of each unit, in eight bytes."""

MAX_CLEARED = 10_000
"""How many states one statement of `clear` deletes."""

State = Sequence[Any]
"""The clock; when it last allowed; start of the window; hits in it; hits in the one before.

Of a moving window: the clock; its units; the oldest one; the one whose end makes room.
"""


class AsyncRateLimitRepository(AsyncRepository):
    """How often something is allowed, counted by the database's clock.

    Call it on the database, as `database.rate_limits.hit(...)`: within a unit of work other callers of the same key wait
    until the transaction ends, and a rollback forgets the hit. The table is UNLOGGED: a crash of the server resets all limits.
    """

    async def hit(
        self,
        key: str,
        *,
        limit: int,
        period: float,
        cost: int = 1,
        algorithm: RateLimitMethod = "token-bucket",
    ) -> RateLimit:
        """Count `cost` against a limit, unless that would exceed it; the result is true if it was counted.

        Args:
            key: What is limited, such as `user:7`; 1 to 1,900 bytes. Each algorithm has its own state.
            limit: How much is allowed in a period, 1 to 1,000,000 in each second.
            period: Seconds, 0.001 to a year.
            cost: How much this call takes, 1 to `limit`.
            algorithm: How it counts. `token-bucket` allows `limit` at once and refills evenly; `fixed-window`
                allows `limit` in each period of the clock; `sliding-window` counts the last period by the share
                of it that is not yet a period ago, as if its hits were spread evenly, in whole units;
                `moving-window` allows `limit`, at most 1,000,000, in any period, and keeps the time of each unit.
        """
        parameters = _checked(key, limit, period, cost, algorithm)
        statement, said = _ALGORITHMS[algorithm]
        if rows := await fetch(self._session, statement(), parameters):
            state = rows[0] if algorithm == "moving-window" else (rows[0][0], *rows[0])
            return said(state, parameters, True)
        # Nothing was counted: the time to try again follows from the state.
        return replace(await self._said(parameters, algorithm), allowed=False)

    async def check(
        self,
        key: str,
        *,
        limit: int,
        period: float,
        cost: int = 1,
        algorithm: RateLimitMethod = "token-bucket",
    ) -> RateLimit:
        """Return what `hit` would return, and count nothing."""
        return await self._said(_checked(key, limit, period, cost, algorithm), algorithm)

    async def _said(self, parameters: dict[str, Any], algorithm: RateLimitMethod) -> RateLimit:
        moving = algorithm == "moving-window"
        statement: Any = queries.moving_state() if moving else queries.state()
        rows = await fetch(self._session, statement, parameters, reads=True)
        nothing: State = (0, 0, 0, 0) if moving else (0, 0, 0, 0, 0)
        state = rows[0] if rows else nothing
        return _ALGORITHMS[algorithm][1](state, parameters, False)

    async def count(self, key: str, *, period: float, cost: int = 1) -> RateLimitUsage:
        """Add to a counter, which refuses nothing, and return it: INCR and EXPIRE of Redis.

        Args:
            key: What is counted; 1 to 1,900 bytes.
            period: Seconds after its first hit when the counter begins again, 0.001 to a year.
            cost: How much to add, at least 1.
        """
        check_text("key", key, MAX_KEY_BYTES)
        within("period", period, 0.001, MAX_SECONDS / 100)
        within("cost", cost, 1, 1 << 31)
        parameters = {"key": f"counter:{key}", "window": microseconds(period), "cost": cost}
        ((hits, left),) = await fetch(self._session, queries.count(), parameters)
        return RateLimitUsage(hits, left / 1_000_000)

    async def usage(
        self, key: str, *, period: float = 1.0, window: RateLimitWindow = "counter"
    ) -> RateLimitUsage:
        """Return what was counted for a key, and count nothing.

        Args:
            key: What is limited or counted; 1 to 1,900 bytes.
            period: The period of the window in seconds; a counter has its own.
            window: The counter of `count`, or the window of an algorithm of `hit`.
        """
        check_text("key", key, MAX_KEY_BYTES)
        check_word("window", window, RateLimitWindow)
        within("period", period, 0.001, MAX_SECONDS / 100)
        parameters: dict[str, Any] = {"key": f"{window}:{key}"}
        length = microseconds(period)
        if window == "counter":
            counted = await fetch(self._session, queries.counted(), parameters, reads=True)
            return (
                RateLimitUsage(counted[0][0], counted[0][1] / 1_000_000)
                if counted
                else RateLimitUsage(0, 0.0)
            )
        if window == "moving-window":
            parameters |= {"window": length, "cost": 1, "limit": 1}
            moving = await fetch(self._session, queries.moving_state(), parameters, reads=True)
            now, units, oldest, _ = moving[0] if moving else (0, 0, 0, 0)
            return RateLimitUsage(units, (oldest + length - now) / 1_000_000 if units else 0.0)
        sliding = await fetch(self._session, queries.state(), parameters, reads=True)
        elapsed, hits, previous = _windows(sliding[0] if sliding else (0, 0, 0, 0, 0), length)
        return RateLimitUsage(hits, (length - elapsed) / 1_000_000, previous)

    async def reset(self, key: str) -> bool:
        """Forget what was counted for a key; return whether anything was."""
        check_text("key", key, MAX_KEY_BYTES)
        keys = [f"{algorithm}:{key}" for algorithm in _STORED]
        return bool(await fetch(self._session, queries.reset(), {"keys": keys}))

    async def clear(self, prefix: str = "", *, limit: int | None = None) -> int:
        """Forget what was counted for all keys that start with a prefix; return the number of states.

        With a `limit`, call it and commit until it returns less. `Database.rate_limits` commits each statement anyway.

        Args:
            prefix: The start of the keys.
            limit: The maximum number of states, 1 to 10,000; None deletes all.
        """
        storable("prefix", prefix)
        if limit is not None:
            within("limit", limit, 1, MAX_CLEARED)
        removed = 0
        for algorithm in _STORED:
            start = f"{algorithm}:{prefix}"
            most = found = 1
            while found == most and (limit is None or removed < limit):
                most = MAX_CLEARED if limit is None else limit - removed
                parameters = {"prefix": start, "end": prefix_end(start)}
                found = len(await fetch(self._session, queries.clear(limit=most), parameters))
                removed += found
        return removed

    async def purge(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` (1 to 10,000) states that no longer matter; return their number."""
        within("limit", limit, 1, 10_000)
        return len(await fetch(self._session, queries.purge(limit=limit), {}))

    async def purgeable(self) -> int:
        """Return how many states calls of `purge` delete in the end."""
        return (await fetch(self._session, queries.purgeable(), {}, reads=True))[0][0]


def _checked(key: str, limit: int, period: float, cost: int, algorithm: str) -> dict[str, Any]:
    check_text("key", key, MAX_KEY_BYTES)
    return {"key": f"{algorithm}:{key}", **_rule(limit, period, cost, algorithm)}


@lru_cache(maxsize=256)
def _rule(limit: int, period: float, cost: int, algorithm: str) -> Mapping[str, int]:
    """Return the parameters of a rule, of which a program has few."""
    check_word("algorithm", algorithm, RateLimitMethod)
    within("period", period, 0.001, MAX_SECONDS / 100)
    within("limit", limit, 1, max(1, int(period * 1_000_000)))
    within("cost", cost, 1, limit)
    if algorithm == "moving-window":
        within("limit", limit, 1, MAX_MOVING)
    window = microseconds(period)
    if algorithm == "token-bucket":
        # Rounded up, so that never more than the limit is allowed.
        each = -(-window // limit)
        return {"cost": each * cost, "burst": each * limit, "each": each}
    return {"cost": cost, "limit": limit, "window": window}


def _bucket(state: State, parameters: dict[str, Any], taken: bool) -> RateLimit:
    clock, at, full, _, _ = state
    missing = max(0, full - max(clock, at))
    left = parameters["burst"] - missing
    wait = 0 if taken else max(0, parameters["cost"] - left)
    return _answer(taken, wait, left // parameters["each"], missing)


def _fixed(state: State, parameters: dict[str, Any], taken: bool) -> RateLimit:
    clock, at, start, hits, _ = state
    window, ends = parameters["window"], start + parameters["window"] - max(clock, at)
    if ends <= 0:
        hits, ends = 0, window
    left = parameters["limit"] - hits
    wait = 0 if taken or parameters["cost"] <= left else ends
    return _answer(taken, wait, left, ends if hits else 0)


def _windows(state: State, window: int) -> tuple[int, int, int]:
    """Return what has elapsed of the window of the clock, the hits in it, and those in the one before."""
    clock, at, start, hits, previous = state
    elapsed = max(clock, at) - start
    if elapsed >= window:  # it is the last window by now, or longer ago
        return elapsed % window, 0, hits if elapsed < 2 * window else 0
    return elapsed, hits, previous


def _sliding(state: State, parameters: dict[str, Any], taken: bool) -> RateLimit:
    window, limit, cost = parameters["window"], parameters["limit"], parameters["cost"]
    elapsed, hits, previous = _windows(state, window)
    used = hits + int(previous * (1 - elapsed / window))
    left = max(0, limit - used)
    wait = 0.0
    if not taken and used + cost > limit:
        # A whole unit is free once less than it remains of the window before.
        if hits + cost <= limit:
            wait = 1 + window * (1 - (limit - hits - cost + 1) / previous) - elapsed
        else:
            wait = 1 + window - elapsed + max(0.0, window * (1 - (limit - cost + 1) / hits))
    reset = 2 * window - elapsed if hits else window - elapsed if previous else 0
    return _answer(taken, max(0.0, wait), left, reset)


def _moving(state: State, parameters: dict[str, Any], taken: bool) -> RateLimit:
    now, units, oldest, *deciding = state
    window, left = parameters["window"], parameters["limit"] - units
    wait = 0 if taken or parameters["cost"] <= left else deciding[0] + window - now
    return _answer(taken, wait, left, window if taken else oldest + window - now if units else 0)


def _answer(taken: bool, wait: float, left: int, reset: float) -> RateLimit:
    return RateLimit(taken or wait <= 0, max(0, left), wait / 1_000_000, reset / 1_000_000)


_ALGORITHMS: dict[str, tuple[Callable[[], Any], Callable[[State, dict[str, Any], bool], RateLimit]]] = {
    "fixed-window": (queries.fixed_window, _fixed),
    "moving-window": (queries.moving_window, _moving),
    "sliding-window": (queries.sliding_window, _sliding),
    "token-bucket": (queries.token_bucket, _bucket),
}

_STORED = (*_ALGORITHMS, "counter")
"""What the keys of the table begin with."""
