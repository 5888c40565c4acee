"""Clients whose clocks are wrong: nothing but the server's clock counts."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from alfred_db import Database, TaskStatus

from .processes import Server, process


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_clock_of_a_client_does_not_matter(
    own_server: Server, database: str, db: Database, hours: int
) -> None:
    with process("skewed.py", str(hours * 3600), own_server.url(database)) as client:
        said = json.loads(client.wait_for("^{"))
    assert said.pop("clock") == pytest.approx(hours * 3600, abs=1), "the clock is wrong indeed"
    assert said.pop("lease") == pytest.approx(10, abs=9)
    assert said.pop("deadline") == pytest.approx(50, abs=9)
    assert said.pop("created") == pytest.approx(0, abs=9)
    assert said == {
        "intent": "now",
        "over": False,
        "reaped": 0,
        "retry": "pending",
        "claimed early": 0,
        "purged": 0,
        "first": True,
        "first again": False,
        "enqueued": 0,
        "next slot is the next hour": True,
        "alive": 1,
        "oldest": None,
    }
    with db.begin() as uow:
        waits = text("SELECT min(available_at - now()), max(available_at - now()) FROM tasks")
        soonest, latest = uow.session.execute(waits).one()
        assert 5 < soonest.total_seconds() <= 22.5, "the retry, with its jitter"
        assert 90 < latest.total_seconds() <= 100
        assert uow.tasks.count(status=TaskStatus.PENDING) == 1003


def test_tasks_of_clients_with_different_clocks_are_claimed_as_they_came(
    own_server: Server, database: str, db: Database
) -> None:
    """Ids are made by clients: they order tasks of one call, and nothing else."""
    with db.begin() as uow:
        first = uow.tasks.enqueue("x", task_id="first")[0]
        uow.session.execute(text("UPDATE tasks SET id = 'ffffffff-ffff-7fff-bfff-ffffffffffff'"))
    with db.begin() as uow:
        second = uow.tasks.enqueue("x", task_id="second")[0]
        assert second.available_at > first.available_at
        assert [task.task_id for task in uow.tasks.claim(worker="w", limit=2)] == ["first", "second"]
