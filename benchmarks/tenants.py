"""Measure a search with one tenant and with a hundred, beside each other, with equal work.

    python benchmarks/tenants.py [--quick] [--tenants 100] [--rows 1000]

Every tenant has the same documents. Searches run in turns: in a database with one tenant; in one tenant of many; in each
of the many after the other. What a database with many tenants costs is the second ratio, and what it costs to use them
all by one connection is the third.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import numpy as np
import psutil
from harness import OPERATIONS, at_most, machine, one_server, publish, table, targets

from alfred_db import Database

ROUNDS = 200
"""Rounds in which each way makes some searches: what else the machine does meanwhile concerns all of them alike."""

AT_A_TIME = 25

WARM = 12
"""Searches of each tenant before the measurement: after five the server has a plan that it keeps."""


def vectors(rows: int) -> Any:
    found = np.random.default_rng(1).standard_normal((rows, 384)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def fill(db: Database, names: Sequence[str], matrix: Any) -> None:
    """Create tenants with the same documents."""
    report = db.tenants.create(*names, parallel=2)
    assert not report.failed, report.failed
    documents = [{"content": f"document {number}"} for number in range(len(matrix))]
    for name in names:
        with db.tenant(name).begin() as uow:
            uow.documents.add_many(documents, embeddings=matrix)
    with db.session() as session:
        connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        for name in names:
            connection.exec_driver_sql(f'VACUUM ANALYZE "{name}".documents')


class Searches:
    """Searches through one connection, of tenants in turn."""

    def __init__(self, db: Database, names: Sequence[str], queries: Any) -> None:
        self._tenants = [db.tenant(name) for name in names]
        self._queries = queries
        self._next = 0
        with db.begin() as uow:
            pid = uow.session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar()
        self._server = psutil.Process(pid)

    def run(self, number: int) -> tuple[float, float, float]:
        """Return the p50 of the time, and the CPU time of client and server a search, in microseconds."""
        times: list[float] = []
        client, server = time.process_time(), sum(self._server.cpu_times()[:2])
        for _ in range(number):
            tenant = self._tenants[self._next % len(self._tenants)]
            query = self._queries[self._next % len(self._queries)]
            self._next += 1
            began = time.perf_counter()
            with tenant.begin() as uow:
                uow.documents.search(query, limit=10)
            times.append(time.perf_counter() - began)
        client, server = time.process_time() - client, sum(self._server.cpu_times()[:2]) - server
        return median(times) * 1e6, client / number * 1e6, server / number * 1e6


def main() -> None:
    """Run all, and write the section of the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tenants", type=int)
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    tenants = options.tenants or (20 if options.quick else 100)
    rows = options.rows or (200 if options.quick else 1000)
    rounds = ROUNDS // 4 if options.quick else ROUNDS
    matrix, queries = vectors(rows), vectors(100)
    names = [f"tenant_{number:03}" for number in range(tenants)]
    with one_server() as server:
        where = machine(server)
        alone, many = (Database(server.database(name), pool_size=1) for name in ("alone", "many"))
        for db, own in ((alone, names[:1]), (many, names)):
            db.upgrade()
            fill(db, own, matrix)
        ways: dict[str, Searches] = {
            "the only tenant": Searches(alone, names[:1], queries),
            "one of many": Searches(many, names[:1], queries),
            "many in turn": Searches(many, names, queries),
        }
        for way in ways.values():
            way.run(WARM * (tenants if way is ways["many in turn"] else 1))
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
                found[name].append(way.run(AT_A_TIME))
        for db in (alone, many):
            db.close()
    figures = {
        name: [(median if part == 0 else fmean)(one[part] for one in runs) for part in range(3)]
        for name, runs in found.items()
    }
    base = found["the only tenant"]
    ratios = {
        name: median(one[0] / alone[0] for one, alone in zip(runs, base, strict=True))
        for name, runs in found.items()
    }
    rows_of = [[name, *(f"{figure:.0f}" for figure in figures[name]), f"{ratios[name]:.2f}"] for name in ways]
    whole = table(
        ("search", "p50, µs", "client CPU, µs", "server CPU, µs", "p50, ratio of each round"), rows_of
    )
    goals = [
        at_most(f"p50 of {name} / the only tenant", ratios[name], 1.1)
        for name in ("one of many", "many in turn")
    ]
    print(whole)
    for goal in goals:
        print(goal)
    if not options.quick:
        publish(OPERATIONS, f"A search with {tenants} tenants", where, whole, targets(goals))


if __name__ == "__main__":
    main()
