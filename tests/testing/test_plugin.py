"""The pytest plugin, as its users run it: in processes of its own, with workers, without a server, and twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from servers import Servers, free_port
from sqlalchemy import URL, text

from alfred_db import Base, Database
from alfred_db.config import parse_url
from alfred_db.testing.clock import let_time_pass
from alfred_db.testing.connections import OuterTransaction
from alfred_db.testing.factories import RowFactory
from alfred_db.testing.servers import _MARK, Clones, connection_parameters

ROOT = Path(__file__).parents[2]
SUITE = Path(__file__).parent / "suite.py"


def run(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest with the plugin, in an empty folder, with nothing of this run's settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "alfred_db.testing", "-p", "no:cacheprovider", "-q", *options],
        cwd=folder,
        env={
            "HOME": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **kept,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


def databases(url: str) -> set[str]:
    with psycopg.connect(**connection_parameters(parse_url(url))) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_suite.py").write_text(SUITE.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    return tmp_path


def test_a_second_run_tests_as_much_as_the_first(folder: Path, servers: Servers) -> None:
    passed: list[str] = []
    for options in (["-n", "2"], []):
        done = run(folder, *options, ALFRED_DB_TEST_URL=servers["embedded"], ALFRED_DB_TEST_REQUIRED="1")
        assert done.returncode == 0, done.stdout + done.stderr
        passed += re.findall(r"^(\d+) passed in", done.stdout, re.MULTILINE)
        assert not {
            name
            for name in databases(servers["embedded"])
            if re.match("alfred_clone_(gw|[0-9a-f]{12}$)", name)
        }
    assert len(passed) == 2
    assert passed[0] == passed[1]


def test_without_a_server_tests_are_skipped(folder: Path) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"
    done = run(folder, "-rs", "-k", "rolls_back or savepoints", ALFRED_DB_TEST_URL=url)
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert lines
    assert all("no server for the tests: ALFRED_DB_TEST_URL cannot be used" in line for line in lines)
    required = run(folder, "-k", "savepoints", ALFRED_DB_TEST_URL=url, ALFRED_DB_TEST_REQUIRED="1")
    assert required.returncode == 1
    assert "alfred-db: no server for the tests" in required.stdout


def test_the_plugin_imports_nothing_of_the_library() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import alfred_db.testing;"
        "print(sorted(name for name in set(sys.modules) - before if '.' not in name or name.startswith('alfred_db')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    new = set(re.findall(r"'([\w.]+)'", done.stdout))
    assert {name for name in new if name.startswith("alfred_db")} == {"alfred_db", "alfred_db.testing"}, (
        done.stderr
    )
    assert not new & {"sqlalchemy", "psycopg", "numpy", "alembic"}


def test_every_model_has_rows_and_they_age(database_url: URL) -> None:
    outer = OuterTransaction(**connection_parameters(database_url))
    with Database(database_url) as database:
        outer.join(database.engine)
        factory = RowFactory(database.session)
        for mapper in Base.registry.mappers:
            first, second = factory(mapper.class_), factory(mapper.class_)
            assert isinstance(first, mapper.class_)
            assert isinstance(second, mapper.class_)
        with database.session() as session:
            before = session.scalar(text("SELECT max(created_at) FROM tasks"))
            let_time_pass(session, timedelta(hours=1))
            assert before is not None
            assert session.scalar(text("SELECT max(created_at) FROM tasks")) == before - timedelta(hours=1)
    outer.close()


def test_what_a_killed_run_leaves_is_dropped(servers: Servers) -> None:
    server = parse_url(servers["embedded"])
    left = f"alfred_clone_gw0_{os.getpid():x}"  # nobody holds its lock
    with psycopg.connect(**connection_parameters(server), autocommit=True) as connection:
        for name in (left, f"{left}_theirs"):
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(left), sql.Literal(_MARK))
        )
    other, living = Clones(server), Clones(server)
    with living.clone() as kept, other.clone():
        assert left not in databases(servers["embedded"])
        assert f"{left}_theirs" in databases(servers["embedded"]), (
            "a name alone is no reason to drop a database"
        )
        assert kept.database in databases(servers["embedded"])
    assert kept.database not in databases(servers["embedded"])
    other.close()
    living.close()
