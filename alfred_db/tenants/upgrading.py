"""Upgrade many tenants: one after the other in this process, or several at a time in processes of their own.

Alembic keeps what it migrates in variables of its modules, so a process migrates one tenant at a time. What is killed,
this process or one of the others, leaves each tenant at a revision: run it again, and it goes on from there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from sqlalchemy import URL

from .. import migrate
from ..errors import AlfredDBError, translated

__all__ = ["MAX_PARALLEL", "Progress", "TenantOutcome", "TenantReport", "main", "upgrade_each"]

MAX_PARALLEL = 64
"""The number of processes at most; each has two connections while it migrates."""


@dataclass(frozen=True, slots=True)
class TenantOutcome:
    """How one tenant has ended."""

    name: str
    changed: bool
    """Whether anything was done; False where the tenant was at the newest revision already."""
    error: str | None
    """What went wrong; None if nothing did."""
    number: int
    """How many tenants have ended so far, this one included."""
    total: int
    """How many tenants there are to do."""


@dataclass(frozen=True, slots=True)
class TenantReport:
    """How all of the tenants have ended."""

    changed: Sequence[str]
    """Those that were created or upgraded."""
    unchanged: Sequence[str]
    """Those that were at the newest revision already."""
    failed: Mapping[str, str]
    """What went wrong, by name. The others are done; run the call again for these."""


Progress = Callable[[TenantOutcome], None]
"""Called after each tenant, in the thread of the caller."""


def upgrade_each(
    url: URL,
    names: Sequence[str],
    *,
    at_head: Sequence[str] = (),
    parallel: int = 1,
    triggers: bool = True,
    then: Callable[[str], bool] = lambda name: False,
    progress: Progress | None = None,
) -> TenantReport:
    """Upgrade, or create, these tenants. A failure ends that of one tenant, and not the others.

    Args:
        url: The database, as the role that runs the migrations.
        names: The tenants, each once.
        at_head: Those of them that need no upgrade.
        parallel: The number of tenants at the same time.
        triggers: Whether to create the `updated_at` triggers.
        then: Called after each upgrade; returns whether it changed anything.
        progress: Called after each tenant.
    """
    changed: list[str] = []
    unchanged: list[str] = []
    failed: dict[str, str] = {}
    pool = _Pool(url, triggers) if parallel > 1 and len(names) - len(at_head) > 1 else None

    def run(name: str) -> bool:
        if name in at_head:
            return then(name)
        if pool is None:
            migrate.upgrade(url, schema=name, triggers=triggers)
        else:
            pool.upgrade(name)
        then(name)
        return True

    threads = ThreadPoolExecutor(parallel if pool else 1, "alfred-db tenants")
    try:
        waited = {threads.submit(run, name): name for name in names}
        for done in as_completed(waited):
            name, error = waited[done], done.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            if error is not None:
                failed[name] = _said(error)
            else:
                (changed if done.result() else unchanged).append(name)
            if progress is not None:
                number = len(changed) + len(unchanged) + len(failed)
                progress(TenantOutcome(name, name in changed, failed.get(name), number, len(names)))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        if pool is not None:
            pool.close()
        threads.shutdown()
    return TenantReport(sorted(changed), sorted(unchanged), failed)


class _Pool:
    """Processes that upgrade a tenant at a time; each is started when there is no idle one."""

    def __init__(self, url: URL, triggers: bool) -> None:
        self._settings = json.dumps([url.render_as_string(hide_password=False), triggers])
        self._idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self._all: list[subprocess.Popen[str]] = []
        self._closed = False

    def upgrade(self, name: str) -> None:
        """Upgrade a tenant in one of the processes.

        Raises:
            AlfredDBError: The upgrade failed, or the process has ended.
        """
        try:
            process = self._idle.get_nowait()
        except Empty:
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = ""
        with suppress(OSError):  # it has ended
            process.stdin.write(json.dumps(name) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer:
            status = process.wait()
            raise AlfredDBError(
                f"tenant {name}: the process that upgraded it has ended with status {status}; upgrade it again, and"
                " it goes on from where it is"
            )
        self._idle.put(process)
        if (error := json.loads(answer)) is not None:
            raise AlfredDBError(error)

    def _start(self) -> subprocess.Popen[str]:
        if self._closed:
            raise AlfredDBError("the upgrade of the tenants has been stopped; run it again")
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "alfred_db.tenants"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        self._all.append(process)
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(self._settings + "\n")  # not an argument: others could read the password
        return process

    def close(self) -> None:
        """End the processes, also those that are in the middle of a tenant: the server rolls its revision back."""
        self._closed = True
        for process in self._all:
            process.kill()
        for process in self._all:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()


def _said(error: Exception) -> str:
    if isinstance(error, AlfredDBError):
        return str(error)
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def main() -> None:
    """Upgrade the tenants whose names are read, one a line; write the error of each, or null."""
    import logging
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller, who ends this process
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything prints is no answer
    logging.getLogger("alfred_db").setLevel(logging.WARNING)
    url, triggers = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        answer = None
        try:
            with translated():
                migrate.upgrade(url, schema=json.loads(line), triggers=triggers)
        except Exception as error:
            answer = _said(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
