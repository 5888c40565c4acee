"""The rate of a queue under several askers, by the clock of the database: never above its bound, and used to the full."""

from __future__ import annotations

import os
import random
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from math import ceil

import pytest
from sqlalchemy import URL, text

from alfred_db import ClaimedTask, Database, NewTask, QueueRate, TaskBackoff

AT_LENGTH = "ALFRED_DB_FAULTS" in os.environ
SECONDS, ASKERS = (60.0, 6) if AT_LENGTH else (1.5, 3)
"""How long the queue is asked, by the clock of the database, and by how many threads."""

AT_ONCE = TaskBackoff(0, 0, 0)
ATTEMPT = timedelta(seconds=300)
RATES = {
    "even": QueueRate(20, 1, burst=1),
    "burst": QueueRate(60, 2, burst=20),
    "tenth": QueueRate(100, 5),
    "rare": QueueRate(2, 1.5, burst=1),
}
NOW = text("SELECT clock_timestamp()")


def emission(rate: QueueRate) -> int:
    """The microseconds for which one claim counts."""
    return ceil(rate.period * 1_000_000 / (rate.jobs - burst_of(rate) + 1))


def burst_of(rate: QueueRate) -> int:
    return rate.burst or max(rate.jobs // 10, 1)


def begun(task: ClaimedTask) -> datetime:
    """When a task was claimed, by the clock of the database; a retry counts too."""
    assert task.attempt_deadline_at is not None
    return task.attempt_deadline_at - ATTEMPT


def ends(db: Database, task: ClaimedTask, dice: random.Random) -> None:
    with db.autocommit() as uow:
        end = dice.random()
        if end < 0.6:
            uow.tasks.complete(task)
        elif end < 0.8:
            uow.tasks.fail(task, "again", backoff=AT_ONCE)
        else:
            uow.tasks.release(task)


def fill(db: Database) -> None:
    most = ceil(SECONDS * 30) + 100
    with db.begin() as uow:
        for name, rate in RATES.items():
            uow.queues.set(name, rate=rate)
            uow.tasks.enqueue_many([NewTask(intent="x", queue=name, max_retries=100)] * most)


def within(rate: QueueRate, starts: Sequence[datetime]) -> int:
    """The most claims in a span of the period of a rate."""
    span = timedelta(seconds=rate.period)
    return max(bisect_left(starts, start + span) - place for place, start in enumerate(starts))


def allowed(rate: QueueRate, asked: Sequence[datetime]) -> int:
    """How many claims the rate allows if all that is due is taken at these times."""
    each, number = timedelta(microseconds=emission(rate)), 0
    arrival = asked[0]
    for now in asked:
        due = (each * burst_of(rate) - max(arrival - now, timedelta(0))) // each
        arrival = max(arrival, now) + due * each
        number += due
    return number


def test_no_span_has_more_than_the_rate_allows_and_none_is_wasted(database_url: URL) -> None:
    dice = random.Random(4713)
    seeds = [dice.random() for _ in range(ASKERS)]
    over = threading.Event()
    with Database(database_url, pool_size=ASKERS) as db:
        fill(db)

        def ask(seed: float) -> list[tuple[str | None, datetime, list[tuple[str, datetime]]]]:
            own = random.Random(seed)
            found: list[tuple[str | None, datetime, list[tuple[str, datetime]]]] = []
            while not over.is_set():
                queue = own.choice([None, *RATES])
                with db.autocommit() as uow:
                    before = uow.session.execute(NOW).scalar_one()
                    claimed = uow.tasks.claim("w", limit=30, queues=None if queue is None else [queue])
                found.append((queue, before, [(task.queue, begun(task)) for task in claimed]))
                for task in claimed:
                    ends(db, task, own)
                if (before - found[0][1]).total_seconds() > SECONDS:
                    over.set()
            return found

        with ThreadPoolExecutor(ASKERS) as pool:
            try:
                calls = [call for one in [pool.submit(ask, seed) for seed in seeds] for call in one.result()]
            finally:
                over.set()
    for name, rate in RATES.items():
        starts = sorted(start for _, _, claimed in calls for queue, start in claimed if queue == name)
        asked = sorted(before for queue, before, _ in calls if queue == name)
        assert within(rate, starts) <= rate.jobs, name
        if AT_LENGTH:
            print(f"{name}: {len(starts)} claims, {allowed(rate, asked)} allowed, {len(asked)} calls")
            assert len(starts) >= 0.95 * allowed(rate, asked), name


@pytest.mark.parametrize("name", RATES)
def test_a_claim_finds_nothing_only_where_the_rate_is_used_up(database_url: URL, name: str) -> None:
    """One asker: what it was refused is due by no claim before, however slow the machine is."""
    rate, dice = RATES[name], random.Random(4714)
    each = timedelta(microseconds=emission(rate))
    capacity, slack = each * burst_of(rate), timedelta(microseconds=10)
    refused = 0
    with Database(database_url) as db:
        fill(db)
        first = arrival = None
        while first is None or arrival is None or refused < 5 or arrival - first < 2 * capacity:
            limit = dice.randint(1, 4)
            with db.autocommit() as uow:
                before = uow.session.execute(NOW).scalar_one()
                claimed = uow.tasks.claim("w", limit=limit, queues=[name])
            for task in claimed:
                first = first or begun(task)
                arrival = max(arrival or begun(task), begun(task)) + each
                assert arrival - begun(task) <= capacity + slack, "above the bound"
                ends(db, task, dice)
            if len(claimed) < limit:
                refused += 1
                # As many as were due just before the call, or more: what becomes due during the call.
                due = capacity - max((arrival or before) - before, timedelta(0))
                assert due < each + slack, f"{due // each} were due"
            time.sleep(dice.random() * each.total_seconds())
