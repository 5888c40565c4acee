"""Who is compared: each in a process, on a database of its own or, where the table is ours, on that of alfred-db."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from harness import Contender, ContenderError, Server, peer_environment

from alfred_db import Database

__all__ = ["OURS", "RAW", "STOCK", "Contenders", "Started", "contenders", "migrated"]

SCRIPTS = Path(__file__).parent / "contenders"
RAW, STOCK, OURS = "raw psycopg", "SQLAlchemy + pgvector", "alfred-db"
ON_OUR_TABLE = {RAW: "raw.py", STOCK: "stock.py", OURS: "alfred.py"}
DRIVER = "psycopg[binary,pool]==3.3.9"
PEERS = {
    "langchain-postgres 0.0.19": ("peer_langchain.py", ["langchain-postgres==0.0.19", DRIVER]),
    "vecs 0.4.5": ("peer_vecs.py", ["vecs==0.4.5", "numpy==2.4.6"]),
    "mem0 2.2.1": ("peer_mem0.py", ["mem0ai==2.2.1", DRIVER, "numpy==2.4.6"]),
    "agno 3.1.10": (
        "peer_agno.py",
        ["agno==3.1.10", "sqlalchemy==2.1.9", "pgvector==0.5.1", DRIVER, "numpy==2.4.6"],
    ),
}


@dataclass(frozen=True)
class Started:
    """A contender that runs, and where its rows are."""

    contender: Contender
    url: str
    table: str
    column: str
    asynchronous: bool

    def empty(self) -> None:
        self._run(f"TRUNCATE {self.table} CASCADE")

    def rows(self) -> int:
        with psycopg.connect(self.url) as connection:
            (count,) = connection.execute(f"SELECT count(*) FROM {self.table}").fetchone() or (0,)
            return count

    def index(self) -> None:
        """The same index for all, unless the table has it."""
        with psycopg.connect(self.url) as connection:
            statement = (
                "SELECT 1 FROM pg_indexes WHERE position('USING hnsw' IN indexdef) > 0 AND tablename = %s"
            )
            name = self.table.rpartition(".")[2].strip('"')
            if connection.execute(statement, (name,)).fetchone() is None:
                connection.execute(
                    f"CREATE INDEX ON {self.table} USING hnsw ({self.column} vector_cosine_ops)"
                    " WITH (m = 16, ef_construction = 64)"
                )
        self._run(f"VACUUM (ANALYZE) {self.table}")

    def scans(self) -> int:
        """How often the vector index was used."""
        with psycopg.connect(self.url) as connection:
            statement = (
                "SELECT coalesce(sum(idx_scan), 0)::int FROM pg_stat_user_indexes JOIN pg_indexes"
                " ON indexname = indexrelname AND pg_indexes.schemaname = pg_stat_user_indexes.schemaname"
                " WHERE position('USING hnsw' IN indexdef) > 0"
            )
            (count,) = connection.execute(statement).fetchone() or (0,)
            return count

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


@dataclass(frozen=True)
class Contenders:
    """Those that run, and what is wrong with those that do not."""

    started: dict[str, Started]
    failed: dict[str, str]


@contextmanager
def contenders(server: Server, folder: Path, ours: str) -> Generator[Contenders]:
    """All of them, for the rows in `folder`; `ours` is the URL of the database with alfred-db's tables."""
    with ExitStack() as stack:
        all_ = Contenders({}, {})

        def start(name: str, script: str, url: str, python: Path | None) -> None:
            given = () if python is None else (python,)
            contender = stack.enter_context(Contender(name, SCRIPTS / script, *given))
            told: dict[str, Any] = contender.ask("start", url, str(folder))
            all_.started[name] = Started(
                contender, url, told["table"], told["column"], told["async"] is not None
            )

        for name, script in ON_OUR_TABLE.items():
            start(name, script, ours, None)
        for name, (script, requirements) in PEERS.items():
            word = name.partition(" ")[0]
            try:
                url = server.database(word)
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute("CREATE EXTENSION vector")
                start(name, script, url, peer_environment(word, requirements))
            except ContenderError as error:
                all_.failed[name] = str(error)
        yield all_


def migrated(server: Server, name: str) -> str:
    """The URL of a database with alfred-db's tables."""
    url = server.database(name)
    with Database(url) as database:
        database.upgrade()
    return url
