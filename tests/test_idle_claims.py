"""What a claim costs that finds nothing: one statement, and what it says about the queues is never out of date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text

from alfred_db import Database
from alfred_db.errors import ConfigurationError


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        with database.autocommit() as uow:
            uow.session.execute(text("SELECT 1"))  # a new connection sends more
        yield database


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that the driver sends."""
    found: list[str] = []
    execute = psycopg.Cursor.execute

    def noted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        found.append(str(query))
        return execute(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    return found


def claim(db: Database, sent: list[str], **kinds: Any) -> tuple[int, int]:
    """How many tasks a claim takes, and by how many statements."""
    with db.autocommit() as uow:
        sent.clear()
        found = uow.tasks.claim("w", **kinds)
        count = len(sent)
        if found:
            uow.tasks.complete_many(found)
    return len(found), count


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"queues": ["default"]},
        {"intents": ["x"]},
        {"queues": ["default", "other"], "intents": ["x", "y"]},
        {"assigned_to": "a"},
    ],
    ids=str,
)
def test_an_idle_claim_is_one_statement(db: Database, sent: list[str], kinds: dict[str, Any]) -> None:
    assert [claim(db, sent, limit=4, **kinds) for _ in range(3)] == [(0, 1)] * 3
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "x", "assigned_to": "a"}] * 6)
    # The third one says that a busy worker has become idle, by a second statement if the one before it took all it could.
    assert [claim(db, sent, limit=4, **kinds) for _ in range(4)] == [(4, 1), (2, 1), (0, 1), (0, 1)]
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "x", "assigned_to": "a"}] * 2)
    assert [claim(db, sent, limit=1, **kinds) for _ in range(4)] == [(1, 1), (1, 1), (0, 2), (0, 1)]


@pytest.mark.parametrize("busy", [False, True])
def test_a_limit_is_noticed_by_the_next_claim(db: Database, sent: list[str], busy: bool) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "x"}] * 9)
    assert claim(db, sent, limit=1 if busy else 20) == (1 if busy else 9, 1)
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "x"}] * 9)
        uow.queues.set("default", max_running=3)
    assert claim(db, sent, limit=20)[0] == 3
    with db.begin() as uow:
        uow.queues.pause("default")
    assert claim(db, sent, limit=20)[0] == 0
    with db.begin() as uow:
        uow.queues.set("default")
        uow.queues.resume("default")
    assert claim(db, sent, limit=2)[0] == 2


@pytest.mark.parametrize("busy", [False, True])
def test_another_isolation_level_is_refused(db: Database, busy: bool) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue("x")
    if busy:
        with db.begin() as uow:
            assert len(uow.tasks.claim("w")) == 1
    with db.begin() as uow:
        uow.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        with pytest.raises(ConfigurationError, match="REPEATABLE READ"):
            uow.tasks.claim("w")
