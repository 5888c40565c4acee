"""One contender of the benchmark beside Redis: Redis by redis-py, alfred-db, or plain statements of psycopg."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from contender import serve

VALUE = b"x" * 300
FIXED_WINDOW = """
local n = redis.call('INCRBY', KEYS[1], 1)
if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return n
"""

_keys: list[str] = []
_calls: dict[str, Callable[[Any, int], object]] = {}
_connect: Callable[[], Any]


def _key(number: int) -> str:
    return _keys[number % len(_keys)]


def use_redis(socket: str, keys: int) -> None:
    """Fill Redis, and measure it from then on."""
    import redis

    global _connect

    def connect() -> Any:
        client = redis.Redis(unix_socket_path=socket, single_connection_client=True)
        client.limit = client.register_script(FIXED_WINDOW)
        return client

    _connect = connect
    _keys[:] = [f"key:{number}" for number in range(keys)]
    client = connect()
    client.flushall()
    for start in range(0, keys, 1000):
        with client.pipeline(transaction=False) as pipeline:
            for key in _keys[start : start + 1000]:
                pipeline.set(key, VALUE, ex=3600)
            pipeline.execute()
    _calls.update(
        {
            "get": lambda c, n: c.get(_key(n)),
            "set": lambda c, n: c.set(_key(n), VALUE, ex=3600),
            "incr": lambda c, n: c.incr(f"n:{n % 1000}"),
            "get_many": lambda c, n: c.mget(_keys[n % 50 : n % 50 + 100]),
            "limit": lambda c, n: c.limit([f"limit:{n % 100}"], [60_000]) <= 1_000_000,
        }
    )


def use_alfred(url: str, keys: int) -> None:
    """Fill the cache of alfred-db, and measure it from then on."""
    from alfred_db import Database

    global _connect
    _keys[:] = [f"key:{number}" for number in range(keys)]
    database = Database(url)
    for start in range(0, keys, 1000):
        database.cache.set_many(dict.fromkeys(_keys[start : start + 1000], VALUE), 3600)
    _connect = lambda: Database(url, pool_size=1)  # noqa: E731
    _calls.update(
        {
            "get": lambda c, n: c.cache.get(_key(n)),
            "set": lambda c, n: c.cache.set(_key(n), VALUE, 3600.0),
            "incr": lambda c, n: c.cache.incr(f"n:{n % 1000}"),
            "get_many": lambda c, n: c.cache.get_many(_keys[n % 50 : n % 50 + 100]),
            "limit": lambda c, n: bool(
                c.rate_limits.hit(f"{n % 100}", limit=1_000_000, period=60.0, algorithm="fixed-window")
            ),
        }
    )


def use_plain(url: str, keys: int) -> None:
    """Fill a table with a key, a value and an expiry, and measure plain statements from then on."""
    import psycopg

    global _connect
    _connect = lambda: psycopg.connect(url, autocommit=True)  # noqa: E731
    _keys[:] = [f"key:{number}" for number in range(keys)]
    connection = _connect()
    connection.execute("DROP TABLE IF EXISTS plain")
    connection.execute(
        "CREATE UNLOGGED TABLE plain (key text PRIMARY KEY, value bytea, expires timestamptz) WITH (fillfactor = 70)"
    )
    connection.execute(
        "INSERT INTO plain SELECT 'key:' || n, %s, now() + interval '1 hour' FROM generate_series(0, %s) AS n",
        (VALUE, keys - 1),
    )
    get = "SELECT value FROM plain WHERE key = %s AND expires > now()"
    upsert = (
        "INSERT INTO plain (key, value, expires) VALUES (%s, %s, now() + %s * interval '1 second')"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires"
    )
    _calls.update(
        {
            "get": lambda c, n: c.execute(get, (_key(n),)).fetchone(),
            "set": lambda c, n: c.execute(upsert, (_key(n), VALUE, 3600)),
        }
    )


def run(name: str, connections: int, seconds: float) -> dict[str, float]:
    """Call as often as possible; return calls/s, the median, and the client's processor time of a call."""
    call, times = _calls[name], [[] for _ in range(connections)]
    clients = [_connect() for _ in range(connections)]
    for own, client in enumerate(clients):
        for number in range(20):
            call(client, own * 7919 + number)
    ready = threading.Barrier(connections)

    def caller(own: int) -> None:
        client, taken, number = clients[own], times[own], own * 7919
        ready.wait()
        begun = now = time.perf_counter()
        while now - begun < seconds:
            call(client, number)
            number += 1
            before, now = now, time.perf_counter()
            taken.append(now - before)

    processor = time.process_time()
    threads = [threading.Thread(target=caller, args=(own,)) for own in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = time.process_time() - processor
    for client in clients:
        client.close()
    every = [one for taken in times for one in taken]
    # Each thread has its own times: the one that starts them may itself wait for a processor.
    rate = sum(len(taken) / sum(taken) for taken in times)
    return {"rate": rate, "p50": median(every), "cpu": used / len(every)}


if __name__ == "__main__":
    serve(use_redis, use_alfred, use_plain, run)
