"""The cache: values with a time to live."""

from __future__ import annotations

import math
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import MAX_SECONDS, check_text, storable, within
from ...engine.pause import AsyncPause
from ...errors import AlfredDBError, ConflictError, InvalidInputError, shown
from ...execution._async.base import AsyncRepository
from ...execution._async.citus import on_citus, size_of
from ...execution._async.copy import table_name
from ...execution._async.driver import affected, fetch
from ...models import CacheEntry
from ...models.base import table_of
from ...queries import cache as queries
from ...queries.shapes.clock import microseconds
from ...queries.shapes.prefixes import prefix_end
from ...values.cache import AsyncCacheCompute, CacheSize

MAX_KEY_BYTES = 2000
"""The length that always fits into an index entry."""

MAX_VALUE_BYTES = 1 << 28
"""The largest value, 256 MiB."""

MAX_BATCH = 10_000
"""The most keys of one call."""

EVICTED = 1000
"""How many entries one statement evicts at most."""

LOOK_EVERY = 256
"""After how many of its writes a repository looks at the size, unless the bound is small."""

LOOK_SHARE = 0.04
"""After what share of the bound it looks, if that is less."""

KNOWN_SECONDS = 10.0
"""How long a repository uses the bound that it has read."""

_Bound = tuple[int | None, int | None]
_NO_BOUND: _Bound = (None, None)
_UNBOUNDED = 1 << 62
_LENGTHS = frozenset(range(1, MAX_KEY_BYTES + 1))


