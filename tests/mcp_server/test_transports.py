"""Every tool over stdio and over HTTP, by the client of the SDK and a process of the command.

The server has an empty database at first, then does a piece of work with each tool. In the same database is a tenant
whose ids begin at a million.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_remote import Remote, client_of, http_server, stdio
from mcp_work import READS, WORK, differs, moved, prepared
from sqlalchemy import URL, NullPool, create_engine, text

from alfred_db import Database

PINNED = json.loads((Path(__file__).parent / "tools.json").read_text())
SCHEMAS: dict[str, Any] = {tool["name"]: tool["input_schema"] for tool in PINNED["tools"]}
NAMES = sorted(SCHEMAS)
SECRET = "secret-of-acme"
AWAY = 1_000_000

VECTORS = """
def embed(texts):
    return [[float(ord(text[:1].lower() or "a") % 7 == place % 7) + 0.01 for place in range(384)] for text in texts]
"""


@dataclass
class Served:
    """A server, and what its tools have returned so far."""

    url: URL
    remote: Remote
    listed: Any
    empty: dict[str, tuple[bool, str]]
    done: list[tuple[str, Any, Any]]
    failed: str
    """The task of this tenant that has failed."""
    foreign: str
    """The one of the other tenant."""


@pytest.fixture(scope="module", params=["stdio", "http"])
def served(
    request: pytest.FixtureRequest,
    template: URL,
    new_database: Callable[..., URL],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    url, folder = new_database(template.database), tmp_path_factory.mktemp("server")
    (folder / "vectors.py").write_text(VECTORS)
    with ExitStack() as stack:
        if request.param == "stdio":
            remote = Remote(Client(stdio(url, folder, "--embedder", "vectors:embed")))
        else:
            server = http_server(url, "--embedder", "vectors:embed", folder=folder)
            remote = Remote(client_of(stack.enter_context(server)[1]))
        stack.callback(remote.close)
        listed = remote.wait(remote.client.list_tools()).tools
        empty = {
            name: remote.said(name, **prepared(arguments, str(_failed_id(0))))
            for name, arguments, _ in reversed(WORK)
            if name.startswith(READS)
        }
        failed, foreign = _fail_task(url, None), _other_tenant(url)
        done = []
        for name, arguments, wanted in WORK:
            done.append((name, wanted, remote.call(name, **prepared(arguments, failed))))
        yield Served(url, remote, listed, empty, done, failed, foreign)


def _failed_id(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


def _fail_task(url: URL, schema: str | None) -> str:
    with Database(url, schema=schema) as database, database.begin() as uow:
        uow.tasks.enqueue("WORK", {}, task_id="failed", max_retries=0)
        (task,) = uow.tasks.claim(worker="w")
        uow.tasks.fail(task, f"no reason {SECRET if schema else ''}", retry=False)
        return str(task.id)


def _other_tenant(url: URL) -> str:
    """Fill the tenant acme; returns its failed task."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        for (name,) in connection.execute(
            text("SELECT sequencename FROM pg_sequences WHERE schemaname = 'acme'")
        ):
            connection.execute(text(f'ALTER SEQUENCE acme."{name}" RESTART {AWAY + 1}'))
    failed = _fail_task(url, "acme")
    with Database(url, schema="acme") as database, database.begin() as uow:
        document = uow.documents.add(SECRET, title=SECRET, external_id=SECRET)
        for bank in ("default", SECRET):
            uow.memories.remember(uow.memory_banks.get_or_create(bank), SECRET)
        for session in ("c", SECRET):
            uow.conversations.append(session, "user", SECRET)
        suite = uow.validation.create_suite(SECRET)
        case = uow.validation.add_case(suite.id, SECRET)
        run = uow.validation.start_run(suite.id)
        uow.validation.record(case.id, SECRET, 1, run_id=run.id)
        schedule, _ = uow.scheduler.create(SECRET, SECRET, "0 3 * * *", schedule_key=SECRET)
        uow.scheduler.trigger(schedule.id)
        question = uow.rag.record(uow.rag.open("s"), SECRET)
        assert {document.id, suite.id, case.id, run.id, schedule.id, question.id} == {AWAY + 1}
    return failed


