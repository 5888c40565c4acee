from __future__ import annotations

import re

import pytest
from plans import Explain
from sqlalchemy import text

from alfred_db import AsyncDatabase
from alfred_db.errors import ConflictError, InvalidInputError
from alfred_db.queries import cache as queries
from alfred_db.repositories import AsyncUnitOfWork


async def test_values_are_stored_until_they_expire(uow: AsyncUnitOfWork) -> None:
    cache = uow.cache
    assert await cache.get("k") is None
    for value in (b"", b"\x00\xff", b"7", b"-0", b"007", b"-12", b"9" * 30, b"1 "):
        await cache.set("k", value, 60)
        assert await cache.get("k") == value
    await cache.set("short", b"v", 0.001)
    await cache.set("forever", b"v")
    await uow.session.execute(text("SELECT pg_sleep(0.01)"))
    assert await cache.get("short") is None
    assert await cache.get_many(["k", "short", "forever", "none"]) == {"k": b"1 ", "forever": b"v"}
    assert await cache.touch("short", 60) is False
    assert await cache.touch("k", None) is True
    assert await cache.delete("short") is False
    assert await cache.delete("k") is True
    assert await cache.purge() == 1
    assert (await cache.size()).entries == 1


async def test_many_are_stored_in_one_statement(uow: AsyncUnitOfWork) -> None:
    values = {f"n:{number}": b"%d" % number for number in range(100)}
    await uow.cache.set_many(values, 60, jitter=0.5)
    assert await uow.cache.get_many(list(values)) == values
    await uow.cache.set_many({"other": b"v"})
    assert await uow.cache.clear("n:9") == 11
    assert await uow.cache.clear("n:") == 89
    assert await uow.cache.get("other") == b"v"


async def test_add_stores_only_what_is_missing(uow: AsyncUnitOfWork) -> None:
    assert await uow.cache.add("k", b"1", 0.001) is True
    await uow.session.execute(text("SELECT pg_sleep(0.01)"))
    assert await uow.cache.add("k", b"2", 60) is True
    assert await uow.cache.add("k", b"3", 60) is False
    assert await uow.cache.get("k") == b"2"


async def test_a_value_is_replaced_or_deleted_only_if_it_is_the_expected_one(uow: AsyncUnitOfWork) -> None:
    cache = uow.cache
    assert await cache.replace("k", b"v", expected=b"") is False
    for first, second in ((b"a", b"7"), (b"7", b"07"), (b"", b"0")):
        await cache.set("k", first, 60)
        assert await cache.replace("k", second, expected=second) is False
        assert await cache.replace("k", second, 60, expected=first) is True
        assert await cache.get("k") == second
        assert await cache.delete("k", expected=first) is False
    assert await cache.delete("k", expected=second) is True
    assert await cache.get("k") is None


async def test_numbers_are_added_to(uow: AsyncUnitOfWork) -> None:
    assert await uow.cache.incr("n", 5, ttl=60) == 5
    assert await uow.cache.incr("n", -7) == -2
    assert await uow.cache.get("n") == b"-2"
    await uow.cache.set("n", b"40")
    assert await uow.cache.incr("n", 2) == 42
    await uow.cache.set("n", b"x")
    with pytest.raises(ConflictError, match="not a whole number"):
        await uow.cache.incr("n")
    assert await uow.cache.get("n") == b"x"


async def test_the_oldest_are_evicted(uow: AsyncUnitOfWork) -> None:
    for number in range(10):
        await uow.cache.set(f"n:{number}", b"x" * 97)
    assert await uow.cache.evict(entries=10) == 0
    assert await uow.cache.evict(entries=7) == 3
    assert await uow.cache.get_many([f"n:{number}" for number in range(4)]) == {"n:3": b"x" * 97}
    assert await uow.cache.evict(bytes=500) == 2
    assert (await uow.cache.size()).bytes == 500


async def test_expired_values_are_evicted_first(uow: AsyncUnitOfWork) -> None:
    await uow.cache.set("old", b"v", 60)
    await uow.cache.set("expired", b"v", 0.001)
    await uow.session.execute(text("SELECT pg_sleep(0.01)"))
    await uow.cache.set_bound(entries=1)
    assert await uow.cache.evict() == 1
    assert await uow.cache.get("old") == b"v"
    await uow.cache.set_bound(bytes=3)
    assert await uow.cache.evict() == 1
    await uow.cache.set_bound()
    await uow.cache.set("k", b"v")
    assert await uow.cache.evict() == 0


