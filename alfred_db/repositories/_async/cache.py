"""The cache: values with a time to live."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...checks import MAX_SECONDS, check_text, within
from ...engine.pause import AsyncPause
from ...errors import AlfredDBError, ConflictError, InvalidInputError, shown
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import affected, fetch
from ...queries import cache as queries
from ...queries.shapes.clock import microseconds
from ...values.cache import AsyncCacheCompute, CacheSize

MAX_KEY_BYTES = 2000
"""The length that always fits into an index entry."""

MAX_VALUE_BYTES = 1 << 28
"""The largest value, 256 MiB."""

MAX_BATCH = 10_000
"""The most keys of one call."""


class AsyncCacheRepository(AsyncRepository):
    """Bytes by key, each with a time to live.

    `database.cache` runs each call alone, in autocommit. `uow.cache` is part of the transaction: another caller of the same
    key waits until it ends. The table is UNLOGGED: a crash of the server empties the cache, and a standby cannot read it.
    A prefix of the keys, such as `user:7:`, is a namespace, which `clear` empties.
    """

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None if it is missing or has expired."""
        check_text("key", key, MAX_KEY_BYTES)
        rows = await fetch(self._session, queries.get(), {"key": key}, reads=True)
        return _value(*rows[0]) if rows else None

    async def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values that exist and have not expired, by key; at most 10,000 keys."""
        parameters = {"keys": _keys(keys)}
        rows = await fetch(self._session, queries.get_many(), parameters, reads=True)
        return {key: _value(value, number) for key, value, number in rows}

    async def set(self, key: str, value: bytes, ttl: float | None = None, *, jitter: float = 0.0) -> None:
        """Store a value, in place of what is stored.

        Args:
            key: 1 to 2,000 bytes.
            value: At most 256 MiB.
            ttl: Seconds until it expires; None is never.
            jitter: The share of `ttl` by which the value may expire earlier, 0 to 1, at random: values that
                were stored together do not expire together.
        """
        await fetch(
            self._session,
            queries.set_(expires=ttl is not None, add=False),
            _entry(key, value, ttl, jitter),
        )

    async def set_many(
        self, entries: Mapping[str, bytes], ttl: float | None = None, *, jitter: float = 0.0
    ) -> None:
        """Store at most 10,000 values in one statement, as `set` does."""
        keys = sorted(_keys(list(entries)))  # all calls lock in the same order, so that none deadlocks
        rows = [_entry(key, entries[key], ttl, jitter) for key in keys]
        await fetch(
            self._session,
            queries.set_many(),
            {
                "keys": keys,
                "values": [one["value"] for one in rows],
                "numbers": [one["number"] for one in rows],
                "ttls": [one.get("ttl") for one in rows],
            },
        )

    async def add(self, key: str, value: bytes, ttl: float | None = None, *, jitter: float = 0.0) -> bool:
        """Store a value unless one is stored that has not expired; return whether it was stored."""
        statement = queries.set_(expires=ttl is not None, add=True)
        return bool(await fetch(self._session, statement, _entry(key, value, ttl, jitter)))

    async def incr(self, key: str, delta: int = 1, *, ttl: float | None = None) -> int:
        """Add to a number and return the sum. A missing one begins at 0, with `ttl`; an existing one keeps its own.

        Raises:
            ConflictError: The value is not the text of a whole number.
        """
        within("delta", delta, -(1 << 62), 1 << 62)
        parameters = {**_entry(key, b"0", ttl, 0.0), "number": delta}
        rows = await fetch(self._session, queries.increment(expires=ttl is not None), parameters)
        if (number := rows[0][0]) is None:
            raise ConflictError(f"cache key {shown(key)}: its value is not a whole number; set one first")
        return number

    async def touch(self, key: str, ttl: float | None) -> bool:
        """Have a value expire `ttl` seconds from now, None is never; return whether it exists."""
        check_text("key", key, MAX_KEY_BYTES)
        parameters = {"key": key} if ttl is None else {"key": key, "ttl": _ttl(ttl, 0.0)}
        return bool(await affected(self._session, queries.touch(expires=ttl is not None), parameters))

    async def delete(self, key: str) -> bool:
        """Delete a value; return whether it existed."""
        return bool(await self.delete_many([key]))

    async def delete_many(self, keys: Sequence[str]) -> int:
        """Delete values, at most 10,000; return how many existed."""
        return len(await fetch(self._session, queries.remove(), {"keys": _keys(keys)}))

    async def clear(self, prefix: str = "") -> int:
        """Delete all values whose keys start with a prefix, 10,000 in each statement; return their number."""
        removed = 0
        while True:
            rows = await fetch(self._session, queries.clear(limit=MAX_BATCH), {"prefix": prefix})
            removed += len(rows)
            if len(rows) < MAX_BATCH:
                return removed

    async def get_or_set(
        self,
        key: str,
        compute: AsyncCacheCompute,
        ttl: float | None = None,
        *,
        jitter: float = 0.0,
        lease: float = 30.0,
    ) -> bytes:
        """Return a value; if it is missing, one caller computes it, and the others wait for it.

        If the computation fails, its caller gets the error and another caller computes. If the process of the
        caller dies, another one computes after `lease` seconds. Call it on the database: within a unit of work the
        transaction stays open during the computation.

        Args:
            key: 1 to 2,000 bytes.
            compute: Returns the value.
            ttl: Seconds until it expires; None is never.
            jitter: As in `set`.
            lease: Seconds after which another caller computes too; more than the computation takes.
        """
        within("lease", lease, 0.01, MAX_SECONDS)
        claim = {"key": key, "token": uuid.uuid4(), "lease": microseconds(lease)}
        pause = 0.005
        while (found := await self.get(key)) is None:
            if await fetch(self._session, queries.claim(), claim):
                try:
                    # Another caller may have stored it between the look and the claim.
                    if (found := await self.get(key)) is None:
                        found = await compute()
                        await self.set(key, found, ttl, jitter=jitter)
                except BaseException:
                    with suppress(AlfredDBError):  # without it the next caller waits for the end of the lease
                        await fetch(self._session, queries.release(), {"key": key, "token": claim["token"]})
                    raise
                await fetch(self._session, queries.release(), {"key": key, "token": claim["token"]})
                return found
            await AsyncPause.seconds(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 1.5, 0.1)
        return found

    async def size(self) -> CacheSize:
        """Return the number of entries and of their bytes; reads the whole table."""
        ((entries, held),) = await fetch(self._session, queries.size(), {}, reads=True)
        return CacheSize(entries, int(held))

    async def evict(
        self, *, entries: int | None = None, bytes: int | None = None, limit: int = MAX_BATCH
    ) -> int:
        """Delete those that were set first, until the cache is within a bound; return their number.

        Args:
            entries: The most entries to keep.
            bytes: The most bytes of keys and values to keep; their number is estimated by the average.
            limit: The most entries to delete in this call, 1 to 10,000.
        """
        within("limit", limit, 1, MAX_BATCH)
        held, excess = await self.size(), 0
        if entries is not None:
            within("entries", entries, 0, 1 << 62)
            excess = held.entries - entries
        if bytes is not None:
            within("bytes", bytes, 0, 1 << 62)
            if held.bytes > bytes:
                excess = max(excess, -(-(held.bytes - bytes) * held.entries // held.bytes))
        if excess <= 0:
            return 0
        return len(await fetch(self._session, queries.evict(limit=limit if excess > limit else excess), {}))

    async def purge(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` (1 to 10,000) expired values; return their number. Only frees space."""
        within("limit", limit, 1, MAX_BATCH)
        await fetch(self._session, queries.purge_claims(limit=limit), {})
        return len(await fetch(self._session, queries.purge(limit=limit), {}))

    async def purgeable(self) -> int:
        """Return how many values calls of `purge` delete in the end."""
        return (await fetch(self._session, queries.purgeable(), {}, reads=True))[0][0]


