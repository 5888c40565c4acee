"""What the imports cost beside the libraries that they stand on, and the command's help, each in a fresh process."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from harness import FOUNDATION, at_most, interleaved, publish, table, targets

RUNS = 15
RATIO = 1.3
HELP_SECONDS = 0.35
BASE = "import sqlalchemy.orm, psycopg, numpy"
WITH_DIALECT = f"{BASE}, sqlalchemy.dialects.postgresql, sqlalchemy.ext.asyncio, pgvector.sqlalchemy"
USED = "from alfred_db import Database"
MODELS = "from alfred_db import Database, Task"
MADE = f"{USED}; Database('postgresql://localhost/x')"
STATEMENTS = (BASE, WITH_DIALECT, "import alfred_db", USED, MODELS, MADE)
HELP = "alfred-db --help"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def running(*command: str) -> Callable[[], tuple[float, float]]:
    """A fresh process: its seconds by the clock, timed from outside, and of the processor."""

    def run() -> tuple[float, float]:
        before, start = _used(), time.perf_counter()
        subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start, _used() - before

    run()  # writes the bytecode
    return run


def _used() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def own_costs(statement: str) -> dict[str, int]:
    """The microseconds that each module takes itself, by `-X importtime`."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    lines = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines()]
    return {name.strip(): int(own) for own, _, name in lines if own.strip().isdigit()}


def main() -> int:
    contenders = {f"`{statement}`": running(sys.executable, "-c", statement) for statement in STATEMENTS}
    contenders[f"`{HELP}`"] = running(str(Path(sys.executable).with_name("alfred-db")), "--help")
    times = interleaved(RUNS, contenders)
    clock = {name: median(seconds for seconds, _ in found) for name, found in times.items()}
    processor = {name: median(seconds for _, seconds in found) for name, found in times.items()}
    base = f"`{BASE}`"
    goals = [
        at_most(f"`{USED}` / {base}", clock[f"`{USED}`"] / clock[base], RATIO),
        at_most(f"`{HELP}`, seconds", clock[f"`{HELP}`"], HELP_SECONDS),
    ]
    rows = [
        (
            name,
            f"{clock[name] * 1000:.0f} ms",
            f"{processor[name] * 1000:.0f} ms",
            f"{clock[name] / clock[base]:.2f}",
        )
        for name in times
    ]
    notes = (
        f"Fresh processes in turn, {RUNS} of each; with the start of Python. {os.cpu_count()} cores,"
        f" Python {platform.python_version()}. The models and repositories come with the first model, or with the"
        " first `Database` that is made."
    )
    publish(
        FOUNDATION, "Import", notes, table(("", "median", "of the processor", "ratio"), rows), targets(goals)
    )
    found = own_costs(BASE)
    added = {module: cost for module, cost in own_costs(USED).items() if module not in found}
    print(f"What `{USED}` adds: {sum(added.values()) / 1000:.0f} ms, of which")
    for module in sorted(added, key=lambda module: -added[module])[:8]:
        print(f"  {added[module] / 1000:6.1f} ms  {module}")
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
