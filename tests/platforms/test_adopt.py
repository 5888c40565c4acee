"""Adoption of a platform's database: every row arrives, whatever interrupts it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import forked
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, Connection, NullPool, create_engine, select, text

from alfred_db import ConflictError, Database, Memory, MemoryBank, NotFoundError
from alfred_db.cli import adopt as command
from alfred_db.cli import main, options
from alfred_db.queries.shapes.memories import content_hash
from alfred_db.transfer.adopting import Adoption
from alfred_db.transfer.platforms import TABLES

from .made import create

ROWS = 100_000 // 24 if os.environ.get("ALFRED_DB_FAULTS") else 150
"""Rows of each of the 24 large tables."""

CHANGED = {
    "tasks": {"completed_at", "failed_at", "priority", "retry_count", "timeout_seconds"},
    "conversations": {"role"},
    "test_cases": {"status", "executed_at"},
    "test_results": {"status"},
    "scheduler_tasks": {"max_retries", "timeout"},
    "scheduler_executions": {"status", "end_time"},
    "workflows": {"status"},
    "workflow_executions": {"status", "completed_at"},
    "working_memory": {"status", "embedding"},
    "hosting_provider": {"code"},
    "model_family": {"maker_id"},
    "broker_request": {"status", "prompt_tokens"},
}
"""Columns with values that the models refuse."""


def shown(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def run(url: URL, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["adopt", "--url", shown(url), *arguments])


@pytest.fixture(scope="module")
def platform(new_database: Callable[..., URL]) -> URL:
    """A platform's database, to be read only."""
    url = new_database()
    create(url, ROWS)
    return url


