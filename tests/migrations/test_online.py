"""Revisions of tables that are in use: what is built, is built while others write."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import URL, text

from alfred_db import Database, migrate
from alfred_db.errors import ConflictError
from alfred_db.models.knowledge import partition_name

from .catalog import engine_of, psql, run

MigratedTo = Callable[..., URL]

BEFORE = "alfred_0022_events"
QUEUES = "alfred_0023_task_queue"


def filled(migrated_to: MigratedTo, schema: str | None) -> URL:
    url = migrated_to(BEFORE, schema)
    with engine_of(url).begin() as connection:
        table = "tasks" if schema is None else f"{schema}.tasks"
        connection.execute(
            text(
                f"INSERT INTO {table} (task_id, intent) SELECT n::text, 'x' || n % 7 FROM generate_series(1, 500) AS n"
            )
        )
    return url


@pytest.mark.parametrize("schema", [None, "acme"])
def test_queues_come_to_a_filled_table_while_it_is_written(
    migrated_to: MigratedTo, schema: str | None
) -> None:
    url = filled(migrated_to, schema)
    engine = engine_of(url)
    table = "tasks" if schema is None else f"{schema}.tasks"
    with engine.connect() as writer:
        # Until this transaction ends, no index of the table can be built; another one writes all the same.
        writer.execute(text(f"UPDATE {table} SET metadata = '{{}}' WHERE task_id = '1'"))
        upgraded = threading.Thread(target=migrate.upgrade, args=(url, "head"), kwargs={"schema": schema})
        upgraded.start()
        time.sleep(0.5)
        writer.commit()
        upgraded.join(60)
        assert not upgraded.is_alive()
    migrate.check(url, schema=schema)
    with Database(url, schema=schema) as db, db.begin() as uow:
        db.verify()
        assert uow.tasks.count(queue="default") == 500
        assert len(uow.tasks.claim(worker="w", queues=["default"], intents=["x1"], limit=500)) == 72
        uow.tasks.enqueue("y", queue="other", task_id="other")
    with pytest.raises(ConflictError, match="other queues"):
        migrate.downgrade(url, BEFORE, schema=schema)
    with engine.begin() as connection:
        connection.execute(text(f"DELETE FROM {table} WHERE task_id = 'other'"))
    migrate.downgrade(url, BEFORE, schema=schema)
    migrate.upgrade(url, schema=schema)
    migrate.check(url, schema=schema)


def test_a_build_that_was_broken_off_is_done_again(migrated_to: MigratedTo) -> None:
    url = filled(migrated_to, None)
    with engine_of(url).begin() as connection:
        connection.execute(text("ALTER TABLE tasks ADD COLUMN queue TEXT DEFAULT 'default' NOT NULL"))
        connection.execute(text("CREATE INDEX idx_tasks_ready_queue ON tasks (queue)"))
        connection.execute(
            text(
                "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_tasks_ready_queue'::regclass"
            )
        )
    migrate.upgrade(url)
    migrate.check(url)
    with Database(url) as db:
        db.verify()


def test_the_script_builds_concurrently_where_there_may_be_rows(migrated_to: MigratedTo) -> None:
    assert "CONCURRENTLY" not in migrate.sql(QUEUES), "an empty table is built in the transaction"
    script = migrate.sql(f"{BEFORE}:{QUEUES}")
    assert script.count("CREATE INDEX CONCURRENTLY") == 3
    url = filled(migrated_to, None)
    psql(url, script)
    migrate.upgrade(url)
    migrate.check(url)


SESSIONS = "alfred_0030_sessions"


@pytest.mark.parametrize("schema", [None, "acme"])
def test_sessions_are_counted_where_there_are_messages(migrated_to: MigratedTo, schema: str | None) -> None:
    """In batches, each in a transaction of its own: those that are appended meanwhile are counted once."""
    url = migrated_to("alfred_0029_task_kinds", schema)
    messages = "conversations" if schema is None else f"{schema}.conversations"
    run(
        url,
        f"INSERT INTO {messages} (session_id, role, content)"
        " SELECT 's' || n % 1200, 'user', 'c' FROM generate_series(1, 3000) AS n",
        f"INSERT INTO {messages} (session_id, role, content) VALUES ('', 'user', 'c')",
    )
    migrate.upgrade(url, schema=schema)
    migrate.check(url, schema=schema)
    with Database(url, schema=schema) as db, db.begin() as uow:
        uow.conversations.append("s7", "user", "c")
        first = uow.conversations.sessions(limit=1000)
        found = [*first, *uow.conversations.sessions(after=first.next, limit=1000)]
        assert found[0].session_id == "s7"
        counts = {session.session_id: session.messages for session in found}
        assert len(found) == 1201
        assert (counts["s7"], counts["s0"], counts["s1"], counts[""]) == (4, 2, 3, 1)
        for session in found[:50]:
            last = uow.conversations.last(session.session_id, 1)[0]
            assert (session.id, session.last_at) == (last.id, last.created_at)
    # An interrupted run has committed its batches, but not the revision: what it counted is not counted again.
    versions = "alfred_db_version" if schema is None else f"{schema}.alfred_db_version"
    run(
        url,
        f"UPDATE {versions} SET version_num = 'alfred_0029_task_kinds'",
        f"DELETE FROM {'' if schema is None else schema + '.'}conversation_sessions WHERE session_id LIKE 's1%'",
    )
    migrate.upgrade(url, SESSIONS, schema=schema)
    with Database(url, schema=schema) as db, db.begin() as uow:
        first = uow.conversations.sessions(limit=1000)
        again = [*first, *uow.conversations.sessions(after=first.next, limit=1000)]
        assert {session.session_id: session.messages for session in again} == counts
    migrate.downgrade(url, "alfred_0029_task_kinds", schema=schema)


def test_the_script_counts_the_sessions(migrated_to: MigratedTo) -> None:
    url = migrated_to("alfred_0029_task_kinds")
    run(
        url,
        "INSERT INTO conversations (session_id, role, content)"
        " SELECT 's' || n % 3, 'user', 'c' FROM generate_series(1, 9) AS n",
    )
    psql(url, migrate.sql("alfred_0029_task_kinds:head"))
    migrate.check(url)
    with Database(url) as db, db.begin() as uow:
        counts = [(session.session_id, session.messages) for session in uow.conversations.sessions()]
        assert counts == [("s0", 3), ("s2", 3), ("s1", 3)]


@pytest.mark.parametrize("schema", [None, "acme"])
def test_partitions_that_hold_rows_are_indexed_one_by_one(
    migrated_to: MigratedTo, schema: str | None
) -> None:
    before = "alfred_0030_sessions"
    url = migrated_to(before, schema)
    tracking = schema or "brk_tracking"
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                f"INSERT INTO {tracking}.broker_request (request_id, session_id, created_at)"
                " SELECT n::text, 's', now() - n * interval '30 days' FROM generate_series(0, 3) AS n"
            )
        )
        # What a broken-off try left behind: the index of the table without those of its partitions, and one of a partition.
        connection.execute(
            text(f"CREATE INDEX idx_broker_request_session_id ON ONLY {tracking}.broker_request (session_id)")
        )
        left = "idx_broker_request_session_id_broker_request_default"
        connection.execute(text(f"CREATE INDEX {left} ON {tracking}.broker_request_default (session_id)"))
    for _ in range(2):
        migrate.upgrade(url, schema=schema)
        migrate.check(url, schema=schema)
        with engine.connect() as connection:
            broken = connection.execute(
                text("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
            )
            assert broken.all() == []
        with Database(url, schema=schema) as db, db.begin() as uow:
            assert len(uow.broker_requests.recent(session_id="s")) == 4
        migrate.downgrade(url, before, schema=schema)


WORDS = "alfred_0043_memory_words"


@pytest.mark.parametrize("schema", [None, "acme"])
def test_memories_get_their_words_while_they_are_written(migrated_to: MigratedTo, schema: str | None) -> None:
    before = "alfred_0042_servers"
    url = migrated_to(before, schema)
    prefix = "" if schema is None else f"{schema}."
    run(
        url,
        f"INSERT INTO {prefix}memory_banks (name) VALUES ('b')",
        f"INSERT INTO {prefix}memories (memory_bank_id, content) SELECT 1, 'text ' || n || ' of kettles'"
        " FROM generate_series(1, 1200) AS n",
        f"INSERT INTO {prefix}memory_entries (content) SELECT 'text ' || n || ' of kettles' FROM generate_series(1, 700) AS n",
    )
    engine = engine_of(url)
    tables = [f"{prefix}memories", f"{prefix}memory_entries"]
    with engine.connect() as connection:
        times = [connection.scalar(text(f"SELECT max(updated_at) FROM {table}")) for table in tables]
    with engine.connect() as writer:
        # It holds a row of the last batch: the others are written, and nobody waits for the table.
        writer.execute(text(f"UPDATE {tables[0]} SET content = 'changed' WHERE id = 1200"))
        upgraded = threading.Thread(target=migrate.upgrade, args=(url, "head"), kwargs={"schema": schema})
        upgraded.start()
        time.sleep(0.5)
        writer.commit()
        upgraded.join(60)
        assert not upgraded.is_alive()
    migrate.check(url, schema=schema)
    right = "search_hash = hashtextextended(content, 0) AND search = to_tsvector('english', content)"
    with engine.connect() as connection:
        for table, moment in zip(tables, times, strict=True):
            rows = connection.execute(
                text(f"SELECT count(*), count(*) FILTER (WHERE {right}), max(updated_at) FROM {table}")
            ).one()
            assert rows[0] == rows[1] > 0
            assert table.endswith("memories") or (rows[2] - moment).total_seconds() < 0.001
        assert connection.scalar(text(f"SELECT search::text FROM {tables[0]} WHERE id = 1200")) == "'chang':1"
    migrate.downgrade(url, before, schema=schema)
    migrate.upgrade(url, schema=schema)
    migrate.check(url, schema=schema)


def test_the_script_fills_in_the_words(migrated_to: MigratedTo) -> None:
    url = migrated_to("alfred_0042_servers")
    run(url, "INSERT INTO memories (content) VALUES ('kettles')")
    psql(url, migrate.sql(f"alfred_0042_servers:{WORDS}"))
    with engine_of(url).connect() as connection:
        assert connection.scalar(text("SELECT search::text FROM memories")) == "'kettl':1"
    migrate.upgrade(url)
    migrate.check(url)


CLASSES = text("""
    SELECT o.opcname FROM pg_index AS x JOIN pg_opclass AS o ON o.oid = x.indclass[0]
    WHERE x.indrelid = CAST(:table AS regclass) AND o.opcname LIKE 'vector%' AND x.indisvalid
