"""Revisions of tables that are in use: what is built, is built while others write."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import URL, text

from alfred_db import Database, migrate
from alfred_db.errors import ConflictError

from .catalog import engine_of, psql

BEFORE = "alfred_0022_events"
QUEUES = "alfred_0023_task_queue"


def filled(url: URL, schema: str | None) -> None:
    migrate.upgrade(url, BEFORE)
    if schema is not None:
        migrate.upgrade(url, BEFORE, schema=schema)
    with engine_of(url).begin() as connection:
        table = "tasks" if schema is None else f"{schema}.tasks"
        connection.execute(
            text(
                f"INSERT INTO {table} (task_id, intent) SELECT n::text, 'x' || n % 7 FROM generate_series(1, 500) AS n"
            )
        )


@pytest.mark.parametrize("schema", [None, "acme"])
def test_queues_come_to_a_filled_table_while_it_is_written(empty_url: URL, schema: str | None) -> None:
    filled(empty_url, schema)
    engine = engine_of(empty_url)
    table = "tasks" if schema is None else f"{schema}.tasks"
    with engine.connect() as writer:
        # Until this transaction ends, no index of the table can be built; another one writes all the same.
        writer.execute(text(f"UPDATE {table} SET metadata = '{{}}' WHERE task_id = '1'"))
        upgraded = threading.Thread(
            target=migrate.upgrade, args=(empty_url, "head"), kwargs={"schema": schema}
        )
        upgraded.start()
        time.sleep(0.5)
        writer.commit()
        upgraded.join(60)
        assert not upgraded.is_alive()
    migrate.check(empty_url, schema=schema)
    with Database(empty_url, schema=schema) as db, db.begin() as uow:
        db.verify()
        assert uow.tasks.count(queue="default") == 500
        assert len(uow.tasks.claim(worker="w", queues=["default"], intents=["x1"], limit=500)) == 72
        uow.tasks.enqueue("y", queue="other", task_id="other")
    with pytest.raises(ConflictError, match="other queues"):
        migrate.downgrade(empty_url, BEFORE, schema=schema)
    with engine.begin() as connection:
        connection.execute(text(f"DELETE FROM {table} WHERE task_id = 'other'"))
    migrate.downgrade(empty_url, BEFORE, schema=schema)
    migrate.upgrade(empty_url, schema=schema)
    migrate.check(empty_url, schema=schema)


def test_a_build_that_was_broken_off_is_done_again(empty_url: URL) -> None:
    filled(empty_url, None)
    with engine_of(empty_url).begin() as connection:
        connection.execute(text("ALTER TABLE tasks ADD COLUMN queue TEXT DEFAULT 'default' NOT NULL"))
        connection.execute(text("CREATE INDEX idx_tasks_ready_queue ON tasks (queue)"))
        connection.execute(
            text(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_tasks_ready_queue'::regclass"
            )
        )
    migrate.upgrade(empty_url)
    migrate.check(empty_url)
    with Database(empty_url) as db:
        db.verify()


def test_the_script_builds_concurrently_where_there_may_be_rows(empty_url: URL) -> None:
    assert "CONCURRENTLY" not in migrate.sql(QUEUES), "an empty table is built in the transaction"
    script = migrate.sql(f"{BEFORE}:{QUEUES}")
    assert script.count("CREATE INDEX CONCURRENTLY") == 3
    filled(empty_url, None)
    psql(empty_url, script)
    migrate.upgrade(empty_url)
    migrate.check(empty_url)