class AsyncCacheRepository(AsyncRepository):
    """Bytes by key, each with a time to live.

    `database.cache` runs each call alone, in autocommit. `uow.cache` is part of the transaction: another caller of the same
    key waits until it ends. The table is UNLOGGED: a crash of the server empties the cache, and a standby cannot read it.
    A prefix of the keys, such as `user:7:`, is a namespace, which `clear` empties. A bound that `set_bound` sets is kept by
    the repositories of databases, at their writes, and by workers.
    """

    def __init__(self, session: AsyncSession, *, evicts: bool = False) -> None:
        super().__init__(session)
        self._evicts = evicts
        self._bound = _NO_BOUND
        self._bound_until = -math.inf
        # What was written since the last look at the size, and what is written until the next one. Threads that write to
        # them at the same time lose a few writes at most.
        self._entries_written = self._bytes_written = 0
        self._entries_looked = self._bytes_looked = 1

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None if it is missing or has expired."""
        _check_key(key)
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
        entry = _entry(key, value, ttl, jitter)
        statement = queries.set_(expires=ttl is not None, numeric="number" in entry)
        await affected(self._session, statement, entry)
        if self._evicts:
            await self._keep_bound(1, len(value))

    async def set_many(
        self, entries: Mapping[str, bytes], ttl: float | None = None, *, jitter: float = 0.0
    ) -> None:
        """Store at most 10,000 values in one statement, as `set` does."""
        keys = sorted(_keys(list(entries)))  # all calls lock in the same order, so that none deadlocks
        rows = [_entry(key, entries[key], ttl, jitter) for key in keys]
        parameters = {
            "keys": keys,
            "values": [one.get("value") for one in rows],
            "numbers": [one.get("number") for one in rows],
            "ttls": [one.get("ttl") for one in rows],
        }
        await affected(self._session, queries.set_many(), parameters)
        if self._evicts:
            await self._keep_bound(len(keys), sum(map(len, entries.values())))

    async def add(self, key: str, value: bytes, ttl: float | None = None, *, jitter: float = 0.0) -> bool:
        """Store a value unless one is stored that has not expired; return whether it was stored."""
        entry = _entry(key, value, ttl, jitter)
        statement = queries.add(expires=ttl is not None, numeric="number" in entry)
        added = bool(await fetch(self._session, statement, entry))
        if added and self._evicts:
            await self._keep_bound(1, len(value))
        return added

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
        if self._evicts and number == delta:  # it may be new
            await self._keep_bound(1, 8)
        return number

    async def touch(self, key: str, ttl: float | None) -> bool:
        """Have a value expire `ttl` seconds from now, None is never; return whether it exists."""
        _check_key(key)
        parameters = {"key": key} if ttl is None else {"key": key, "ttl": _ttl(ttl, 0.0)}
        return bool(await affected(self._session, queries.touch(expires=ttl is not None), parameters))

    async def replace(
        self, key: str, value: bytes, ttl: float | None = None, *, expected: bytes, jitter: float = 0.0
    ) -> bool:
        """Store a value if the stored one is `expected` and has not expired; return whether it was stored."""
        old = _entry(key, expected, None, 0.0)
        parameters: dict[str, object] = {
            "value": None,
            "number": None,
            **_entry(key, value, ttl, jitter),
            "old_value": old.get("value"),
            "old_number": old.get("number"),
        }
        return bool(await affected(self._session, queries.replace(expires=ttl is not None), parameters))

    async def delete(self, key: str, *, expected: bytes | None = None) -> bool:
        """Delete a value, only if it is `expected` where that is passed; return whether it was deleted."""
        if expected is None:
            return bool(await self.delete_many([key]))
        old = _entry(key, expected, None, 0.0)
        parameters = {"key": key, "old_value": old.get("value"), "old_number": old.get("number")}
        return bool(await fetch(self._session, queries.remove_equal(), parameters))

    async def delete_many(self, keys: Sequence[str]) -> int:
        """Delete values, at most 10,000; return how many existed."""
        return len(await fetch(self._session, queries.remove(), {"keys": _keys(keys)}))

    async def clear(self, prefix: str = "", *, limit: int | None = None) -> int:
        """Delete all values whose keys start with a prefix, 10,000 in each statement; return their number.

        With a `limit`, call it and commit until it returns less. `Database.cache` commits each statement anyway.

        Args:
            prefix: The start of the keys.
            limit: The maximum number of values, 1 to 10,000; None deletes all.
        """
        storable("prefix", prefix)
        if limit is not None:
            within("limit", limit, 1, MAX_BATCH)
        removed, most = 0, MAX_BATCH if limit is None else limit
        end = prefix_end(prefix)
        statement = queries.clear(limit=most, bounded=end is not None)
        while True:
            rows = await fetch(self._session, statement, {"prefix": prefix, "end": end})
            removed += len(rows)
            if len(rows) < most or limit is not None:
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

    async def set_bound(self, *, entries: int | None = None, bytes: int | None = None) -> None:
        """Set how much the cache may hold, for all processes; None is no bound.

        What was set first is evicted: by `database.cache` at its writes, a few entries at a time, and by workers in
        their upkeep. The size stays within 10% of the bound. Another process knows a new bound after 10 seconds.

        Args:
            entries: The most entries.
            bytes: The most bytes of keys and values.
        """
        for name, value in (("entries", entries), ("bytes", bytes)):
            if value is not None:
                within(name, value, 0, 1 << 62)
        await affected(self._session, queries.set_bound(), {"entries": entries, "bytes": bytes})
        self._bound_until = -math.inf
        self._entries_looked = 1

    async def evict(
        self, *, entries: int | None = None, bytes: int | None = None, limit: int = MAX_BATCH
    ) -> int:
        """Delete what was set first until the cache is within a bound; return the number of entries.

        Expired values go first. In a large cache what was set first is found in samples, as no index has the time.

        Args:
            entries: The most entries to keep.
            bytes: The most bytes of keys and values to keep. Without both, the bound of `set_bound` is used.
            limit: The most entries to delete in this call, 1 to 10,000.
        """
        within("limit", limit, 1, MAX_BATCH)
        for name, value in (("entries", entries), ("bytes", bytes)):
            if value is not None:
                within(name, value, 0, 1 << 62)
        bound = (entries, bytes)
        if bound == _NO_BOUND and (bound := await self._read_bound()) == _NO_BOUND:
            return 0
        held = await self.size()
        entries_over, bytes_over = _excess(held.entries, held.bytes, bound)
        removed = 0
        while removed < limit and (entries_over > 0 or bytes_over > 0):
            percent = await self._percent()
            gone = await self._evict(entries_over, bytes_over, min(limit - removed, EVICTED), percent)
            if not gone:
                break  # others hold the rows
            removed += len(gone)
            entries_over -= len(gone)
            bytes_over -= sum(gone)
        return removed

    async def _keep_bound(self, entries: int, held: int) -> None:
        """Count a write; now and then, evict what is above the bound, at most twice of what was written."""
        self._entries_written += entries
        self._bytes_written += held
        if self._entries_written < self._entries_looked and self._bytes_written < self._bytes_looked:
            return
        # All processes do so. A sample that is too large has little evicted too much, one that is too small is made
        # up for by the next.
        most_entries, most_bytes = 2 * self._entries_written, 2 * self._bytes_written
        self._entries_written = self._bytes_written = 0
        if time.monotonic() > self._bound_until:
            self._bound = await self._read_bound()
            self._bound_until = time.monotonic() + KNOWN_SECONDS
        bound_entries, bound_bytes = self._bound
        self._entries_looked = min(LOOK_EVERY, _share(bound_entries))
        self._bytes_looked = _share(bound_bytes)
        if self._bound == _NO_BOUND:
            return
        percent = await self._percent()
        ((sampled, sampled_bytes),) = await fetch(self._session, queries.sample(percent), {}, reads=True)
        scale = 100 / percent
        over = _excess(int(sampled * scale), int(sampled_bytes * scale), self._bound)
        entries_over, bytes_over = min(over[0], most_entries), min(over[1], most_bytes)
        while entries_over > 0 or bytes_over > 0:
            gone = await self._evict(entries_over, bytes_over, EVICTED, percent)
            entries_over -= len(gone)
            bytes_over -= sum(gone)
            if len(gone) < EVICTED:
                break

    async def _percent(self) -> float:
        ((blocks,),) = await fetch(self._session, queries.blocks(), {}, reads=True)
        if not blocks and await on_citus(self._session):
            _, blocks = await size_of(self._session, table_name(self._session, table_of(CacheEntry)))
        part = 100 * queries.BLOCKS / max(blocks, queries.BLOCKS)
        return float(f"{part:.2g}")

    async def _evict(self, entries: int, held: int, most: int, percent: float) -> Sequence[int]:
        parameters = {"entries": entries, "bytes": held, "most": most}
        return [held for (held,) in await fetch(self._session, queries.evict(percent), parameters)]

    async def _read_bound(self) -> _Bound:
        rows = await fetch(self._session, queries.bound(), {}, reads=True)
        return rows[0] if rows else _NO_BOUND

    async def purge(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` (1 to 10,000) expired values; return their number. Only frees space."""
        within("limit", limit, 1, MAX_BATCH)
        await fetch(self._session, queries.purge_claims(limit=limit), {})
        return len(await fetch(self._session, queries.purge(limit=limit), {}))

    async def purgeable(self) -> int:
        """Return how many values calls of `purge` delete in the end."""
        return (await fetch(self._session, queries.purgeable(), {}, reads=True))[0][0]