def _contents(url: URL) -> Any:
    """What the tenant acme has, row by row."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        names = connection.scalars(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'acme' ORDER BY 1")
        )
        return [
            connection.execute(
                text(
                    f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM acme.\"{name}\" AS t"
                )
            ).one()
            for name in names.all()
        ]


def test_all_tools_are_called(served: Served) -> None:
    assert {name for name, _, _ in served.done} == {tool.name for tool in served.listed} == set(NAMES)
    listed = {tool.name: tool.model_dump(mode="json", exclude_none=True) for tool in served.listed}
    assert listed == {tool["name"]: tool for tool in PINNED["tools"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_returns_what_is_right(served: Served, name: str) -> None:
    for called, wanted, found in served.done:
        if called == name:
            assert differs(wanted, found, name) == ""


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(READS)])
def test_a_tool_finds_nothing_in_an_empty_database(served: Served, name: str) -> None:
    failed, said = served.empty[name]
    if name in ("list_tables", "describe_table"):
        assert not failed
    elif failed:
        assert "not found" in said
    else:
        found = json.loads(said)
        assert [value for value in found.values() if isinstance(value, list)] == [[]]
        assert not found.get("next")


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_names_the_argument_that_is_wrong(served: Served, name: str) -> None:
    schema = SCHEMAS[name]
    right = next(prepared(given, served.failed) for known, given, _ in WORK if known == name)
    for argument, kinds in schema.get("properties", {}).items():
        for value in _wrong(kinds):
            said = served.remote.refused(name, **{**right, argument: value})
            assert argument in said, (argument, value)
            assert len(said) < 1_500
        if argument in schema.get("required", []):
            rest = {known: value for known, value in right.items() if known != argument}
            assert argument in served.remote.refused(name, **rest)


def _wrong(schema: Any) -> Iterator[Any]:
    """Values that a schema does not allow: of another type, and beyond its limits."""
    kinds = schema.get("anyOf", [schema])
    types = {kind["type"] for kind in kinds}
    yield 17.5 if "object" in types else {"not": ["right"]}
    if "null" not in types:
        yield None
    for kind in kinds:
        if kind["type"] == "integer":
            yield kind["minimum"] - 1
            yield 2**70
        if "exclusiveMaximum" in kind:
            yield kind["exclusiveMaximum"]
        if kind.get("maxLength", 10**9) <= 10_000:
            yield "x" * (kind["maxLength"] + 1)
        if kind.get("minLength"):
            yield ""
        if "enum" in kind or kind.get("format"):
            yield "neither"
        if kind["type"] == "array":
            yield []
            yield [0]


def test_a_tool_sees_and_changes_nothing_of_another_tenant(served: Served) -> None:
    before = _contents(served.url)
    for name, given, _ in WORK:
        own = prepared(given, served.failed)
        theirs = moved(given, served.foreign, AWAY)
        failed, said = served.remote.said(name, **theirs)
        assert SECRET not in said, name
        if theirs != own:
            assert failed is (name != "touch_memory"), (name, said)
            assert "not found" in said or "does not exist" in said or json.loads(said) == {"touched": 0}
    for name in ("search_documents", "search_memories", "search_messages", "generate_context"):
        assert SECRET not in json.dumps(served.remote.call(name, query="secret of acme"))
    assert "not found" in served.remote.refused("search_memories", query="x", bank=SECRET)
    assert "not found" in served.remote.refused("list_memories", bank=SECRET)
    assert served.remote.call("history", session_id=SECRET)["messages"] == []
    for sql in ("SELECT * FROM acme.documents", "TABLE acme.tasks", "SELECT 1 FROM documents, acme.memories"):
        assert "acme." in served.remote.refused("query", sql=sql)
        assert "acme." in served.remote.refused("export_data", sql=sql)
    assert "not found" in served.remote.refused("describe_table", name="acme.documents")
    created = served.remote.call("create_schedule", name="x", command="x", schedule_key=SECRET)
    assert created["outcome"] == "created"
    assert served.remote.call("add_document", content="x", external_id=SECRET)["id"] < AWAY
    assert _contents(served.url) == before
