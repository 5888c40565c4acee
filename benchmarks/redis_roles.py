"""The cache and the rate limits beside Redis 7, and beside plain statements; a cache of a million keys under load.

python benchmarks/redis_roles.py            one connection and 16; a million keys
python benchmarks/redis_roles.py --quick    shorter, 100,000 keys

Redis is Debian's redis-server, on a port of its own, without persistence; it is started and stopped here. Without it
nothing is measured.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from harness import (
    Contender,
    Page,
    Server,
    at_least,
    at_most,
    interleaved,
    machine,
    one_server,
    peer_environment,
    publish,
    table,
    targets,
)

from alfred_db import Database

PEER = Path(__file__).parent / "redis_roles_peer.py"
PAGE = Page("redis.md", "Benchmarks beside Redis", "Written by `make bench-redis`.")
CALLS = ("get", "set", "incr", "get_many", "limit")
KEYS = 5_000


@contextmanager
def redis_server(program: str) -> Iterator[tuple[str, str]]:
    """A Redis that keeps nothing, until the end; its socket and its version."""
    with tempfile.TemporaryDirectory(prefix="alfred-db-redis-") as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        path = f"{folder}/socket"
        options = [
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            path,
            "--save",
            "",
            "--dir",
            folder,
        ]
        process = subprocess.Popen([program, *options, "--appendonly", "no"], stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 30
            while not Path(path).exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit("redis-server does not start")
                time.sleep(0.05)
            version = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=True
            ).stdout
            yield path, version.partition("v=")[2].partition(" ")[0]
        finally:
            process.terminate()
            process.wait(30)


def beside_redis(server: Server, program: str, runs: int, seconds: float) -> None:
    url = server.database("cache")
    with Database(url) as database:
        database.upgrade()
    python = peer_environment("redis", ["redis==7.1.0"])
    with (
        redis_server(program) as (path, version),
        Contender("redis", PEER, python) as redis,
        Contender("alfred-db", PEER) as alfred,
        Contender("plain", PEER) as plain,
    ):
        redis.ask("use_redis", path, KEYS)
        alfred.ask("use_alfred", url, KEYS)
        plain.ask("use_plain", url, KEYS)
        rows, wanted = [], []
        for connections in (1, 16):
            for call in CALLS:
                contenders = {"redis": redis, "alfred-db": alfred} | (
                    {"plain": plain} if call in ("get", "set") else {}
                )
                found = interleaved(
                    runs,
                    {
                        name: partial(one.ask, "run", call, connections, seconds)
                        for name, one in contenders.items()
                    },
                )
                medians = {
                    name: {figure: median(one[figure] for one in each) for figure in ("rate", "p50", "cpu")}
                    for name, each in found.items()
                }
                ours = medians["alfred-db"]
                rows.append(
                    (
                        f"{call}, {connections} connection{'s' if connections > 1 else ''}",
                        *(
                            f"{medians[name]['rate']:,.0f}" if name in medians else ""
                            for name in ("redis", "plain", "alfred-db")
                        ),
                        *(
                            f"{ours['rate'] / medians[name]['rate']:.2f}" if name in medians else ""
                            for name in ("redis", "plain")
                        ),
                        f"{ours['cpu'] * 1e6:.0f} µs",
                    )
                )
                if "plain" in medians and connections == 1:
                    ratio = median(
                        one["rate"] / other["rate"]
                        for one, other in zip(found["alfred-db"], found["plain"], strict=True)
                    )
                    wanted.append(
                        at_least(f"{call}: alfred-db / plain statement", ratio, 0.8 if call == "get" else 0.9)
                    )
        publish(
            PAGE,
            "Calls per second",
            f"{machine(server)} Redis {version} without persistence, redis-py; both by a Unix socket. {KEYS:,} keys,"
            f" values of 300 bytes with an expiry. 16 connections are 16 threads of one process. `get_many` has 100 keys; `limit` is a"
            " fixed window, in Redis a script. The plain statements are a SELECT by primary key and an UPSERT of psycopg on an UNLOGGED"
            f" table with an expiry. Medians of {runs} turns of {seconds:g} s.",
            table(("", "Redis", "plain", "alfred-db", "/ Redis", "/ plain", "client"), rows),
            targets(wanted),
        )


def many_keys(server: Server, keys: int) -> None:
    """A cache with many keys: the calls, and purge and eviction in batches beside them."""
    url = server.database("many")
    with Database(url) as database:
        database.upgrade()
        cache = database.cache
        value = b"x" * 100

        def fill(start: int, end: int, ttl: float) -> None:
            for first in range(start, end, 1000):
                cache.set_many({f"key:{n}": value for n in range(first, min(first + 1000, end))}, ttl)

        def p50(count: int) -> tuple[float, float]:
            """The medians of get and set among the first `count` keys."""
            gets, sets = [], []
            for number in range(3000):
                key = f"key:{number * 7919 % count}"
                begun = time.perf_counter()
                cache.get(key)
                between = time.perf_counter()
                cache.set(key, value, 3600.0)
                gets.append(between - begun)
                sets.append(time.perf_counter() - between)
            return median(gets), median(sets)

        fill(0, 1000, 3600.0)
        p50(1000)
        few = [p50(1000) for _ in range(3)]
        fill(1000, keys, 3600.0)
        many = [p50(keys) for _ in range(3)]
        fill(keys, keys + keys // 10, 0.001)

        def beside(work: Callable[[], int]) -> tuple[int, float, list[float]]:
            """Run this while another thread sets and gets; what it did, how long, and the times of the sets."""
            done, times = threading.Event(), []

            def caller() -> None:
                number = 0
                with Database(url, pool_size=1) as other:
                    while not done.is_set():
                        begun = time.perf_counter()
                        other.cache.set(f"key:{number * 7919 % keys}", value, 3600.0)
                        times.append(time.perf_counter() - begun)
                        number += 1

            thread = threading.Thread(target=caller)
            thread.start()
            begun = time.perf_counter()
            try:
                count = work()
            finally:
                took = time.perf_counter() - begun
                done.set()
                thread.join()
            return count, took, sorted(times)

        def in_batches(batch: Callable[[], int]) -> int:
            count = 0
            while found := batch():
                count += found
            return count

        purged = beside(lambda: in_batches(lambda: cache.purge(limit=10_000)))
        bound = keys * 8 // 10
        cache.set_bound(entries=bound)
        evicted = beside(lambda: in_batches(lambda: cache.evict()))
        for number in range(min(keys // 10, 20_000)):
            cache.set(f"new:{number}", value, 3600.0)
        within = cache.size().entries / bound

    def row(name: str, found: tuple[int, float, list[float]]) -> tuple[object, ...]:
        count, took, times = found
        part = (
            (times[len(times) // 2], times[int(len(times) * 0.99)], times[-1]) if times else (0.0, 0.0, 0.0)
        )
        return (name, f"{count:,}", f"{took:.1f} s", *(f"{one * 1000:.2f} ms" for one in part))

    small, large = ([median(one[place] for one in found) for place in (0, 1)] for found in (few, many))
    publish(
        PAGE,
        "Many keys",
        f"p50 of one connection with 1,000 and with {keys:,} keys; then a purge and an eviction as workers do them, in batches of 10,000 and 1,000, while another"
        f" connection sets values; then writes that keep the bound of {bound:,} by themselves.",
        table(
            ("", "1,000 keys", f"{keys:,} keys"),
            [
                (name, f"{a * 1e6:.0f} µs", f"{b * 1e6:.0f} µs")
                for name, a, b in zip(("get", "set"), small, large, strict=True)
            ],
        ),
        table(
            ("", "rows", "took", "set p50", "p99", "longest"), [row("purge", purged), row("evict", evicted)]
        ),
        targets(
            [
                at_most("get p50: many keys / 1,000 keys", large[0] / small[0], 1.5),
                at_most("set p50: many keys / 1,000 keys", large[1] / small[1], 1.5),
                at_most("entries / bound after the writes", within, 1.1),
            ]
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter, 100,000 keys")
    quick = parser.parse_args().quick
    program = shutil.which("redis-server")
    if program is None:
        print("skipped: redis-server is not installed (Debian: apt install redis-server)")
        return 0
    with one_server() as server:
        beside_redis(server, program, 3 if quick else 5, 0.5 if quick else 2.0)
        many_keys(server, 100_000 if quick else 1_000_000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
