from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from order import STEPS, run, start

from alfred_db import Database

PROGRAM = Path(__file__).parents[1] / "order.py"


def notes(database: Database, order: str) -> list[str]:
    with database.begin() as uow:
        return [message.content for message in uow.conversations.last(order)]


def test_it_runs_once(alfred_db: Database) -> None:
    workflow = start(alfred_db, "7")
    assert start(alfred_db, "7") == workflow
    assert run(alfred_db, workflow) == 1
    assert run(alfred_db, workflow) == 0
    assert notes(alfred_db, "7") == ["charged", "packed", "shipped"]


@pytest.mark.parametrize("step", list(STEPS))
def test_it_survives_kill_9(alfred_fresh_url: str, step: str) -> None:
    """Other processes see only what is committed: the test has a database for itself."""
    environment = {**os.environ, "ALFRED_DB_URL": alfred_fresh_url, "LEASE": "1"}
    command = [sys.executable, str(PROGRAM), "7"]
    killed = subprocess.run(command, env={**environment, "KILL_AFTER": step}, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    subprocess.run(command, env=environment, timeout=120, check=True)
    with Database(alfred_fresh_url) as database:
        assert notes(database, "7") == ["charged", "packed", "shipped"]