""")
DISTANCES = {
    "it's \\ far": ("euclid", {"vector_cosine_ops", "vector_l2_ops"}),
    "dots": ("dot", {"vector_cosine_ops", "vector_ip_ops"}),
    "streets": ("manhattan", {"vector_cosine_ops", "vector_l1_ops"}),
    "angles": ("cosine", {"vector_cosine_ops"}),
}


def with_collections(url: URL, home: str) -> None:
    """Collections as the revision before created them, with points."""
    with engine_of(url).begin() as connection:
        for name, (distance, _) in DISTANCES.items():
            own, bound = f"{home}.{partition_name(name)}", name.replace("'", "''")
            for statement in (
                f"INSERT INTO {home}.knowledge_collections (name, distance) VALUES ('{bound}', '{distance}')",
                f"CREATE TABLE {own} (LIKE {home}.knowledge_points INCLUDING ALL)",
                f"ALTER TABLE {home}.knowledge_points ATTACH PARTITION {own} FOR VALUES IN ('{bound}')",
                f"INSERT INTO {home}.knowledge_points (collection, id, embedding) SELECT '{bound}', CAST(n AS text),"
                " array_fill(CAST(n AS real), ARRAY[1536]) FROM generate_series(1, 5) AS n",
            ):
                connection.exec_driver_sql(statement)


def indexes_of_collections(url: URL, home: str) -> dict[str, set[str]]:
    with engine_of(url).connect() as connection:
        return {
            name: set(connection.scalars(CLASSES, {"table": f"{home}.{partition_name(name)}"}))
            for name in DISTANCES
        }


@pytest.mark.parametrize("schema", [None, "acme"])
def test_collections_of_other_distances_get_their_indexes(
    migrated_to: MigratedTo, schema: str | None
) -> None:
    url = migrated_to(WORDS, schema)
    home = schema or "public"
    with_collections(url, home)
    migrate.upgrade(url, schema=schema)
    migrate.check(url, schema=schema)
    assert indexes_of_collections(url, home) == {name: made for name, (_, made) in DISTANCES.items()}
    with Database(url, schema=schema) as db, db.begin() as uow:
        found = uow.knowledge.query("dots", [1.0] * 1536, limit=2)
        assert [hit.row.id for hit in found] == ["5", "4"]
    migrate.downgrade(url, WORDS, schema=schema)
    assert set.union(*indexes_of_collections(url, home).values()) == {"vector_cosine_ops"}


def test_the_script_indexes_other_distances(migrated_to: MigratedTo) -> None:
    url = migrated_to(WORDS)
    with_collections(url, "public")
    psql(url, migrate.sql(f"{WORDS}:alfred_0044_knowledge_lengths"))
    assert indexes_of_collections(url, "public") == {name: made for name, (_, made) in DISTANCES.items()}
    migrate.upgrade(url)
    migrate.check(url)
