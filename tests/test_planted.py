"""Whoever may create in a schema of the search_path has nothing of theirs called: tests/planted.py says what they plant."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import click
import pytest
from click.testing import CliRunner
from injection.ground import Ground, build
from injection.specimens import SPECIMENS
from planted import CALLED, leaning, plant
from servers import Servers
from sqlalchemy import URL, Connection, NullPool, TextClause, create_engine, text
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import NullType
from unit.examples import Call
from unit.test_queries import CALLS as CALLS_OF_QUERIES
from unit.test_queries import statements_in
from worker.at_work import eventually, working

from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    ClaimedTask,
    Database,
    Lease,
    NewTaskResult,
    TaskStatus,
    Worker,
    migrate,
)
from alfred_db.cli import main
from alfred_db.cli.doctor import examine
from alfred_db.config import parse_url
from alfred_db.indexes import status
from alfred_db.repositories import AsyncUnitOfWork, UnitOfWork
from alfred_db.retention import RetentionPolicy
from alfred_db.types import bind_text

LOW = f"alfred_low_{os.getpid()}"
TENANTS = (None, "acme")


@pytest.fixture(scope="module")
def planted(servers: Servers, new_database: Callable[..., URL]) -> Iterator[URL]:
    """A database where a role that may create in `public` has planted what it could, before anything else."""
    url = new_database()
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {LOW}"))
        for extension in ("vector", "pg_trgm"):
            connection.execute(text(f"CREATE EXTENSION IF NOT EXISTS {extension}"))
        connection.execute(text(f"GRANT CREATE ON SCHEMA public TO {LOW}"))
        assert plant(connection, LOW) > 5000
    yield url
    above = create_engine(parse_url(servers["embedded"]), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with above.connect() as connection:
        connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))
        connection.execute(text(f"DROP ROLE {LOW}"))
        connection.execute(text(f"DROP ROLE IF EXISTS {LOW}_app"))


def nothing_called(url: URL) -> bool:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        called = connection.scalar(text(f"SELECT is_called FROM {CALLED}"))
        return not called and leaning(connection, LOW) == []


def test_a_superuser_who_migrates_and_looks_calls_nothing_of_theirs(planted: URL) -> None:
    for schema in TENANTS:
        migrate.upgrade(planted, schema=schema)
        assert nothing_called(planted)
        with Database(planted, schema=schema) as db:
            db.verify()
        migrate.check(planted, schema=schema)
        report = examine(planted, schema)
        assert report.errors == []
        assert any(f'REVOKE CREATE ON SCHEMA "public" FROM {LOW}' in warning for warning in report.warnings)
    assert nothing_called(planted)


@pytest.fixture(scope="module")
def ground(planted: URL, tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Ground]:
    """The rows that the calls refer to, in each tenant."""
    made: dict[str | None, Ground] = {}
    for schema in TENANTS:
        migrate.upgrade(planted, schema=schema)
        with Database(planted, schema=schema) as db, db.begin() as uow:
            made[schema] = build(uow, tmp_path_factory.mktemp("ground"))
    return made


@pytest.mark.parametrize("schema", TENANTS, ids=lambda schema: schema or "public")
def test_no_call_of_a_repository_calls_anything_of_theirs(
    planted: URL, ground: dict[str | None, Ground], schema: str | None
) -> None:
    wrong: dict[str, str] = {}
    with Database(planted, schema=schema) as db, db.session() as session:
        uow = UnitOfWork(session)
        for name, make in SPECIMENS.items():
            noun, _, method = name.partition(",")[0].partition(".")
            given = make(ground[schema])
            savepoint = session.begin_nested()
            try:
                getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
            except Exception as error:
                wrong[name] = str(error)
            savepoint.rollback()
    assert not wrong, "\n".join(f"{words}: {said}" for words, said in wrong.items())
    assert nothing_called(planted)


@pytest.mark.parametrize("schema", TENANTS[1:])
async def test_nor_does_one_of_asyncio(
    planted: URL, ground: dict[str | None, Ground], schema: str | None
) -> None:
    wrong: dict[str, str] = {}
    async with AsyncDatabase(planted, schema=schema) as db:
        await db.verify()
        async with db.session() as session:
            uow = AsyncUnitOfWork(session)
            for name, make in SPECIMENS.items():
                noun, _, method = name.partition(",")[0].partition(".")
                given = make(ground[schema])
                savepoint = await session.begin_nested()
                try:
                    await getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
                except Exception as error:
                    wrong[name] = str(error)
                await savepoint.rollback()
    assert not wrong, "\n".join(f"{words}: {said}" for words, said in wrong.items())
    assert nothing_called(planted)


# Statements

DIALECT = psycopg.dialect()
bind_text(DIALECT)  # as every engine of the library


def as_functions(url: URL, without: Collection[str] = ()) -> tuple[dict[str, str], Connection]:
    """Make each statement of `alfred_db.queries` the body of a function, which depends on all that it would call.

    Gives the errors by the statements' names, and the connection, whose transaction has the functions.
    """
    connection = create_engine(url, poolclass=NullPool).connect()
    connection.begin()
    errors: dict[str, str] = {}
    for number, (name, sql) in enumerate(statements()):
        if f"{name} {number}" in without:
            continue
        savepoint = connection.begin_nested()
        try:
            body = f"CREATE FUNCTION pg_temp.s{number}() RETURNS void LANGUAGE sql BEGIN ATOMIC {sql}; END"
            connection.exec_driver_sql(body.replace("%", "%%"))
        except SQLAlchemyError as error:
            savepoint.rollback()
            errors[f"{name} {number}"] = str(error)[:500]
    return errors, connection


def statements() -> Iterator[tuple[str, str]]:
    for parameter in CALLS_OF_QUERIES:
        function, example = cast("tuple[Callable[..., Any], Call]", parameter.values)
        for statement in statements_in(function(*example.args, **example.kwargs)):
            if not isinstance(statement, str | TextClause):
                yield str(parameter.id), with_nulls(statement)


def with_nulls(statement: Any) -> str:
    """The statement with a NULL of its type for each parameter."""
    compiled = statement.compile(dialect=DIALECT)

    def null(found: re.Match[str]) -> str:
        name = found.group(1)
        type_ = compiled.binds[name].type if name in compiled.binds else NullType()
        try:
            kind = type_.dialect_impl(DIALECT).compile(DIALECT)
        except Exception:  # of no type
            return "NULL"
        return "NULL" if kind == "NULL" else f"CAST(NULL AS {kind})"

    sql = re.sub(r"__\[POSTCOMPILE_\w+\]", "NULL", str(compiled))
    return re.sub(r"%\((\w+)\)s", null, sql).replace("%%", "%")


def test_no_statement_means_anything_of_theirs(
    planted: URL, ground: dict[str | None, Ground], migrated_url: URL
) -> None:
    usual, clean = as_functions(migrated_url)
    clean.close()
    found, connection = as_functions(planted, usual)
    with connection:
        wrong = [f"{name}: {error}" for name, error in found.items()]
        wrong += leaning(connection, LOW)
    assert not wrong, "\n".join(wrong)
    assert len(usual) < 40, "few statements are written with what no function can have"


# Workers


@pytest.mark.parametrize("schema", TENANTS, ids=lambda schema: schema or "public")
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_worker_calls_nothing_of_theirs(
    planted: URL, ground: dict[str | None, Ground], schema: str | None, asynchronous: bool
) -> None:
    """It claims, keeps leases, fails, completes with results, reaps, files slots of schedules, and is notified."""
    with Database(planted, schema=schema) as db:
        with db.begin() as uow:
            for content in ({}, {"fails": True}, {"late": True}):
                uow.tasks.enqueue("planted", content, max_retries=0, timeout_seconds=1)
            uow.scheduler.create("planted", "c", "* * * * *", schedule_key="planted")
        worker: Any = (
            AsyncWorker(AsyncDatabase(planted, schema=schema), {"planted": handle_async}, **QUICK)
            if asynchronous
            else Worker(db, {"planted": handle}, **QUICK)
        )
        with working(worker):
            eventually(lambda: not left(db, "planted"))
            with db.begin() as uow:
                uow.tasks.enqueue("planted")  # a notification
            eventually(lambda: not left(db, "planted"))
            time.sleep(0.5)
        with db.begin() as uow:
            assert uow.tasks.count(intent="planted", status=TaskStatus.FAILED) >= 2
            assert uow.tasks.purge(older_than=0) > 0
    assert nothing_called(planted)


QUICK: dict[str, Any] = {"lease": 0.6, "poll": 0.1, "upkeep": 0.2, "grace": 5.0}


def left(db: Database, intent: str) -> int:
    with db.begin() as uow:
        waiting = uow.tasks.count(intent=intent, status=TaskStatus.PENDING)
        return waiting + uow.tasks.count(intent=intent, status=TaskStatus.PROCESSING)


def handle(task: ClaimedTask, lease: Lease) -> list[NewTaskResult]:
    if task.content.get("fails"):
        raise ValueError("planted")
    while task.content.get("late"):
        lease.check()
        time.sleep(0.05)
    return [{"result_type": "t", "content": {}}]


async def handle_async(task: ClaimedTask, lease: AsyncLease) -> list[NewTaskResult]:
    if task.content.get("fails"):
        raise ValueError("planted")
    while task.content.get("late"):
        await asyncio.sleep(0.05)
    return [{"result_type": "t", "content": {}}]


# The commands


def commands(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """All commands that take a database, by their words."""
    for name, command in group.commands.items():
        path = (*above, name)
        if isinstance(command, click.Group):
            yield from commands(command, path)
        elif any("--url" in parameter.opts for parameter in command.params):
            yield " ".join(path), command


COMMANDS = dict(commands(main))
AGES = [word for name in RetentionPolicy.ages() for word in (f"--{name}", "0s")]
CALLS: dict[str, list[list[str]]] = {
    "quickstart": [[]],
    "catalog check": [[], ["--json"]],
    "catalog export": [[]],
    "catalog link": [["--help"]],
    "catalog load": [[]],
    "catalog refresh": [["--help"]],
    "catalog unlink": [["--help"]],
    "tenants move": [["--help"]],
    "check": [[]],
    "current": [[]],
    "distribute": [["--help"]],
    "doctor": [[], ["--json"]],
    "grants apply": [["--role", f"app={LOW}_app"], ["--role", f"reader={LOW}_app", "--yes"]],
    "grants check": [["--role", f"reader={LOW}_app"]],
    "grants plan": [["--role", f"app={LOW}_app", "--role", f"owner={LOW}_owner"]],
    "indexes add": [["documents.metadata.year"], ["knowledge.payload.year"]],
    "indexes drop": [["documents.metadata.year", "--yes"], ["knowledge.payload.year", "--yes"]],
    "indexes list": [[], ["--json"]],
    "maintain": [["--dry-run"], [], ["--keep-months", "1", "--drop", "--yes"]],
    "mcp": [["--read-only"], []],
    "queues delete": [["ground", "--yes"]],
    "queues list": [[], ["--json"]],
    "queues pause": [["ground"]],
    "queues resume": [["ground"]],
    "queues set": [["ground", "--max-running", "5", "--rate", "9/60"], ["ground", "--rate", "none"]],
    "schedule add": [
        ["n", "* * * * *", "--command", "c", "--key", "k"],
        ["n", "0 * * * *", "--task", "c", "--key", "k"],
    ],
    "schedule delete": [["k", "--yes"]],
    "schedule history": [["ground"]],
    "schedule list": [[], ["--json"]],
    "schedule pause": [["ground"]],
    "schedule preview": [["ground"]],
    "schedule resume": [["ground"]],
    "schedule trigger": [["ground"]],
    "tasks cancel": [["ground"]],
    "tasks health": [[], ["--json"]],
    "tasks list": [[], ["--status", "pending", "--queue", "default", "--intent", "ground", "--json"]],
    "tasks requeue": [["ground"], ["--failed", "--queue", "default"]],
    "tasks show": [["ground"], ["ground", "--json"]],
    "metrics": [[]],
    "purge": [[*AGES, "--dry-run"], [*AGES, "--yes", "--json"]],
    "init": [["--dimensions", "working_memory=8", "--model", "m"]],
    "spaces reembed": [
        [
            name,
            *["--embedder", "test_planted:embed", "--kind", "documents", "--model", "m", "--dimensions", "8"],
        ]
        for name in ("planted", "dropped")
    ],
    "spaces switch": [["documents", "planted", "--embedder", "test_planted:embed", "--target", "0"]],
    "spaces drop": [["dropped", "--yes"]],
    "spaces status": [[], ["--json"]],
    "top": [["--once"]],
    "web": [["--help"]],
    "vectors advise": [
        ["--table", "documents", "--samples", "1", "--ef", "10"],
        ["--space", "planted", "--ef", "10", "--json"],
    ],
    "vectors build": [["planted", "--index", "hnsw-bit"]],
    "vectors rebuild": [[], ["--index", "{index}"]],
    "vectors recall": [["--table", "documents", "--samples", "2", "--ef", "10"]],
    "vectors status": [[], ["--json"]],
    "adopt": [["--help"]],
    "agents list": [[], ["--alive", "60", "--json"]],
    "agents show": [["ground"]],
    "cache clear": [["planted:", "--yes"]],
    "cache delete": [["planted", "--yes"]],
    "cache get": [["planted"]],
    "cache set": [["planted", "1"], ["planted", "1", "--ttl", "60"]],
    "cache size": [[], ["--json"]],
    "documents delete": [["planted", "--yes"]],
    "documents list": [[], ["--json"]],
    "documents search": [["planted"], ["planted", "--language", "english", "--json"]],
    "documents show": [["planted"]],
    "drill": [["--help"]],
    "enqueue": [["planted", "{}"]],
    "events consumers": [[], ["--json"]],
    "events list": [["planted"]],
    "events publish": [["planted", "{}"]],
    "export": [["{folder}"]],
    "import": [["{folder}", "--on-conflict", "skip"]],
    "memories banks": [[], ["--json"]],
    "memories delete-bank": [["planted", "--yes"]],
    "memories forget": [["999", "--yes"]],
    "memories list": [["ground"]],
    "tenants create": [["planted_tenant"]],
    "tenants list": [[], ["--json"]],
    "tenants export": [["planted_tenant", "{folder}/tenant.sql"]],
    "tenants upgrade": [["--all"]],
    "tenants drop": [["planted_tenant", "--yes"]],
    "workflows cancel": [["planted"]],
    "workflows events": [["planted"], ["planted", "--send", "e"]],
    "workflows list": [[], ["--json"]],
    "workflows resume": [["planted"]],
    "workflows show": [["planted"]],
    "worker": [["--app", "test_planted:HANDLERS", "--drain"]],
    "downgrade": [["--yes", "--allow-data-loss", "--", "-1"]],
    "upgrade": [[]],
}
HANDLERS = {"planted": handle}


def embed(texts: Sequence[str]) -> list[list[float]]:
    return [[1.0, float(len(text)), *(float(ord(text[0])) for _ in range(6))] for text in texts]


def test_each_command_has_a_call() -> None:
    assert sorted(CALLS) == sorted(COMMANDS)


@pytest.mark.parametrize("schema", TENANTS[:1], ids=["public"])
def test_no_command_calls_anything_of_theirs(
    planted: URL, ground: dict[str | None, Ground], schema: str | None, tmp_path: Path
) -> None:
    with Database(planted, schema=schema) as db, db.engine.connect() as connection:
        index = next(one.name for one in status(connection, schema) if one.table == "documents")
        with db.begin() as uow:
            uow.documents.add_many([{"content": "c", "embedding": [1.0, n] + [0.0] * 382} for n in range(3)])
    wrong: dict[str, str] = {}
    for name, calls in CALLS.items():
        tenant = ["--schema", schema] if schema and takes(COMMANDS[name], "--schema") else []
        for call in calls:
            options = [*tenant, "--url", planted.render_as_string(hide_password=False)]
            words = [
                *name.split(),
                *options,
                *(word.replace("{index}", index).replace("{folder}", str(tmp_path)) for word in call),
            ]
            done = CliRunner().invoke(main, words)
            looked = done.exit_code == 2 and ("not found" in done.output or "does not exist" in done.output)
            if (done.exit_code not in (0, 1) and not looked) or (
                done.exception and not isinstance(done.exception, SystemExit)
            ):
                wrong[" ".join(words)] = f"{done.output} {done.exception}"
    assert not wrong, "\n".join(f"{words}: {said}" for words, said in wrong.items())
    assert nothing_called(planted)


def takes(command: click.Command, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)
