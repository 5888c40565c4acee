"""Whatever a server, a database, a role or the environment set: calls do the same, or say in a sentence why not."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner
from servers import Servers, pgbouncer
from sqlalchemy import URL, Connection, NullPool, create_engine, select, text
from sqlalchemy.orm import Session

from alfred_db import AsyncDatabase, Database, Document, migrate
from alfred_db.cli import doctor, main
from alfred_db.cli.doctor import examine
from alfred_db.config import parse_url
from alfred_db.engine.pool import RELIED_ON
from alfred_db.errors import AlfredDBError, ConfigurationError
from alfred_db.migrate.verify import verify
from alfred_db.repositories import DocumentRepository, UnitOfWork

WORDS = 'é ß 🎉 日本 \\ \\n " '
AT = datetime(2020, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)

# What is neither true nor one of a list, and may change what is read, written or compared.
ODD: dict[str, tuple[str, ...]] = {
    "DateStyle": ("German, DMY", "SQL, DMY", "Postgres, MDY", "ISO, DMY"),
    "TimeZone": ("Asia/Kathmandu", "Pacific/Apia", "<+05:30>-5:30", "Africa/Monrovia"),
    "client_encoding": ("LATIN1", "SQL_ASCII", "EUC_JP", "WIN1252"),
    "default_text_search_config": ("pg_catalog.simple", "pg_catalog.german"),
    "extra_float_digits": ("-15", "0", "3"),
    "gin_fuzzy_search_limit": ("1",),
    "lc_messages": ("C",),
    "lc_monetary": ("C",),
    "lc_numeric": ("C",),
    "lc_time": ("C",),
    "search_path": ("public", '"$user", public, wm', "public, pg_catalog"),
    "timezone_abbreviations": ("India",),
    "work_mem": ("64kB",),
    "cursor_tuple_fraction": ("0",),
    "join_collapse_limit": ("1",),
    "from_collapse_limit": ("1",),
    "hnsw.ef_search": ("1",),
    "statement_timeout": ("30s",),
    "lock_timeout": ("1s",),
}
# These are about logs, statistics and the server's files, or are for those who debug the server.
LEFT_OUT = (
    "debug_|trace_|log_|jit_|wal_|track_|vacuum_|pg_stat|auto_explain|transaction_|.*password|allow_|client_min|default_toast|"
    "backtrace|update_process|ignore_|escape_string|createrole|event_triggers|compute_query|lo_compat|stats_|extension_"
)


class Undone(Exception):
    """Has a transaction rolled back."""


def round_trip(uow: UnitOfWork) -> dict[str, Any]:
    """What a few calls give that write and read text, times, numbers, arrays, JSON and vectors; without keys."""
    vectors = [[1.0, 1 / 3 * n, *[0.0] * 382] for n in range(4)]
    uow.documents.add_many(
        [{"content": WORDS, "title": f"{n}", "metadata_": {"n": 1e21 / 3, "w": WORDS}} for n in range(3)],
        embeddings=vectors[:3],
    )
    one = uow.documents.add(WORDS, title="3", metadata={"a": [None, WORDS]}, embedding=vectors[3])
    found = uow.documents.search(vectors[0], where=Document.metadata_["w"].astext == WORDS, limit=5)
    hybrid = uow.documents.hybrid_search("\u65e5\u672c", vectors[0], limit=5)
    task, created = uow.tasks.enqueue("ODD", {"words": WORDS}, task_id="odd", available_at=AT)
    (claimed,) = uow.tasks.claim(worker=WORDS, intents=["ODD"])
    uow.tasks.complete(claimed, [{"result_type": WORDS, "content": {"words": WORDS, "n": 0.1 + 0.2}}])
    bank = uow.memory_banks.get_or_create(WORDS)
    memory = uow.memories.remember(bank, WORDS, embedding=vectors[0], importance=3)
    recalled = uow.memories.recall(bank, vectors[0], limit=1)
    times = uow.session.execute(
        text(
            "SELECT CAST(:at AS timestamptz), CAST(:at AS timestamptz) - CAST(:zero AS timestamptz), CAST(:f AS float8)"
        ),
        {"at": AT, "zero": datetime(2000, 1, 1, tzinfo=UTC), "f": 0.1 + 0.2},
    ).one()
    array = text("SELECT to_jsonb(CAST(:given AS text[]))")
    read = select(Document).where(Document.id == one.id).execution_options(populate_existing=True)
    again = uow.session.scalars(read).one()
    return {
        "found": [(hit.row.title, hit.row.content, hit.row.metadata_, hit.distance) for hit in found.hits],
        "hybrid": [hit.row.title for hit in hybrid.hits],
        "document": (again.content, again.metadata_, again.created_at.utcoffset() is not None),
        "task": (
            created,
            task.content,
            (claimed.available_at - task.created_at) < timedelta(0),
            claimed.intent,
        ),
        "results": [(each.result_type, each.content) for each in uow.tasks.results(task.id)],
        "memory": (memory.outcome, [(hit.row.content, hit.distance) for hit in recalled]),
        "times": tuple(times),
        "array": uow.session.scalar(array, {"given": ["a", None, "NULL", WORDS]}),
    }


def rolled_back(database: Database) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with suppress(Undone), database.begin() as uow:
        found = round_trip(uow)
        raise Undone
    return found


@contextmanager
def administering(url: URL) -> Iterator[Callable[[str], Any]]:
    """Runs statements outside of any transaction."""
    utf8 = {"client_encoding": "utf8"}
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=utf8)
    with engine.connect() as connection:
        yield connection.exec_driver_sql


def odd_values(execute: Callable[[str], Any]) -> Iterator[tuple[str, str]]:
    """Each setting that a session may change, with each value that it does not have, where there are few."""
    execute("SELECT CAST('[1]' AS vector)")  # its settings are known from now on
    rows = execute(
        "SELECT name, vartype, reset_val, enumvals FROM pg_settings"
        " WHERE context IN ('user', 'superuser') ORDER BY name"
    ).all()
    for name, kind, value, choices in rows:
        if re.match(LEFT_OUT, name):
            continue
        if kind == "bool":
            yield name, "off" if value == "on" else "on"
        elif kind == "enum":
            yield from ((name, choice) for choice in choices if choice != value)
        else:
            yield from ((name, choice) for choice in ODD.get(name, ()))


def test_every_setting_of_a_session_changes_nothing_or_is_named(database_url: URL) -> None:
    named: set[str] = set()
    with administering(database_url) as execute, Database(database_url) as database:
        usual, tried = rolled_back(database), set[str]()
        for name, value in list(odd_values(execute)):
            tried.add(name)
            execute(f"ALTER DATABASE {database_url.database} SET {name} = {literal(name, value)}")
            database.engine.dispose()
            found: Any = None
            with suppress(AlfredDBError):
                found = rolled_back(database)
            if found is None:
                warnings = examine(database_url).warnings
                assert any(line.startswith(f"{name} is ") for line in warnings), (name, value, warnings)
                named.add(name)
            else:
                assert found == usual, (name, value)
            execute(f"ALTER DATABASE {database_url.database} RESET {name}")
    assert tried >= {*RELIED_ON, *ODD} - {"exit_on_error"}
    assert named == {"default_transaction_isolation", "default_transaction_read_only"}


def literal(name: str, value: str) -> str:
    """A value as SET takes it; a list of names is not one text."""
    return value if name == "search_path" else f"'{value}'"


NAMED = {
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "standard_conforming_strings": "off",
    "extra_float_digits": "-3",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "gin_fuzzy_search_limit": "5",
    "quote_all_identifiers": "on",
    "exit_on_error": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "synchronous_commit": "off",
    "session_replication_role": "replica",
    "row_security": "off",
    "statement_timeout": "500",
    "lock_timeout": "1s",
    "plan_cache_mode": "force_generic_plan",
    "enable_indexscan": "off",
    "enable_hashjoin": "off",
}


def test_the_doctor_names_a_setting_and_its_command_cures_it(database_url: URL) -> None:
    assert set(RELIED_ON) <= set(NAMED)

    def named() -> dict[str, str]:
        found = [line.partition(" is ") for line in examine(database_url).warnings if "SET" in line]
        return {name: line for name, _, line in found if name in NAMED}

    assert named() == {}
    with administering(database_url) as execute:
        for name, value in NAMED.items():
            execute(f"ALTER DATABASE {database_url.database} SET {name} = '{value}'")
        report = examine(database_url)
        assert (report.errors, report.exit_status) == ([], 1)
        lines = named()
        assert set(lines) == set(NAMED)
        assert all(
            line.startswith(NAMED[name]) or name in ("DateStyle", "lock_timeout")
            for name, line in lines.items()
        )
        execute("BEGIN READ WRITE")
        for line in lines.values():
            execute(line[line.index("ALTER ROLE") :].removesuffix(";"))
        execute("COMMIT")
        try:
            assert named() == {}
        finally:
            execute(f"ALTER ROLE CURRENT_USER IN DATABASE {database_url.database} RESET ALL")


def test_the_doctor_outlasts_the_limits_that_it_names(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(2)"))

    monkeypatch.setattr(doctor, "cluster", slow)
    with administering(database_url) as execute:
        execute(f"ALTER DATABASE {database_url.database} SET statement_timeout = '1s'")
    assert any(line.startswith("statement_timeout is 1000 ms") for line in examine(database_url).warnings)


def test_quoted_identifiers_are_no_drift(database_url: URL) -> None:
    with administering(database_url) as execute:
        execute(f"ALTER DATABASE {database_url.database} SET quote_all_identifiers = on")
    for schema in (None, "acme"):
        migrate.check(database_url, schema=schema)
        with Database(database_url, schema=schema) as database:
            database.verify()
        assert examine(database_url, schema).errors == []
    # On a connection of the caller's own nothing is set.
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW quote_all_identifiers")) == "on"
        verify(connection)


# The encoding of the client


@pytest.fixture(params=["database", "role", "environment", "options", "url"])
def latin(
    request: pytest.FixtureRequest, database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[URL]:
    """A database to which clients speak LATIN1 unless they say otherwise."""
    role = f"alfred_latin_{os.getpid()}"
    with administering(database_url) as execute:
        if request.param == "database":
            execute(f"ALTER DATABASE {database_url.database} SET client_encoding = 'LATIN1'")
        elif request.param == "role":
            execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
            execute(f"ALTER ROLE {role} SET client_encoding = 'LATIN1'")
            database_url = database_url.set(username=role)
        elif request.param == "environment":
            monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
        else:
            odd = (
                {"options": "-c client_encoding=latin1"}
                if request.param == "options"
                else {"client_encoding": "latin1"}
            )
            database_url = database_url.update_query_dict(odd)
        try:
            yield database_url
        finally:
            if request.param == "role":
                execute(f"DROP OWNED BY {role}")
                execute(f"DROP ROLE {role}")


async def test_text_is_utf8_even_if_another_encoding_is_asked_for(latin: URL) -> None:
    engine = create_engine(latin, poolclass=NullPool)
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW client_encoding")) == "LATIN1"
    rows = [{"content": WORDS, "title": "é"}, {"content": "é" * 5000, "title": WORDS}]
    with Database(latin) as database, database.begin() as uow:
        ids = uow.documents.add_many(rows)  # type: ignore[arg-type]
        assert uow.session.scalars(select(Document.content).where(Document.id.in_(ids))).all() == [
            WORDS,
            "é" * 5000,
        ]
        stored = text("SELECT octet_length(title) FROM documents WHERE id = :id")
        assert uow.session.scalar(stored, {"id": ids[0]}) == 2
    async with AsyncDatabase(latin) as other, other.begin() as work:
        ids = await work.documents.add_many(rows)  # type: ignore[arg-type]
        found = await work.documents.get(ids[0])
        assert found is not None
        assert (found.title, found.content) == ("é", WORDS)
    migrate.upgrade(latin, schema="beta")
    assert examine(latin).errors == []


def test_the_callers_own_engine_in_another_encoding_is_refused_a_bulk_write(database_url: URL) -> None:
    for encoding in ("latin1", "euc_jp", "win1252"):
        engine = create_engine(database_url, poolclass=NullPool, connect_args={"client_encoding": encoding})
        with Session(engine) as session, pytest.raises(ConfigurationError, match=r"client_encoding.*utf8"):
            DocumentRepository(session).add_many([{"content": "é"}])
    engine = create_engine(database_url, poolclass=NullPool, connect_args={"client_encoding": "latin1"})
    with Session(engine) as session:
        documents = DocumentRepository(session)
        assert documents.add("é").content == "é"
        with pytest.raises(ConfigurationError, match=r"client_encoding.*utf8"):
            documents.add("日本")


def test_the_callers_own_engine_in_another_date_style_is_an_error(database_url: URL) -> None:
    with Database(database_url) as database, database.begin() as uow:
        uow.documents.add("secret")
    engine = create_engine(database_url, poolclass=NullPool, connect_args={"options": "-c datestyle=German"})
    with (
        Session(engine) as session,
        pytest.raises(ConfigurationError, match="DateStyle 'German, DMY'; run SET"),
    ):
        DocumentRepository(session).list()


# Databases in another encoding


@pytest.fixture(scope="module", params=["LATIN1", "SQL_ASCII"])
def other_encoding(request: pytest.FixtureRequest, servers: Servers) -> Iterator[tuple[URL, str]]:
    url, name = parse_url(servers["embedded"]), f"alfred_{request.param.lower()}_{os.getpid()}"
    with administering(url) as execute:
        execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}' LOCALE_PROVIDER libc LOCALE 'C'"
        )
        try:
            yield url.set(database=name), request.param
        finally:
            execute(f"DROP DATABASE {name} WITH (FORCE)")


def in_one_sentence(said: str, encoding: str) -> bool:
    return bool(
        re.search(rf"its encoding is {encoding}, which cannot hold every text; .*ENCODING 'UTF8'", said)
    )


async def test_a_database_in_another_encoding_is_refused_by_the_library(
    other_encoding: tuple[URL, str],
) -> None:
    url, encoding = other_encoding
    for pooler in (None, "transaction"):
        with Database(url, pooler=pooler) as database:
            for door in (
                lambda: rolled_back(database),
                database.verify,
                database.upgrade,
                database.engine.connect,
            ):
                with pytest.raises(ConfigurationError) as caught:
                    door()
                assert in_one_sentence(str(caught.value), encoding)
        async with AsyncDatabase(url, pooler=pooler) as other:
            with pytest.raises(ConfigurationError) as caught:
                async with other.begin() as uow:
                    await uow.agents.list()
            assert in_one_sentence(str(caught.value), encoding)
            for wait in (other.verify, other.upgrade):
                with pytest.raises(ConfigurationError) as caught:
                    await wait()
                assert in_one_sentence(str(caught.value), encoding)
    for door in (lambda: migrate.downgrade(url, "base"), lambda: migrate.check(url)):
        with pytest.raises(ConfigurationError) as caught:
            door()
        assert in_one_sentence(str(caught.value), encoding)
    engine = create_engine(url, poolclass=NullPool, connect_args={"client_encoding": "utf8"})
    with engine.connect() as connection, pytest.raises(ConfigurationError) as caught:
        verify(connection)
    assert in_one_sentence(str(caught.value), encoding)
    with administering(url) as execute:
        assert execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'extensions'").scalar() == 0
        assert (
            execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").scalar() == 1
        )


def commands(
    group: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is given the URL of a database."""
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))
    elif any("--url" in parameter.opts for parameter in group.params):
        yield path, group