@pytest.mark.parametrize("many", [False, True])
async def test_writes_keep_the_bound(committed: AsyncDatabase, many: bool) -> None:
    """No worker runs: the writes alone evict, and no more than they must."""
    cache = committed.cache
    await cache.set_bound(entries=400)
    if many:
        for number in range(0, 1_500, 50):
            await cache.set_many({f"k:{n}": b"v" for n in range(number, number + 50)})
    else:
        for number in range(900):
            await cache.set(f"k:{number}", b"v")
            if number % 100 == 99:
                assert (await cache.size()).entries <= 440
    last = 1_500 if many else 900
    assert 360 <= (await cache.size()).entries <= 440
    kept = await cache.get_many([f"k:{n}" for n in range(last)])
    assert min(int(key[2:]) for key in kept) >= last - 440  # the oldest went
    await cache.set_bound(bytes=200_000)
    for number in range(200):
        await cache.set(f"large:{number}", b"x" * 1_000 * (1 + number % 20))
    assert 160_000 <= (await cache.size()).bytes <= 220_000
    await cache.set_bound()
    for number in range(600):
        await cache.set(f"free:{number}", b"v")
    assert await cache.clear("free:") == 600


async def test_a_prefix_is_cleared_by_its_range_of_the_index(uow: AsyncUnitOfWork) -> None:
    cache = uow.cache
    for key in (
        "a",
        "a%",
        "a_",
        "ab",
        "aé",
        "a\U0010ffff",
        "a\U0010ffff\U0010ffff",
        "b",
        "A",
        "\ud7ff",
        "\ue000",
    ):
        await cache.set(key, b"v")
    assert await cache.clear("a_") == 1
    assert await cache.clear("a\U0010ffff") == 2
    assert await cache.clear("\ud7ff") == 1
    assert await cache.clear("a") == 4
    assert await cache.clear() == 3
    await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
    statement = queries.clear(limit=10, bounded=True)
    plan = "\n".join(
        map(str, await uow.session.scalars(Explain(statement.built), {"prefix": "a", "end": "b"}))
    )
    assert "pk_cache" in plan
    assert re.search(r"Index Cond: \(\(key >= .*\) AND \(key < ", plan), plan


async def test_each_call_on_the_database_commits_alone(committed: AsyncDatabase) -> None:
    assert committed.cache is committed.cache
    await committed.cache.set("k", b"v", 60)
    async with committed.begin() as uow:
        assert await uow.cache.get("k") == b"v"
    assert await committed.cache.incr("n") == 1
    with pytest.raises(InvalidInputError):
        await committed.cache.set("", b"v")
    assert await committed.cache.delete_many(["k", "n"]) == 2


async def test_another_computes_after_the_first_died(committed: AsyncDatabase) -> None:
    computed: list[int] = []

    async def compute() -> bytes:
        computed.append(1)
        if len(computed) == 1:
            raise RuntimeError
        return b"v"

    with pytest.raises(RuntimeError):
        await committed.cache.get_or_set("k", compute)
    # A process that was killed leaves its claim behind.
    async with committed.begin() as uow:
        await uow.session.execute(
            text(
                "INSERT INTO cache_claims SELECT 'k', gen_random_uuid(), n, n + 200000"
                " FROM (SELECT (extract(epoch FROM now()) * 1000000)::bigint AS n)"
                if committed.schema is None
                else f"INSERT INTO \"{committed.schema}\".cache_claims SELECT 'k', gen_random_uuid(), n, n + 200000"
                " FROM (SELECT (extract(epoch FROM now()) * 1000000)::bigint AS n)"
            )
        )
    assert await committed.cache.get_or_set("k", compute) == b"v"
    assert len(computed) == 2


async def test_a_lookup_uses_the_key(uow: AsyncUnitOfWork) -> None:
    await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
    plan = await uow.session.scalars(Explain(queries.get().built), {"key": "k"})
    assert "pk_cache" in "\n".join(map(str, plan))