def _value(value: Any, number: int | None) -> bytes:
    """A constraint of the table has one of them NULL."""
    return value if number is None else b"%d" % number


def _keys(keys: Sequence[str]) -> list[str]:
    for key in keys:
        check_text("key", key, MAX_KEY_BYTES)
    found = list(dict.fromkeys(keys))
    if len(found) > MAX_BATCH:
        raise InvalidInputError(
            f"keys: expected at most {MAX_BATCH:,}, got {len(found):,}; pass them in parts"
        )
    return found


def _ttl(ttl: float, jitter: float) -> int:
    within("ttl", ttl, 0.001, MAX_SECONDS)
    within("jitter", jitter, 0.0, 1.0)
    return microseconds(ttl * (1 - jitter * random.random()) if jitter else ttl)


def _entry(key: str, value: bytes, ttl: float | None, jitter: float) -> dict[str, object]:
    check_text("key", key, MAX_KEY_BYTES)
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidInputError(f"value: expected at most {MAX_VALUE_BYTES:,} bytes, got {len(value):,}")
    entry: dict[str, object] = {"key": key, "value": value, "number": None}
    if ttl is not None:
        entry["ttl"] = _ttl(ttl, jitter)
    # The usual text of a whole number is stored as a number: `incr` adds to it.
    if len(value) < 19 and value[-1:].isdigit():
        try:
            number = int(value)
        except ValueError:
            return entry
        if b"%d" % number == value:
            entry["value"], entry["number"] = None, number
    return entry
