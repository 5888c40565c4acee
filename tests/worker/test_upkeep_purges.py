"""The upkeep of a worker deletes what has expired."""

from __future__ import annotations

import time

from sqlalchemy import URL

from alfred_db import ClaimedTask, Database, Worker
from alfred_db.worker import Lease


def ignore(task: ClaimedTask, lease: Lease) -> None:
    """Complete a task; this test enqueues none."""


def test_a_worker_deletes_what_has_expired(database_url: URL) -> None:
    with Database(database_url) as db:
        db.cache.set("gone", b"v", 0.001)
        db.cache.set("kept", b"v", 600)
        db.rate_limits.hit("gone", limit=1, period=0.001)
        db.web_sessions.create("u", idle=0.001)
        time.sleep(0.02)
        Worker(db, {"X": ignore}).run(drain=True, signals=False)
        assert db.cache.size().entries == 1
        assert db.rate_limits.purge() == 0
        assert db.web_sessions.purge() == 0
