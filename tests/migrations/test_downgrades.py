"""A downgrade destroys no row that anybody has committed, and does all or nothing where rows are in the way."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from click.testing import CliRunner
from sqlalchemy import URL, text

from alfred_db import migrate
from alfred_db.cli import main
from alfred_db.errors import ConflictError
from alfred_db.models import Base
from alfred_db.sql import SHARED_SCHEMAS

from .catalog import (
    HEAD,
    REVISIONS,
    ROOT,
    alembic,
    differences,
    engine_of,
    environment,
    own_url,
    psql,
    run,
    scalar,
    snapshot,
    version,
    wait_until,
)

ROWS = {
    "tasks": "INSERT INTO tasks (task_id, intent) VALUES ('t', 'x')",
    "wm.working_memory": "INSERT INTO wm.working_memory (name, memory_type) VALUES ('n', 't')",
    "events": "INSERT INTO events (topic) VALUES ('t')",
    "conversations": "INSERT INTO conversations (session_id, role, content) VALUES ('s', 'user', 'c')",
    "auth.users": "INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'a@b')",
}
TENANTS = ["tasks", "events", "conversations"]


@pytest.fixture
def alone_url(migrated_to: Callable[..., URL]) -> URL:
    """A migrated database without tenants."""
    return migrated_to("head")


def doors(url: URL) -> dict[str, Callable[[], str]]:
    def raised() -> str:
        with pytest.raises(ConflictError) as caught:
            migrate.downgrade(url, "base")
        return str(caught.value)

    def command() -> str:
        done = CliRunner().invoke(main, ["downgrade", "base", "--yes", "--url", own_url(url)])
        assert done.exit_code == 2
        return done.output

    def plain() -> str:
        done = alembic("downgrade", "base", url=url)
        assert done.returncode != 0
        return done.stdout + done.stderr

    return {"library": raised, "command": command, "plain alembic": plain}


def test_every_table_with_rows_is_named_and_nothing_is_changed(alone_url: URL) -> None:
    run(alone_url, *ROWS.values())
    before = snapshot(alone_url)
    for door in doors(alone_url).values():
        said = door()
        assert all(name in said for name in ROWS), said
        assert "hold rows" in said
    assert version(alone_url) == HEAD
    assert differences(before, snapshot(alone_url)) == []
    for name in ROWS:
        assert scalar(alone_url, f"SELECT count(*) FROM {name}") == 1


def test_the_script_looks_at_all_first_too(alone_url: URL) -> None:
    run(alone_url, *ROWS.values())
    done = alembic("downgrade", f"{HEAD}:base", "--sql", url=alone_url)
    before = snapshot(alone_url)
    with pytest.raises(AssertionError, match=r"tables .*tasks.* hold rows"):
        psql(alone_url, done.stdout)
    assert differences(before, snapshot(alone_url)) == []
    run(alone_url, *(f"DELETE FROM {name}" for name in ROWS))
    psql(alone_url, done.stdout)
    assert scalar(alone_url, "SELECT to_regclass('tasks') IS NULL")


@pytest.mark.parametrize("schema", [None, "acme"])
@pytest.mark.parametrize("table", TENANTS)
def test_rows_of_a_transaction_that_was_under_way_are_kept(
    migrated_to: Callable[..., URL], schema: str | None, table: str
) -> None:
    url = migrated_to("head", schema)
    name = table if schema is None else f"{schema}.{table}"
    insert = ROWS[table].replace(f"INTO {table}", f"INTO {name}")
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with engine_of(url).connect() as writer, ThreadPoolExecutor(1) as pool:
        writer.execute(text(insert))
        downgrade = pool.submit(migrate.downgrade, url, "base", schema=schema)
        wait_until(lambda: scalar(url, waits))
        writer.commit()
        with pytest.raises(ConflictError, match="holds rows"):
            downgrade.result(60)
    assert version(url, schema) == HEAD
    assert scalar(url, f"SELECT count(*) FROM {name}") == 1


@pytest.fixture
def owner(alone_url: URL) -> Iterator[URL]:
    """A role that owns all of our tables, whom policies that are forced on the owner hold."""
    name = f"owner_{os.getpid()}"
    owned = (
        "SELECT string_agg(format('ALTER %s %s OWNER TO {name}', 'TABLE', pg_class.oid::regclass), ';')"
        " FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind IN ('r', 'p') AND nspname !~ '^pg_|information_schema'"
    )
    run(alone_url, f"CREATE ROLE {name} LOGIN", scalar(alone_url, owned.format(name=name)))
    schemas = "SELECT string_agg(format('ALTER SCHEMA %I OWNER TO {name}', nspname), ';') FROM pg_namespace WHERE nspname !~ '^pg_|information_schema'"
    run(alone_url, scalar(alone_url, schemas.format(name=name)))
    run(alone_url, f'ALTER DATABASE "{alone_url.database}" OWNER TO {name}')
    yield alone_url.set(username=name)
    run(alone_url, f"REASSIGN OWNED BY {name} TO postgres", f"DROP ROLE {name}")


def test_rows_that_a_forced_policy_hides_from_the_owner_are_kept(owner: URL, alone_url: URL) -> None:
    # All that a downgrade would drop, whatever it is called.
    tables = [table.fullname for table in Base.metadata.sorted_tables if table.schema not in SHARED_SCHEMAS]
    run(
        alone_url,
        *(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY" for name in tables),
        *(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY" for name in tables),
        *(ROWS[name] for name in ROWS if not name.startswith("auth.")),
    )
    assert scalar(owner, "SELECT count(*) FROM tasks") == 0, "the policies do not hide them"
    with pytest.raises(ConflictError) as caught:
        migrate.downgrade(owner, REVISIONS[6])
    for name in ROWS:
        assert name.startswith("auth.") or name in str(caught.value)
    assert version(alone_url) == HEAD
    assert scalar(alone_url, "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'tasks'::regclass")
    assert scalar(alone_url, "SELECT count(*) FROM tasks") == 1


# The terminal


def on_a_terminal(url: URL, answer: str, *options: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    with ExitStack() as stack:
        stack.callback(os.close, ours)
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "alfred_db.cli",
                "downgrade",
                REVISIONS[-2],
                "--url",
                own_url(url),
                *options,
            ],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            env=environment(),
        )
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said: list[bytes] = []

        def read() -> None:
            try:
                while part := os.read(ours, 4096):
                    said.append(part)
            except OSError:  # Linux ends a terminal so
                pass

        reader = threading.Thread(target=read)
        reader.start()
        status = process.wait(60)
        reader.join(30)
        return status, b"".join(said).decode()


def test_on_a_terminal_it_asks(alone_url: URL) -> None:
    status, said = on_a_terminal(alone_url, "n")
    assert status == 1, said
    assert alone_url.database is not None
    assert alone_url.database in said
    assert version(alone_url) == HEAD
    status, said = on_a_terminal(alone_url, "y")
    assert status == 0, said
    assert version(alone_url) == REVISIONS[-2]
    migrate.upgrade(alone_url)
    status, said = on_a_terminal(alone_url, "", "--yes")
    assert status == 0, said
    assert "[y/N]" not in said
    assert version(alone_url) == REVISIONS[-2]