def test_a_database_in_another_encoding_is_refused_by_every_command(
    other_encoding: tuple[URL, str], tmp_path: Path
) -> None:
    url, encoding = other_encoding
    file = tmp_path / "file.json"
    file.write_text('{"providers": [{"code": "a", "name": "b"}]}')
    found, wrong = list(commands(main)), dict[str, str]()
    assert len(found) > 10
    for path, command in found:
        if path == ("import",):  # it reads the folder first
            continue
        given = [*path, "--url", url.render_as_string(hide_password=False)]
        for parameter in command.params:
            if parameter.required or (
                isinstance(parameter, click.Argument) and not isinstance(parameter.default, str)
            ):
                value = (
                    str(file)
                    if isinstance(parameter.type, click.Path | click.File)
                    else _value(parameter.type)
                )
                value = f"{__name__}:HANDLERS" if {"--app", "application"} & {*parameter.opts} else value
                value = "app=unknown" if "--role" in parameter.opts else value
                value = "documents.metadata.year" if parameter.name == "field" else value
                value = "acme" if path[0] == "tenants" else value
                value = f"{__name__}:embed" if "--embedder" in parameter.opts else value
                given += [value] if isinstance(parameter, click.Argument) else [parameter.opts[0], value]
        if any("--yes" in parameter.opts for parameter in command.params):
            given.append("--yes")
        if path[-1] == "init":  # knows no database without it
            given += ["--dimensions", "documents=8", "--model", "m"]
        needed: dict[tuple[str, ...], list[str]] = {
            ("schedule", "add"): ["--task", "NONE"],
            ("tenants", "move"): ["--abort"],
            ("vectors", "advise"): ["--table", "documents"],
        }
        given += needed.get(path, [])
        done = CliRunner().invoke(main, given)
        if done.exit_code != 2 or not in_one_sentence(done.output, encoding) or "Traceback" in done.output:
            wrong[" ".join(path)] = f"{done.exit_code}: {done.output} {done.exception}"
    assert not wrong, "\n".join(f"{name}: {said}" for name, said in wrong.items())


