"""A transaction that stays open keeps dead rows in the way: how much that costs is bounded, and it is reported."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.orm import Session

from alfred_db import Database
from alfred_db.queries import task_claims

from .conftest import execute
from .processes import Server

DONE = 4000


def pages_of_a_claim(session: Session) -> int:
    """Pages of the table and its indexes that a claim of ten tasks looks at."""
    statement = task_claims.claim(10, by_queue=False, by_intent=False, by_agent=False).compile(
        dialect=psycopg.dialect()
    )
    values = {"worker": "w", "token": uuid.uuid4(), "lease": timedelta(seconds=60)}
    plan = session.connection().exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS) {statement}", {**statement.params, **values}
    )
    lines = "\n".join(plan.scalars())
    selected = lines[lines.index("CTE claimed") :]
    found = re.search(r"Buffers: shared hit=(\d+)(?: read=(\d+))?", selected)
    assert found is not None, lines
    session.rollback()
    return int(found[1]) + int(found[2] or 0)


def work_off(db: Database) -> int:
    done = 0
    while True:
        with db.begin() as uow:
            held = uow.tasks.claim(worker="w", limit=200)
            uow.tasks.complete_many(held)
        if not held:
            return done
        done += len(held)


def test_claims_go_on_past_a_snapshot_that_is_held(own_server: Server, database: str, db: Database) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "x"} for _ in range(DONE)])
    with db.session() as session:
        before = pages_of_a_claim(session)
    with db.session() as holder:
        holder.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        pid = holder.scalar(text("SELECT pg_backend_pid() FROM tasks LIMIT 1"))
        assert work_off(db) == DONE
        with db.begin() as uow:
            uow.tasks.enqueue_many([{"intent": "x"} for _ in range(20)])
            uow.session.execute(text("SELECT pg_stat_force_next_flush()"))
        execute(own_server, "VACUUM tasks", database=database)  # in vain
        with db.session() as session:
            during = pages_of_a_claim(session)
        with db.begin() as uow:
            health = uow.tasks.queue_health()
            assert (health.oldest_snapshot_pid, health.oldest_snapshot_application) == (pid, "alfred-db")
            assert health.oldest_snapshot_age is not None
            assert health.oldest_snapshot_age > 0
            assert health.dead_tuples >= DONE
        assert during < DONE / 4, "it reads past the dead rows, which lie together"
        assert work_off(db) == 20
    execute(own_server, "VACUUM tasks", database=database)
    with db.begin() as uow:
        assert uow.tasks.queue_health().oldest_snapshot_pid != pid
        uow.tasks.enqueue_many([{"intent": "x"} for _ in range(20)])
    with db.session() as session:
        after = pages_of_a_claim(session)
    assert after < 2 * before
    assert after < during
