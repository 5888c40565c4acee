"""A server that goes away and comes back while there is work."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest
from sqlalchemy import text

from alfred_db import Database, TaskStatus
from alfred_db.errors import DatabaseUnavailable

from .ledger import figures
from .processes import Server, Stop, process, wait_until

TASKS = 120
LATER = 20
"""Tasks that are left for after the restart, however soon the others are done."""


def left(db: Database) -> int:
    with db.begin() as uow:
        return uow.tasks.count() - uow.tasks.count(status=TaskStatus.COMPLETED)


@pytest.mark.parametrize("how", ["fast", "immediate", "killed"])
def test_workers_go_on_after_a_restart(own_server: Server, database: str, db: Database, how: Stop) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "work", "content": {"seconds": 0.01}}] * (TASKS - LATER))
        uow.tasks.enqueue_many([{"intent": "work", "delay": 3600.0}] * LATER)
    url = own_server.url(database)
    with (
        process("worker.py", url=url, worker="one", lease=30.0, limit=4) as one,
        process("worker.py", url=url, worker="two", lease=30.0) as two,
    ):
        one.wait_for("done")
        own_server.stop(how)
        with pytest.raises(DatabaseUnavailable):
            left(db)
        own_server.start()
        wait_until(partial(_answers, db))
        with db.begin() as uow:
            uow.session.execute(text("UPDATE tasks SET available_at = now() WHERE available_at > now()"))
        wait_until(lambda: left(db) == 0)
        assert [one.terminate(), two.terminate()] == [0, 0]
    with db.session() as session:
        found = figures(session, [])
    found.assert_sound()
    assert (found.tasks, found.completed) == (TASKS, TASKS)


def _answers(db: Database) -> bool:
    try:
        left(db)
    except DatabaseUnavailable:
        return False
    return True


def test_a_pool_that_idles_sees_nothing_of_a_restart(own_server: Server, db: Database) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(db.session()).execute(text("SELECT 1"))
    own_server.restart("fast")
    for number in range(5):
        with db.begin() as uow:
            uow.tasks.enqueue("x")
            assert uow.tasks.count() == number + 1