HANDLERS = {"NONE": lambda task, lease: None}


def embed(texts: Sequence[str]) -> list[list[float]]:
    return [[1.0] for _ in texts]


def _value(kind: click.ParamType) -> str:
    if isinstance(kind, click.Choice):
        return str(kind.choices[0])
    return (
        "1" if isinstance(kind, click.types.IntParamType | click.types.FloatParamType) else str(uuid.uuid4())
    )


# Behind a transaction pooler nothing can be set but what the pooler keeps for each client


async def test_a_transaction_pooler_keeps_the_date_style_of_each_client(database_url: URL) -> None:
    with administering(database_url) as execute:
        execute(f"ALTER DATABASE {database_url.database} SET datestyle = 'German, DMY'")
        execute(f"ALTER DATABASE {database_url.database} SET client_encoding = 'LATIN1'")
        execute(f"ALTER DATABASE {database_url.database} SET standard_conforming_strings = off")
    with pgbouncer(database_url) as url:
        with Database(url, pooler="transaction") as database, Database(database_url) as direct:
            assert rolled_back(database) == rolled_back(direct)
        async with AsyncDatabase(url, pooler="transaction") as other, other.begin() as uow:
            assert (await uow.documents.add(WORDS)).created_at.tzinfo is not None
        # Another client finds the server's sessions as they were.
        engine = create_engine(url, poolclass=NullPool, connect_args={"prepare_threshold": None})
        with engine.connect() as connection:
            assert connection.scalar(text("SHOW datestyle")) == "German, DMY"
            assert connection.scalar(text("SHOW client_encoding")) == "LATIN1"


