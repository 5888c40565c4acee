"""What a crash of the server leaves of sessions, cache and limits, and who computes after a killed process."""

from __future__ import annotations

import time
from functools import partial

import pytest
from sqlalchemy import text

from alfred_db import Database
from alfred_db.errors import DatabaseUnavailable

from .processes import Server, Stop, process, wait_until


@pytest.mark.parametrize("how", ["immediate", "killed"])
def test_a_crash_loses_no_session_and_may_lose_the_cache(own_server: Server, db: Database, how: Stop) -> None:
    tokens = [db.web_sessions.create(f"user-{number % 10}", {"n": number}).token for number in range(50)]
    db.web_sessions.revoke(tokens.pop())
    rotated = db.web_sessions.rotate(tokens[0], user_id="other")
    assert rotated is not None
    db.web_sessions.save(tokens[1], {"saved": True})
    db.cache.set("k", b"v", 600)
    db.cache.set_bound(entries=1000)
    db.rate_limits.hit("k", limit=1, period=600)
    own_server.restart(how)
    wait_until(partial(_answers, db))
    assert db.web_sessions.get(tokens[0]) is None
    found = [db.web_sessions.get(token) for token in (rotated.token, *tokens[1:])]
    assert [one is not None for one in found] == [True] * 49
    assert found[1] is not None
    assert found[1].data == {"saved": True}
    assert db.web_sessions.revoke_user("user-3") == 5
    # The table is empty after a crash, and works; its bound is logged.
    assert db.cache.get("k") is None
    db.cache.set("k", b"v", 600)
    assert db.cache.get("k") == b"v"
    assert db.rate_limits.hit("k", limit=1, period=600)
    with db.begin() as uow:
        assert uow.session.scalar(text("SELECT entries FROM cache_bounds")) == 1000


def test_another_process_computes_when_one_is_killed(own_server: Server, database: str, db: Database) -> None:
    program = (
        "import sys, time; from alfred_db import Database; db = Database(sys.argv[1])\n"
        "def compute():\n    print('computing', flush=True); time.sleep(60)\n"
        "db.cache.get_or_set('k', compute, 60, lease=1.5)"
    )
    with process("-c", program, own_server.url(database)) as one:
        one.wait_for("computing")
        one.kill()
    began = time.monotonic()
    assert db.cache.get_or_set("k", lambda: b"v", 60, lease=1.5) == b"v"
    assert time.monotonic() - began < 30
    assert db.cache.get("k") == b"v"


def _answers(db: Database) -> bool:
    try:
        db.cache.get("none")
    except DatabaseUnavailable:
        return False
    return True