def _value(value: Any, number: int | None) -> bytes:
    """Every write sets one of them and has the other NULL."""
    return value if number is None else b"%d" % number


def _excess(entries: int, held: int, bound: _Bound) -> tuple[int, int]:
    """Return how many entries and bytes are above a bound; negative if it has room."""
    most_entries, most_bytes = bound
    return (
        0 if most_entries is None else entries - most_entries,
        0 if most_bytes is None else held - most_bytes,
    )


def _share(bound: int | None) -> int:
    """Return how much is written between two looks at the size."""
    return _UNBOUNDED if bound is None else max(1, int(bound * LOOK_SHARE))


def _keys(keys: Sequence[str]) -> list[str]:
    found = list(dict.fromkeys(keys))
    together, lengths = "".join(found), set(map(len, found))
    # One look at all of them; if one may be wrong, each is looked at.
    if not together.isascii() or "\0" in together or lengths - _LENGTHS:
        for key in found:
            _check_key(key)
    if len(found) > MAX_BATCH:
        raise InvalidInputError(
            f"keys: expected at most {MAX_BATCH:,}, got {len(found):,}; pass them in parts"
        )
    return found


def _check_key(key: str) -> None:
    """Check the length of a key; the check of the arguments has found that it is text."""
    if not 1 <= len(key) <= MAX_KEY_BYTES // 4:  # no character has more than four bytes
        check_text("key", key, MAX_KEY_BYTES)


def _ttl(ttl: float, jitter: float) -> int:
    if not 0.001 <= ttl <= MAX_SECONDS:
        within("ttl", ttl, 0.001, MAX_SECONDS)
    if jitter:
        within("jitter", jitter, 0.0, 1.0)
        return microseconds(ttl * (1 - jitter * random.random()))
    return round(ttl * 1_000_000)


def _entry(key: str, value: bytes, ttl: float | None, jitter: float) -> dict[str, object]:
    """Return the parameters of an entry: `value`, or `number` if it is the usual text of a whole number."""
    _check_key(key)
    if len(value) > MAX_VALUE_BYTES:
        raise InvalidInputError(f"value: expected at most {MAX_VALUE_BYTES:,} bytes, got {len(value):,}")
    entry: dict[str, object] = {"key": key, "value": value}
    if ttl is not None:
        entry["ttl"] = _ttl(ttl, jitter)
    # `incr` adds to a number.
    if len(value) < 19 and value[-1:].isdigit():
        try:
            number = int(value)
        except ValueError:
            return entry
        if b"%d" % number == value:
            del entry["value"]
            entry["number"] = number
    return entry