@pytest.fixture(scope="module")
def adopted(new_database: Callable[..., URL]) -> Iterator[tuple[URL, Connection]]:
    """A platform's database that was adopted where it is, by a process that was killed twice and one that was not."""
    url = new_database()
    create(url, ROWS)
    for after in ("documents:", "task_results:"):
        with forked.Program(
            "-m", "alfred_db.cli", "adopt", "--url", shown(url), "--yes", "--batch", "70"
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(after):
                    break
            else:
                pytest.fail(f"no line {after}")
            process.kill()
            process.wait(60)
    done = run(url, "--yes")
    assert done.exit_code == 0, done.output
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        yield url, connection


def test_a_plan_counts_everything_and_changes_nothing(platform: URL) -> None:
    done = run(platform, "--plan", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)["plan"]
    rows = {table["table"]: table["rows"] for table in plan["tables"]}
    assert set(rows) == {table.fullname for table in TABLES} - {"auth.users"}
    assert rows["tasks"] == ROWS
    assert len(plan["moved"]) == len(rows)
    assert "auth.users" in plan["left"]
    lost = {table["table"] for table in plan["tables"] if table["losses"]}
    assert lost == {"wm.working_memory", "test_cases"}
    with create_engine(platform, poolclass=NullPool).connect() as connection:
        schemas = connection.scalars(text("SELECT nspname FROM pg_namespace")).all()
    assert not {"legacy", "alfred_db_adoption"} & set(schemas)


def test_it_asks_before_it_changes_anything(platform: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, ["adopt", "--url", shown(platform)], input="y\n")
    assert done.exit_code == 2  # the standard input of a test is no terminal
    assert "pass --yes" in done.stderr
    monkeypatch.setattr(options, "answerable", lambda yes: None)
    monkeypatch.setattr(command, "answerable", lambda yes: None)
    done = CliRunner().invoke(main, ["adopt", "--url", shown(platform)], input="n\n")
    assert done.exit_code == 1
    assert "Adopt these rows?" in done.stderr
    test_a_plan_counts_everything_and_changes_nothing(platform)


def test_every_row_is_there_with_the_values_that_it_had(adopted: tuple[URL, Connection]) -> None:
    _, connection = adopted
    columns = connection.execute(
        text(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'legacy'"
        )
    ).all()
    compared = 0
    for table in TABLES:
        if table.schema in ("auth", "entity") or table.name == "memory_entries":
            continue
        own = {row.column_name: row.data_type for row in columns if row.table_name == table.name}
        (key,) = [column.name for column in table.primary_key if column.name != "created_at"]
        join = f"legacy.{table.name} AS old LEFT JOIN {table.fullname} AS new ON new.{key} = old.{key}"
        missing = connection.scalar(text(f"SELECT count(*) FROM {join} WHERE new.{key} IS NULL"))
        assert missing == 0, table.fullname
        for name, kind in own.items():
            if name not in table.columns or name == "metadata":
                continue
            compared += 1
            old = f"CAST(old.{name} AS text)"
            if kind == "timestamp without time zone":
                old = f"CAST(old.{name} AT TIME ZONE 'UTC' AS text)"
            elif kind == "ARRAY":
                old = f"translate({old}, '{{}}', '[]')"
            differ = connection.scalar(
                text(
                    f"SELECT count(*) FROM {join} WHERE old.{name} IS NOT NULL AND {old} IS DISTINCT FROM CAST(new.{name} AS text)"
                )
            )
            assert bool(differ) <= (name in CHANGED.get(table.name, ())), (table.fullname, name, differ)
    assert compared > 150


def test_keys_of_another_type_and_links_are_kept(adopted: tuple[URL, Connection]) -> None:
    _, connection = adopted
    for old, new in (
        ("legacy.memory_entries", "memory_entries"),
        ("legacy.node", "entity.entity_node"),
        ("legacy.edge", "entity.entity_edge"),
    ):
        counts = connection.execute(
            text(f"SELECT (SELECT count(*) FROM {old}), (SELECT count(*) FROM {new})")
        ).one()
        assert counts[0] == counts[1] > 0, new
    entries = connection.scalar(
        text(
            "SELECT count(*) FROM legacy.memory_entries AS old JOIN memory_entries AS new"
            " ON new.metadata #>> '{adopted,id}' = CAST(old.id AS text) AND new.event_id = old.event_id AND new.user_id = old.user_id"
            " AND new.content = old.content_text AND new.metadata #> '{adopted,content}' = old.content"
            " AND new.namespace = 'app/' || old.user_id AND new.embedding IS NOT DISTINCT FROM old.embedding"
        )
    )
    assert entries == ROWS
    parents = text(
        "SELECT count(*) FROM {}tasks AS t JOIN {}tasks AS p ON p.id = t.parent_task_id".replace("{}", "")
    )
    old_parents = text("SELECT count(*) FROM legacy.tasks WHERE parent_task_id IS NOT NULL")
    assert connection.scalar(parents) == connection.scalar(old_parents) > 0  # type: ignore[operator]
    families = connection.execute(
        text(
            "SELECT f.name, m.name FROM brk_registry.model_family AS f JOIN brk_registry.model_maker AS m ON m.id = f.maker_id"
        )
    ).all()
    assert ("Claude", "Anthropic") in families
    assert ("Llama", "unknown") in families


def test_what_was_replaced_is_beside_the_row(adopted: tuple[URL, Connection]) -> None:
    _, connection = adopted
    roles = connection.execute(
        text(
            "SELECT DISTINCT role, metadata #>> '{adopted,role}' FROM conversations WHERE metadata ? 'adopted'"
        )
    ).all()
    assert set(map(tuple, roles)) == {
        ("system", "System"), ("user", "human"), ("assistant", "ai"), ("user", "moderator"), ("tool", "function"),
    }  # fmt: skip
    kept = connection.scalar(text("SELECT count(*) FROM conversations WHERE metadata ->> 'k' = '1'"))
    assert kept == ROWS // 2


def test_the_library_works_with_the_rows(adopted: tuple[URL, Connection]) -> None:
    url, connection = adopted
    with Database(url) as database:
        database.verify()
        with database.begin() as uow:
            running = connection.scalar(text("SELECT count(*) FROM legacy.tasks WHERE status = 'processing'"))
            reaped = uow.tasks.reap()
            assert 0 < len(reaped) <= int(running or 0)
            assert len(uow.tasks.claim("worker", limit=5)) == 5
            assert uow.documents.add("a new one").id > 2 * ROWS
            model = uow.model_registry.register(
                "new-model", display_name="New", provider="p", model_type="chat"
            )
            assert model.id > 100_000
            messages = uow.conversations.history("session-1", limit=1000).items
            assert len(messages) == len(range(1, ROWS + 1, 40))
            summary = next(
                one for one in uow.conversations.sessions(limit=1000).items if one.session_id == "session-1"
            )
            assert summary.messages == len(messages)


@pytest.mark.parametrize(
    ("table", "scope"), [("memories", "memory_bank_id"), ("memory_entries", "namespace")]
)
def test_texts_have_the_hash_that_the_repositories_find_them_by(
    adopted: tuple[URL, Connection], table: str, scope: str
) -> None:
    rows = adopted[1].execute(text(f"SELECT {scope}, content, content_hash FROM {table} ORDER BY id")).all()
    adopted[1].rollback()
    expected: dict[tuple[object, bytes], None] = {}
    for home, content, found in rows:
        new = home is not None and (home, content_hash(content)) not in expected
        expected[home, content_hash(content)] = None
        assert bytes(found or b"") == (content_hash(content) if new else b"")
    assert len(rows) > 100


class _Undone(Exception):
    pass


def test_a_text_that_was_adopted_is_not_stored_twice(adopted: tuple[URL, Connection]) -> None:
    with Database(adopted[0]) as db, suppress(_Undone), db.begin() as uow:
        known = uow.session.scalars(select(Memory).where(Memory.content_hash.is_not(None)).limit(1)).one()
        bank = uow.session.get_one(MemoryBank, known.memory_bank_id)
        again = uow.memories.remember(bank, f"  {known.content.upper()}  ", embedding=[1.0] * 384)
        assert again.id == known.id
        raise _Undone


def test_a_second_run_does_nothing(adopted: tuple[URL, Connection]) -> None:
    url, connection = adopted
    state = text(
        "SELECT string_agg(CAST(p AS text), ' ' ORDER BY name) FROM alfred_db_adoption.progress AS p"
    )
    rows = text("SELECT count(*), max(xmin::text::bigint) FROM conversations")
    before = connection.scalar(state), connection.execute(rows).one()
    done = run(url, "--yes")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("nothing to adopt: ")
    assert (connection.scalar(state), connection.execute(rows).one()) == before


@pytest.mark.parametrize("schema", [None, "acme"])
def test_another_database_is_read_and_left_alone(
    database_url: URL, platform: URL, schema: str | None
) -> None:
    adoption = Adoption(database_url, source=platform, schema=schema, batch=100)
    seen: list[Any] = []
    result = adoption.run(seen.append)
    assert all(one.same for one in result), result
    assert {one.table for one in result} == {table.fullname for table in TABLES}
    assert next(one for one in result if one.table == "auth.users").adopted == ROWS
    assert seen
    with Database(database_url, schema=schema) as database, database.begin() as uow:
        assert len(uow.memory_banks.list(limit=100).items) == 20
    assert Adoption(database_url, source=platform, schema=schema).plan().done_at is not None
    with pytest.raises(ConflictError, match="was begun from"):
        Adoption(database_url, source=platform, source_schema="public", schema=schema).plan()


def test_a_target_with_rows_and_a_source_without_tables_are_refused(
    database_url: URL, platform: URL, empty_url: URL
) -> None:
    with Database(database_url) as database, database.begin() as uow:
        uow.documents.add("mine")
    with pytest.raises(ConflictError, match="documents: it has rows already"):
        Adoption(database_url, source=platform).run()
    assert all(
        one.same for one in Adoption(database_url, source=platform, only=["tasks", "task_results"]).run()
    )
    with pytest.raises(NotFoundError, match="no table of a platform"):
        Adoption(database_url, source=empty_url, schema="acme").plan()
    with pytest.raises(NotFoundError, match="table nonsense: not one"):
        Adoption(database_url, source=platform, only=["nonsense"])
