"""What `alembic upgrade head` costs on an empty database, beside psql running the same SQL."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import FOUNDATION, interleaved, publish_times
from sqlalchemy import NullPool, create_engine, make_url, text

from alfred_db import embedded, migrate

RUNS = 7
LIMIT = 3.0
ROOT = Path(__file__).parent.parent

_numbers = itertools.count(1)


def on_a_new_database(server: str, upgrade: Callable[[str], None]) -> Callable[[], float]:
    """Times `upgrade(url)` on a database of its own."""
    engine = create_engine(server, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def run() -> float:
        name = f"bench_{next(_numbers)}"
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
            start = time.perf_counter()
            upgrade(make_url(server).set(database=name).render_as_string(hide_password=False))
            seconds = time.perf_counter() - start
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        return seconds

    return run


def psql(script: str) -> Callable[[str], None]:
    """Runs `script` as a site does that lets no tool near its database."""

    def run(url: str) -> None:
        address = url.replace("postgresql+psycopg://", "postgresql://")
        command = [str(embedded.binaries() / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", "-f", script, address]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return run


def plain_alembic(url: str) -> None:
    """The command of the README, in a process of its own."""
    command = [str(Path(sys.executable).parent / "alembic"), "upgrade", "head"]
    environment = {**os.environ, "ALFRED_DB_URL": url}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def main() -> int:
    os.environ.pop("ALFRED_DB_MIGRATION_URL", None)
    with tempfile.TemporaryDirectory(prefix="alfred-db-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        script = folder / "upgrade.sql"
        script.write_text(migrate.sql())
        started = embedded.start(folder / "server")
        server = make_url(started.url or "").set(database="postgres")
        address = server.render_as_string(hide_password=False)
        try:
            upgrades = {
                "psql, of the SQL that `--sql` prints": psql(str(script)),
                "`db.upgrade()`, in a running process": migrate.upgrade,
                "`alembic upgrade head`, the whole command": plain_alembic,
            }
            contenders = {key: on_a_new_database(address, upgrade) for key, upgrade in upgrades.items()}
            for run in contenders.values():
                run()
            times = interleaved(RUNS, contenders)
        finally:
            embedded.stop(folder / "server")
    notes = f"Empty databases of PostgreSQL {started.version}, embedded, in turn, {RUNS} of each."
    return 0 if publish_times(FOUNDATION, "Upgrade", notes, times, LIMIT) else 1


if __name__ == "__main__":
    sys.exit(main())
