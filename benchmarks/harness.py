"""What benchmarks share: one server, peers in environments of their own, contenders in turns, pages of results.

    with one_server() as server:
        url = server.database("mine")                        # fresh; `Database(url).upgrade()` fills it
        python = peer_environment("vecs", ["vecs==0.4.5"])   # .venv/peers/vecs, made once
        with Contender("vecs", SCRIPT, python) as peer:      # a process; SCRIPT ends with contender.serve(...)
            peer.ask("load", url, 1000)                      # what its function `load` returns, through JSON
            times = interleaved(5, {"a": run_a, "b": lambda: peer.ask("run")}, failed)
    publish(PAGE, "Section", table(("", "median"), rows), targets([at_most("a / b", 1.2, 1.3)]))

A contender takes its times itself, so that its process and the JSON are not in them. Whatever goes wrong in
one is a ContenderError, whose text belongs on the page.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, TypeVar

import figures
import psycopg
from sqlalchemy import make_url

from alfred_db import embedded

__all__ = [
    "FOUNDATION",
    "OPERATIONS",
    "Contender",
    "ContenderError",
    "Page",
    "Server",
    "Target",
    "at_least",
    "at_most",
    "interleaved",
    "machine",
    "one_server",
    "peer_environment",
    "publish",
    "publish_times",
    "table",
    "targets",
]

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv" / "peers"
RESULTS = Path(os.environ.get("ALFRED_DB_BENCH_RESULTS") or HERE.parent / "docs" / "benchmarks")
"""Where pages go, and beside each its figures as JSON; a comparison has a run write them elsewhere."""
PATIENCE = 600.0
"""Seconds that a contender has for one answer."""

T = TypeVar("T")


class ContenderError(Exception):
    """A contender could not be installed, failed, or took too long; the text says which."""


@dataclass(frozen=True)
class Server:
    """A server for one benchmark."""

    folder: Path
    version: str
    url: str

    def database(self, name: str) -> str:
        """The URL of a new, empty database, `postgresql://...` as libpq takes it; one of that name goes first."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop(self, name: str) -> None:
        """Drop a database if it exists."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def one_server(**settings: str) -> Generator[Server]:
    """A new embedded server, gone at the end; all that are compared use this one.

    `settings` are those that differ from the ones that it has by itself, such as `shared_buffers="512MB"`.
    """
    with tempfile.TemporaryDirectory(prefix="alfred-db-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        started = embedded.start(folder / "server")
        url = make_url(started.url or "").set(database="postgres").render_as_string(hide_password=False)
        if settings:
            with psycopg.connect(url, autocommit=True) as connection:
                for setting, value in settings.items():
                    connection.execute(f"ALTER SYSTEM SET {setting} = '{value}'".encode())
            embedded.stop(folder / "server")
            embedded.start(folder / "server")
        try:
            yield Server(folder, started.version or "", url)
        finally:
            embedded.stop(folder / "server")


def peer_environment(name: str, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment in .venv/peers; made anew only when the requirements change."""
    folder, wanted = PEERS / name, "\n".join(requirements)
    python, installed = folder / "bin" / "python", folder / "requirements.txt"
    if not installed.exists() or installed.read_text() != wanted:
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", *requirements]
        for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], pip):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise ContenderError(f"{name} cannot be installed: {_last_line(done.stderr or done.stdout)}")
        installed.write_text(wanted)
    return python


class Contender:
    """A script in a process of its own, told by lines of JSON what to do; `contender.serve` is its other end.

    The library that it imports is that of `tree`, a checkout of another version, or else the one here.
    """

    def __init__(
        self, name: str, script: Path, python: Path | str = sys.executable, *, tree: Path | None = None
    ) -> None:
        self.name = name
        # Peers that report their use to their makers over the network are told not to.
        quiet = {"MEM0_TELEMETRY": "False", "AGNO_TELEMETRY": "false", "ANONYMIZED_TELEMETRY": "False"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(python), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **quiet, "PYTHONPATH": os.pathsep.join((str(HERE), str(tree or HERE.parent)))},
        )

    def ask(self, function: str, *arguments: Any) -> Any:
        """What the contender's `function` returns; raises ContenderError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(PATIENCE, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps([function, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise ContenderError(f"{self.name} ended: {_last_line(self._errors.read())}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderError(f"{self.name}, {function}: {answer['error']}")
        return answer["value"]

    def kill(self) -> None:
        """End it by SIGKILL, in the middle of whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def interleaved(
    runs: int, contenders: Mapping[str, Callable[[], T]], failed: dict[str, str] | None = None
) -> dict[str, list[T]]:
    """What each contender gives in each of `runs` turns, A B C, C B A, ...: a slow minute of the machine hits all.

    With `failed` a contender that raises ContenderError is noted there and is left out; without, it is raised.
    """
    given: dict[str, list[T]] = {name: [] for name in contenders}
    for turn in range(runs):
        for name in list(given) if turn % 2 == 0 else list(reversed(given)):
            try:
                given[name].append(contenders[name]())
            except ContenderError as error:
                if failed is None:
                    raise
                failed[name] = str(error)
                del given[name]
    return given