@pytest.mark.parametrize(("name", "value"), [("array_nulls", "off"), ("extra_float_digits", "0")])
async def test_what_cannot_be_set_behind_a_transaction_pooler_is_refused(
    database_url: URL, name: str, value: str
) -> None:
    with administering(database_url) as execute:
        execute(f"ALTER DATABASE {database_url.database} SET {name} = {value}")
    with pgbouncer(database_url) as url:
        with (
            Database(url, pooler="transaction") as database,
            pytest.raises(ConfigurationError, match=f"{name}: .*doctor"),
        ):
            rolled_back(database)
        async with AsyncDatabase(url, pooler="transaction") as other:
            with pytest.raises(ConfigurationError, match=f"{name}: .*doctor"):
                async with other.begin() as uow:
                    await uow.agents.list()


def test_a_new_connection_costs_one_round_trip(migrated_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    execute = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        assert self.connection.autocommit
        ran.append(str(query))
        return execute(self, query, *arguments, **options)

    with Database(migrated_url) as database:
        database.engine.connect().close()  # SQLAlchemy asks the first one what the server is
        database.engine.dispose()
        monkeypatch.setattr(psycopg.Cursor, "execute", counted)
        connection = database.engine.raw_connection()
        assert len(ran) == 1
        assert not connection.driver_connection.autocommit  # type: ignore[union-attr]
        connection.close()
