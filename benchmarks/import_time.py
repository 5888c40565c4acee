"""What `import alfred_db` costs beside the libraries that it stands on, each in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from harness import FOUNDATION, interleaved, publish_times

RUNS = 15
LIMIT = 1.25
BASE = "import sqlalchemy.orm, psycopg, numpy"
WITH_DIALECT = f"{BASE}, sqlalchemy.dialects.postgresql, sqlalchemy.ext.asyncio, pgvector.sqlalchemy"
USED = "from alfred_db import Database"
OURS = "import alfred_db"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def importing(statement: str) -> Callable[[], float]:
    """A fresh interpreter that runs `statement`, timed from outside."""

    def run() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True, env=ENVIRONMENT)
        return time.perf_counter() - start

    run()  # writes the bytecode
    return run


def own_costs(statement: str) -> dict[str, int]:
    """The microseconds that each module takes itself, by `-X importtime`."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    lines = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines()]
    return {name.strip(): int(own) for own, _, name in lines if own.strip().isdigit()}


def main() -> int:
    statements = (BASE, WITH_DIALECT, USED, OURS)
    times = interleaved(RUNS, {f"`{statement}`": importing(statement) for statement in statements})
    good = publish_times(FOUNDATION, "Import", f"Fresh processes in turn, {RUNS} of each.", times, LIMIT)
    base = own_costs(BASE)
    added = {module: cost for module, cost in own_costs(USED).items() if module not in base}
    print(f"What `{USED}` adds: {sum(added.values()) / 1000:.0f} ms, of which")
    for module in sorted(added, key=lambda module: -added[module])[:8]:
        print(f"  {added[module] / 1000:6.1f} ms  {module}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