@dataclass(frozen=True)
class Target:
    """A figure, and what it should be."""

    what: str
    value: float
    limit: float
    most: bool

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.most else self.value >= self.limit


def at_most(what: str, value: float, limit: float) -> Target:
    return Target(what, value, limit, True)


def at_least(what: str, value: float, limit: float) -> Target:
    return Target(what, value, limit, False)


def targets(found: Sequence[Target]) -> str:
    """A table of figures, each with its target and whether it was met."""
    return table(
        ("", "measured", "target", "met"),
        [
            (
                one.what,
                f"{one.value:.3g}",
                f"{'at most' if one.most else 'at least'} {one.limit:g}",
                "yes" if one.met else "**no**",
            )
            for one in found
        ],
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; all columns but the first are to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


@dataclass(frozen=True)
class Page:
    """A page of results in docs/benchmarks."""

    file: str
    title: str
    introduction: str

    @property
    def path(self) -> Path:
        return RESULTS / self.file


FOUNDATION = Page("foundation.md", "Benchmarks of the foundation", "Written by `make bench`.")
OPERATIONS = Page(
    "operations.md",
    "Benchmarks of operations",
    "Written by `make bench-operations` and `make bench-tenants`.",
)


def publish(page: Page, section: str, *parts: str) -> None:
    """Print a section, and put it on its page: in the place of the section of that name, or at the end."""
    text = f"## {section}\n\n" + "\n\n".join(parts) + "\n"
    print(text, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    sections = re.split(r"^(?=## )", page.path.read_text() if page.path.exists() else "", flags=re.MULTILINE)
    kept = {part.partition("\n")[0]: part.rstrip("\n") + "\n" for part in sections[1:]}
    kept[f"## {section}"] = text
    page.path.write_text("\n".join([f"# {page.title}\n\n{page.introduction}\n", *kept.values()]))
    figures.write(page.path)


def publish_times(
    page: Page, section: str, notes: str, times: Mapping[str, Sequence[float]], limit: float
) -> bool:
    """Publish the median seconds and their ratio to the first. Whether the last is within `limit`."""
    medians = {name: median(values) for name, values in times.items()}
    base, *_, last = medians.values()
    rows = [(name, f"{value * 1000:.0f} ms", f"{value / base:.2f}") for name, value in medians.items()]
    cores = f"{os.cpu_count()} cores, Python {platform.python_version()}."
    publish(
        page,
        section,
        f"{notes} Limit of the last row: {limit}. {cores}",
        table(("", "median", "ratio"), rows),
    )
    return last / base <= limit


def machine(server: Server) -> str:
    """One sentence about what the figures were taken on."""
    processor, memory = platform.machine(), ""
    if (information := Path("/proc/cpuinfo")).exists():
        processor = next(iter(re.findall(r"model name\s*: (.+)", information.read_text())), processor)
        kilobytes = re.findall(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
        memory = f", {int(kilobytes[0]) / (1 << 20):.0f} GB"
    with psycopg.connect(server.url) as connection:
        statement = "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
        vector = connection.execute(statement).fetchone()
    return (
        f"{processor}, {os.cpu_count()} cores{memory}; {platform.system()}, Python {platform.python_version()},"
        f" PostgreSQL {server.version} (embedded, its own settings, by a Unix socket),"
        f" pgvector {vector[0] if vector else 'none'}."
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "notice" not in line]
    return lines[-1][:400] if lines else "it said nothing"
