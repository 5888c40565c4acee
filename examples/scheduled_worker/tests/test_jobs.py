from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from jobs import HANDLERS, SCHEDULES, define, run_due

from alfred_db import Database, TaskStatus, Worker


def test_each_slot_runs_once(alfred_db: Database, alfred_travel: Callable[[timedelta], None]) -> None:
    define(alfred_db)
    define(alfred_db)
    assert run_due(alfred_db) == 0
    alfred_travel(timedelta(days=1))
    assert run_due(alfred_db) == len(SCHEDULES)
    assert run_due(alfred_db) == 0
    with alfred_db.begin() as uow:
        assert len(uow.tasks.list(intent="MAIL").items) == len(SCHEDULES)


def test_a_mail_is_sent(alfred_fresh_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker has threads and connections that commit: it gets a database for itself."""
    with Database(alfred_fresh_url) as database:
        with database.begin() as uow:
            uow.tasks.enqueue("MAIL", {"to": "ann", "text": "hello"}, task_id="m-1")
        Worker(database, HANDLERS).run(drain=True)
        with database.begin() as uow:
            task = uow.tasks.get_by_task_id("m-1")
            assert task is not None
            assert task.status == TaskStatus.COMPLETED
    assert "to ann: hello" in capsys.readouterr().out
