"""Limits of queues under workers that are processes, fail, release, and are killed."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

from forked import Program
from sqlalchemy import URL, text

from alfred_db import Database, NewTask, QueueRate

HERE = Path(__file__).parent
AT_LENGTH = "ALFRED_DB_FAULTS" in os.environ
WORKERS, TASKS, KILLS = (8, 1500, 40) if AT_LENGTH else (3, 90, 2)
SECONDS = 600.0 if AT_LENGTH else 90.0

HELD = text(
    "SELECT count(*) FILTER (WHERE queue = 'a'), count(*) FILTER (WHERE queue = 'paused'),"
    " coalesce(max(number), 0)::int FROM (SELECT queue, count(*) OVER (PARTITION BY queue, concurrency_key)"
    " * (queue = 'b' AND concurrency_key IS NOT NULL)::int AS number FROM tasks WHERE status = 'processing') AS held"
)
LIVE = text("SELECT count(*) FROM tasks WHERE status IN ('pending', 'processing')")
OTHERS = text("SELECT count(*) FROM tasks WHERE status IN ('pending', 'processing') AND queue <> 'paused'")
OVER = text(
    "SELECT count(*) FROM tasks WHERE queue = 'c' AND started_at >= CAST(:since AS timestamptz)"
    " AND started_at < CAST(:since AS timestamptz) + interval '0.5 s'"
)


def test_no_limit_is_exceeded_under_workers_that_are_killed(database_url: URL) -> None:
    dice = random.Random(1)
    url = database_url.render_as_string(hide_password=False)
    with Database(database_url) as db:
        with db.begin() as uow:
            uow.queues.set("a", max_running=2)
            uow.queues.set("b", max_running=4, max_running_per_key=1)
            uow.queues.set("c", rate=QueueRate(15, 0.5, burst=3))
            uow.queues.pause("paused")
            uow.tasks.enqueue_many(
                [
                    NewTask(
                        intent="x",
                        queue="abc"[number % 3],
                        concurrency_key=f"k{dice.randrange(3)}",
                        priority=dice.randint(1, 5),
                        max_retries=10,
                    )
                    for number in range(TASKS)
                ]
            )

        every: list[Program] = []

        def start(seed: int) -> Program:
            every.append(Program("limited.py", json.dumps({"url": url, "seed": seed}), cwd=HERE))
            return every[-1]

        with db.begin() as uow:
            uow.tasks.enqueue_many([NewTask(intent="x", queue="paused")] * 3)
        workers = [start(number) for number in range(WORKERS)]
        kills, looks, resumed, until = 0, 0, False, time.monotonic() + SECONDS
        try:
            while workers:
                assert time.monotonic() < until, "what waits is claimed as soon as there is room"
                with db.autocommit() as uow:
                    a, paused, of_key = uow.session.execute(HELD).one()
                looks += 1
                assert a <= 2
                assert of_key <= 1
                assert paused == 0 or resumed
                if looks % 15 == 0 and kills < KILLS:
                    one = workers.pop(dice.randrange(len(workers)))
                    one.kill()
                    workers.append(start(100 + kills))
                    kills += 1
                elif looks % 15 == 0 and not resumed:
                    with db.begin() as uow:
                        if not uow.session.scalar(OTHERS):
                            resumed = uow.queues.resume("paused") is not None
                workers = [one for one in workers if one.poll() is None]
        finally:
            for one in every:
                one.kill()
                said = one.communicate(10)
        assert said == ("", "")
        assert kills == KILLS
        with db.begin() as uow:
            assert uow.session.scalar(LIVE) == 0
            starts = uow.session.scalars(text("SELECT started_at FROM tasks WHERE queue = 'c'")).all()
            for since in starts:
                assert (uow.session.scalar(OVER, {"since": since}) or 0) <= 15
