"""What is compared: scripts, packages, and how each library's jobs are counted."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ABSURD", "ALFRED", "DBOS", "DRIVER", "PEERS", "PGQUEUER", "PROCRASTINATE", "RAW", "Library"]

DRIVER = "psycopg[binary]==3.3.9"


@dataclass(frozen=True)
class Library:
    """A contender's script, the packages of its environment, and the counts of its finished and unfinished jobs."""

    name: str
    script: str
    requirements: tuple[str, ...] = ()
    finished: str = ""
    unfinished: str = ""

    @property
    def versions(self) -> str:
        return ", ".join(package.replace("==", " ") for package in self.requirements if package != DRIVER)


TASKS = (
    "SELECT count(*) FROM tasks WHERE status = 'completed' AND claim_seq = 1",
    "SELECT count(*) FROM tasks WHERE status <> 'completed'",
)
ALFRED = Library("alfred-db", "alfred.py", (), *TASKS)
RAW = Library("raw SQL", "raw.py", (), *TASKS)
PROCRASTINATE = Library(
    "procrastinate",
    "peer_procrastinate.py",
    ("procrastinate==3.10.0", DRIVER, "psycopg-pool==3.3.3"),
    "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded' AND attempts = 1",
    "SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'",
)
PGQUEUER = Library(
    "pgqueuer",
    "peer_pgqueuer.py",
    ("pgqueuer==1.6.0", DRIVER),
    "SELECT count(*) FROM pgqueuer_log WHERE status = 'successful'",
    "SELECT count(*) FROM pgqueuer",
)
ABSURD = Library(
    "absurd",
    "peer_absurd.py",
    ("absurd-sdk==0.5.1", "absurdctl==0.5.1", DRIVER),
    "SELECT count(*) FROM absurd.t_bench WHERE state = 'completed' AND attempts = 1",
    "SELECT count(*) FROM absurd.t_bench WHERE state <> 'completed'",
)
DBOS = Library("dbos", "peer_dbos.py", ("dbos==3.4.0", DRIVER))
PEERS = (PROCRASTINATE, PGQUEUER, ABSURD, DBOS)
