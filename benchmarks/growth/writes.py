"""What each index of a revision costs the writes of its table, and what its call takes without it.

Two databases of the same rows are written in turns, one of them without the index: CPU time of the client and of the
server's process, so that what else the machine does is not counted. The call is made on the large database in a
transaction that drops the index and is rolled back.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import psycopg
from harness import Server, one_server
from sqlalchemy import make_url, text

from alfred_db import Database, migrate
from alfred_db.repositories import UnitOfWork
from alfred_db.values import RagContext, RagSource

from .calls import Place

__all__ = ["INDEXES", "TURNS", "Index", "Written", "costs", "timed"]

TURNS = 9
SIZE = 20_000
"""Rows of each table before it is written."""


@dataclass(frozen=True)
class Index:
    """An index, and how the revision that made it describes it."""

    name: str
    table: str
    before: str | None = None
    """What it has replaced, as follows ON the table."""
    call: str = ""
    """The call of `calls.py` that it is for."""

    @property
    def schema(self) -> str:
        return self.table.rpartition(".")[0]

    @property
    def home(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


CALLS = {
    "idx_tasks_cancelled": "tasks.list, cancelled ones",
    "idx_tasks_intent": "tasks.list, of a rare intent",
    "idx_tasks_assigned_to": "tasks.list, of an agent with few",
    "idx_tasks_queue": "tasks.list, of a small queue",
    "idx_tasks_created_at": "tasks.list, of a minute",
    "idx_broker_request_session_id": "broker_requests.recent, of a session",
    "idx_broker_request_provider": "broker_requests.recent, of a small provider",
    "idx_broker_request_pending": "broker_requests.recent, pending ones",
    "idx_broker_request_agent_name": "broker_requests.recent, of an agent with few",
    "idx_workflow_executions_workflow_id": "workflows.history, of a small one",
    "idx_workflow_executions_parent_execution_id": "workflows.children",
    "idx_rag_query_documents_document_id": "rag.queries_using",
    "idx_test_results_test_run_id": "validation.list_results",
    "idx_memories_metadata": "memories.search, by a field",
    "idx_memory_entries_metadata": "memory_entries.search, by a field",
    "idx_working_memory_metadata": "working_memory.search, by a field",
    "idx_test_results_figures": "validation.regression",
    "idx_test_results_fail": "validation.list_results, that fail",
}


def _revision(name: str) -> ModuleType:
    (path,) = (Path(migrate.location()) / "versions").glob(f"*_{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _indexes() -> Iterator[Index]:
    growth = _revision("growth_indexes")
    for name in growth.TASKS:
        yield Index(name, "tasks", call=CALLS[name])
    for name in growth.REQUESTS:
        yield Index(name, "brk_tracking.broker_request", call=CALLS[name])
    for (table, _), replaced in growth.REPLACED.items():
        for name, (before, _after) in replaced.items():
            yield Index(name, table, before, CALLS[name])
    filters = _revision("filter_indexes")
    for name in filters.REQUESTS:
        yield Index(name, "brk_tracking.broker_request", call=CALLS[name])
    for (table, _), names in filters.INDEXES.items():
        for name in names:
            yield Index(name, table, call=CALLS[name])


INDEXES = tuple(_indexes())


# Writes of a table


def tasks_in_batches(database: Database, number: int) -> None:
    """Enqueue, claim and complete in batches of a hundred."""
    with database.begin() as uow:
        uow.tasks.enqueue_many(
            [{"intent": "JOB", "queue": "own", "assigned_to": f"agent-{n % 5}"} for n in range(number)]
        )
    for _ in range(number // 100):
        with database.begin() as uow:
            held = uow.tasks.claim("w", queues=["own"], limit=100)
        with database.begin() as uow:
            uow.tasks.complete_many(held)


def tasks_one_by_one(database: Database, number: int) -> None:
    """Enqueue, claim and complete one by one."""
    for n in range(number):
        with database.begin() as uow:
            uow.tasks.enqueue("JOB", {"n": n}, queue="own", assigned_to=f"agent-{n % 5}")
        with database.begin() as uow:
            (held,) = uow.tasks.claim("w", queues=["own"])
        with database.begin() as uow:
            uow.tasks.complete(held)


def requests(database: Database, number: int) -> None:
    """Start and finish requests."""
    for n in range(number):
        with database.begin() as uow:
            one = uow.broker_requests.start(
                f"r-{n}", model="m", provider="p", agent_name=f"a-{n % 5}", session_id=f"s-{n // 20}"
            )
        with database.begin() as uow:
            uow.broker_requests.finish(one.id, one.created_at, prompt_tokens=10, completion_tokens=5)


def executions(database: Database, number: int) -> None:
    """Start workflows as children of another."""
    with database.begin() as uow:
        workflow, _ = uow.workflows.define("written", {})
        uow.workflows.activate(workflow.id)
        parent, _ = uow.workflows.start("written")
        for _ in range(number):
            uow.workflows.start("written", parent_id=parent.id)


def sources(database: Database, number: int) -> None:
    """Record queries with the documents that they used."""
    with database.begin() as uow:
        document = uow.session.execute(text("SELECT min(id) FROM documents")).scalar_one()
        session = uow.rag.open("written")
        context = RagContext("t", (RagSource(document, "t", 0.5, rank=1, chars=1),), truncated=False)
        for n in range(number):
            uow.rag.record(session, f"q {n}", context=context)


def results(database: Database, number: int) -> None:
    """Record results of a run."""
    with database.begin() as uow:
        suite = uow.validation.create_suite("written")
        case = uow.validation.add_case(suite.id, "written")
        run = uow.validation.start_run(suite.id)
        for n in range(number):
            uow.validation.record(case.id, f"m-{n % 3}", n, threshold=5, run_id=run.id)


def memories(database: Database, number: int) -> None:
    """Remember texts with metadata, one by one."""
    with database.begin() as uow:
        bank = uow.memory_banks.get_or_create("written")
        for n in range(number):
            uow.memories.remember(
                bank.id, f"{n} {time.time()}", metadata={"k": n % 1000, "lang": "en", "source": f"s-{n % 7}"}
            )


def entries(database: Database, number: int) -> None:
    """Remember entries with metadata, one by one."""
    with database.begin() as uow:
        for n in range(number):
            uow.memory_entries.remember(
                "written",
                f"{n} {time.time()}",
                metadata={"k": n % 1000, "lang": "en", "source": f"s-{n % 7}"},
            )


def working(database: Database, number: int) -> None:
    """Store working memory with metadata, one by one."""
    with database.begin() as uow:
        for n in range(number):
            uow.working_memory.store(f"w-{n}", "note", content="c", metadata={"k": n % 1000, "lang": "en"})


WRITES: Mapping[str, tuple[tuple[str, int, Callable[[Database, int], None]], ...]] = {
    "tasks": (("in batches", 3_000, tasks_in_batches), ("one by one", 300, tasks_one_by_one)),
    "brk_tracking.broker_request": (("start, finish", 300, requests),),
    "workflow_executions": (("start", 300, executions),),
    "rag_query_documents": (("record", 300, sources),),
    "test_results": (("record", 300, results),),
    "memories": (("remember", 300, memories),),
    "memory_entries": (("remember", 300, entries),),
    "wm.working_memory": (("store", 300, working),),
}


@dataclass(frozen=True)
class Written:
    """CPU time with the index beside without it."""

    what: str
    client: float
    server: float
    both: float


def costs(
    server: Server, indexes: tuple[Index, ...] = INDEXES, turns: int = TURNS
) -> dict[str, list[Written]]:
    """Return for each index the ratios of CPU time, medians over the turns."""
    found: dict[str, list[Written]] = {}
    _template(server)
    for index in indexes:
        urls = {name: _copy(server, name) for name in ("with", "without")}
        with psycopg.connect(urls["without"], autocommit=True) as connection:
            _replace(connection, index)
        with Database(urls["with"]) as one, Database(urls["without"]) as other:
            found[index.name] = [
                _written(what, number, work, one, other, turns) for what, number, work in WRITES[index.table]
            ]
    return found


def _template(server: Server) -> None:
    url = server.database("written")
    with Database(url) as database:
        database.upgrade()
        for writes in WRITES.values():
            _, _, work = writes[0]
            with database.begin() as uow:
                uow.documents.add("c", title="t")
            work(database, 1_000)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")


def _copy(server: Server, name: str) -> str:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE written'.encode())
    return make_url(server.url).set(database=name).render_as_string(hide_password=False)


def _replace(connection: psycopg.Connection, index: Index) -> None:
    connection.execute(f"DROP INDEX {index.home}".encode())
    if index.before is not None:
        connection.execute(f"CREATE INDEX {index.name} ON {index.table} {index.before}".encode())


def _written(
    what: str,
    number: int,
    work: Callable[[Database, int], None],
    one: Database,
    other: Database,
    turns: int,
) -> Written:
    ratios: list[tuple[float, float, float]] = []
    for turn in range(turns + 1):
        order = (one, other) if turn % 2 else (other, one)
        taken = {id(database): _taken(database, number, work) for database in order}
        (client, server), (client_without, server_without) = taken[id(one)], taken[id(other)]
        if turn:  # the first one fills the caches
            ratios.append(
                (
                    client / client_without,
                    server / server_without,
                    (client + server) / (client_without + server_without),
                )
            )
    return Written(what, *(median(column) for column in zip(*ratios, strict=True)))


def _taken(database: Database, number: int, work: Callable[[Database, int], None]) -> tuple[float, float]:
    """Return the seconds of CPU that the client and its server process took; the rows stay."""
    before, begun = _of_server(database), time.process_time()
    work(database, number)
    return time.process_time() - begun, _of_server(database) - before


def _of_server(database: Database) -> float:
    """Return the seconds of CPU of all processes that serve the connections to a database."""
    with database.session() as session:
        pids = session.scalars(
            text(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
            )
        )
        return sum(map(_of_process, pids))


def _of_process(pid: int) -> float:
    """Return the seconds of CPU of a process, which Linux counts in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def timed(
    database: Database, index: Index, build: Callable[[Place], dict[str, Any]], place: Place, *, dropped: bool
) -> float:
    """Return the median milliseconds of a call; `dropped` is without the index, in a transaction that is rolled back."""
    noun, _, method = index.call.partition(",")[0].partition(".")
    taken: list[float] = []
    with database.session() as session:
        if dropped:
            session.execute(text(f"DROP INDEX {index.home}"))
            if index.before is not None:
                session.execute(text(f"CREATE INDEX {index.name} ON {index.table} {index.before}"))
        uow = UnitOfWork(session)
        for _ in range(7):
            given = dict(build(place))
            start = time.perf_counter()
            getattr(getattr(uow, noun), method)(**given)
            taken.append(1000 * (time.perf_counter() - start))
        session.rollback()
    return median(taken)


if __name__ == "__main__":
    import sys

    chosen = tuple(
        one for one in INDEXES if not sys.argv[1:] or any(word in one.name for word in sys.argv[1:])
    )
    with one_server() as started:
        for name, rows in costs(started, chosen).items():
            for row in rows:
                print(
                    f"{name:<46}{row.what:<14} client {row.client:.3f} server {row.server:.3f} both {row.both:.3f}",
                    flush=True,
                )
