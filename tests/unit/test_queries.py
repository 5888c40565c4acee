"""Every statement of `alfred_db.queries`, held to what Citus and the rules of the library allow."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import (
    ARRAY,
    Text,
    all_,
    bindparam,
    case,
    cast,
    column,
    delete,
    extract,
    insert,
    literal,
    literal_column,
    select,
    table,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql import ClauseElement
from unit.examples import Call, Name
from unit.rules import DIALECT, violations

from alfred_db import Agent, Base, Memory, Task, execution, queries, repositories
from alfred_db.models.base import table_of
from alfred_db.queries.shapes.driver_statement import DriverStatement
from alfred_db.queries.shapes.functions import func

PREFIX = f"{queries.__name__}."
NOUNS = {
    module.name.removeprefix(PREFIX): importlib.import_module(module.name)
    for module in pkgutil.walk_packages(queries.__path__, PREFIX)
    if not module.ispkg
}
"""The modules of `alfred_db.queries`; what one in `shapes` holds may be a part of a statement only."""


def _is_function(item: object) -> bool:
    """A function, or one in a cache."""
    return inspect.isfunction(inspect.unwrap(item)) if callable(item) else False


def public_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {
        name: function
        for name, function in inspect.getmembers(module, _is_function)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


def examples_of(noun: str) -> dict[str, list[Call]]:
    try:
        found: dict[str, list[Call]] = importlib.import_module(f"unit.examples.{noun}").EXAMPLES
    except ModuleNotFoundError:
        return {}
    return found


CALLS = [
    pytest.param(function, example, id=f"{noun}.{name}-{number}")
    for noun, module in NOUNS.items()
    for name, function in public_functions(module).items()
    for number, example in enumerate(examples_of(noun).get(name, []))
]


def statements_in(result: Any) -> Iterator[Any]:
    """The statements that a function returns: one, or several in a sequence or a mapping."""
    if isinstance(result, DriverStatement):
        yield from statements_in(result.built)
    elif isinstance(result, ClauseElement):
        yield result if result.supports_execution else select(result)  # type: ignore[call-overload]
    elif isinstance(result, str):
        yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from statements_in(value)
    elif isinstance(result, list | tuple):
        for value in result:
            yield from statements_in(value)


def values_in(argument: Any) -> Iterator[str]:
    """The texts that would betray an argument which was written into a statement."""
    if isinstance(argument, Enum | Name | bool) or argument is None:
        return
    if isinstance(argument, str):
        yield from [argument] if len(argument) > 2 else []
    elif isinstance(argument, uuid.UUID):
        yield from (str(argument), argument.hex)
    elif isinstance(argument, int | float):
        yield from [str(argument)] if abs(argument) >= 100 else []
    elif isinstance(argument, datetime | timedelta):
        yield str(argument)
    elif isinstance(argument, Mapping):
        for part in (*argument.keys(), *argument.values()):
            yield from values_in(part)
    elif isinstance(argument, list | tuple | set | frozenset):
        for part in argument:
            yield from values_in(part)


def test_every_module_is_entered() -> None:
    folder = Path(queries.__path__[0])
    files = {path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py")}
    assert {".".join(path.parts) for path in files if path.name != "__init__"} == set(NOUNS)


@pytest.mark.parametrize("noun", NOUNS)
def test_every_public_function_has_an_example(noun: str) -> None:
    functions, examples = public_functions(NOUNS[noun]), examples_of(noun)
    without = [name for name in functions if not examples.get(name) and not noun.startswith("shapes.")]
    assert not without, f"add them to EXAMPLES in tests/unit/examples/{noun}.py"
    assert sorted(examples.keys() - functions.keys()) == [], "examples of functions that are gone"


@pytest.mark.parametrize(("function", "example"), CALLS)
def test_a_statement_keeps_the_rules(function: Callable[..., Any], example: Call) -> None:
    statements = list(statements_in(function(*example.args, **example.kwargs)))
    assert statements, "returns no statement: name it with a leading underscore"
    for statement in statements:
        assert violations(statement) == []


@pytest.mark.parametrize(("function", "example"), CALLS)
def test_a_statement_binds_its_arguments(function: Callable[..., Any], example: Call) -> None:
    names = {name for table in Base.metadata.tables.values() for name in (column.name for column in table.c)}
    names |= {f"{name}_" for name in names}
    given = [value for value in values_in([*example.args, *example.kwargs.values()]) if value not in names]
    for statement in statements_in(function(*example.args, **example.kwargs)):
        sql = str(statement if isinstance(statement, str) else statement.compile(dialect=DIALECT))
        # A limit is checked to be a small number and then written: the planner wants to see it.
        sql = re.sub(r"\bLIMIT \d+\b", "LIMIT", sql)
        assert [value for value in given if value in sql] == []


@pytest.mark.parametrize(("function", "example"), CALLS)
def test_a_statement_is_cached_and_the_same_each_time(function: Callable[..., Any], example: Call) -> None:
    for first, second in zip(
        statements_in(function(*example.args, **example.kwargs)),
        statements_in(function(*example.args, **example.kwargs)),
        strict=True,
    ):
        if not isinstance(first, str):
            key = first._generate_cache_key()
            assert key is not None or "VALUES" in str(first), "it is compiled anew in each call"
            assert key is None or key == second._generate_cache_key()


def test_a_query_function_neither_awaits_nor_takes_a_session() -> None:
    for module in NOUNS.values():
        for name, function in public_functions(module).items():
            assert not inspect.iscoroutinefunction(function), name
            assert "session" not in inspect.signature(function).parameters, name
            assert "return" in inspect.unwrap(function).__annotations__, name


def _counted_calls(file: Path) -> Iterator[str]:
    """The query functions whose statement is run for the number of its rows."""
    tree = ast.parse(file.read_text())
    ignored = {
        node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Await)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or call in ignored:
            continue
        if ast.unparse(call.func).rpartition(".")[2] not in ("affected", "_affected"):
            continue
        for argument in call.args:
            if isinstance(argument, ast.Call):
                yield ast.unparse(argument.func).rpartition(".")[2]


def test_the_rows_of_an_insert_are_counted_by_what_it_returns() -> None:
    """Citus says of INSERT ... SELECT ... ON CONFLICT that all rows of the SELECT were written."""
    inserts = {
        name
        for module in NOUNS.values()
        for name, function in public_functions(module).items()
        if re.search(r"\bInsert\b", str(inspect.unwrap(function).__annotations__.get("return")))
    }
    assert "merge" in inserts
    files = [
        *Path(repositories.__path__[0]).glob("_async/*.py"),
        *Path(execution.__path__[0]).glob("_async/*.py"),
    ]
    counted = {name: file.name for file in files for name in _counted_calls(file)}
    assert "touch" in counted
    assert not counted.keys() & inserts, counted


# The checker itself

STALE = select(Agent.id).where(Agent.last_heartbeat < func.clock_timestamp()).cte("stale")
ROW = upsert(Agent).values(name="a", type="t", version="1", last_heartbeat=func.now())


def on_conflict(**values: Any) -> Any:
    return ROW.on_conflict_do_update(index_elements=["name"], set_=values)


COPIED = select(Agent.name, Agent.type)
BEFORE = COPIED.cte("before").prefix_with("MATERIALIZED")
TYPED = select(Agent.type).join(Task, true()).cte("typed").prefix_with("MATERIALIZED")


def into(rows: Any) -> Any:
    return upsert(table_of(Agent)).from_select(["name", "type"], rows)


ADDED = insert(Agent).values(name="a", type="t", version="1").returning(Agent.id).cte("added")

BAD = {
    "agent_registry: read after an INSERT in a CTE": union_all(
        select(ADDED.c.id), select(Agent.id).where(Agent.name == "a")
    ),
    "agent_registry: read after an INSERT in a CTE ": update(Agent)
    .where(Agent.id != select(ADDED.c.id).scalar_subquery())
    .values(version="2"),
    "SET: volatile clock_timestamp": update(Agent).values(last_heartbeat=func.clock_timestamp()),
    "SET: volatile gen_random_uuid": update(Agent).values(incarnation=func.gen_random_uuid()),
    "SET: volatile uuid_generate_v4": update(Agent).values(
        incarnation=sqlalchemy.func.extensions.uuid_generate_v4()
    ),
    "SET: volatile random": update(Memory).values(importance=1 + func.random()),
    "SET: volatile nextval": update(Memory).values(id=func.nextval("s")),
    "WHERE: volatile clock_timestamp": delete(Agent).where(Agent.last_heartbeat < func.clock_timestamp()),
    "SET: stable time plus": update(Agent).values(last_heartbeat=Agent.last_heartbeat + timedelta(seconds=1)),
    "WHERE: stable time plus": delete(Agent).where(Agent.last_heartbeat + timedelta(seconds=1) < func.now()),
    "over a column": update(Agent).values(
        last_heartbeat=func.now() + func.make_interval(0, 0, 0, 0, 0, 0, Task.priority)
    ),
    "stable concat over a column": update(Agent).values(version=func.concat(Agent.version, "x")),
    "stable to_jsonb over a column": update(Agent).values(configuration=func.to_jsonb(Agent.version)),
    "stable date_trunc over a column": delete(Agent).where(
        func.date_trunc("day", Agent.last_heartbeat) < func.now()
    ),
    "stable extract over a column": delete(Agent).where(extract("epoch", Agent.last_heartbeat) < 1),
    "stable cast to TEXT over a column": update(Agent).values(version=cast(Agent.last_heartbeat, Text)),
    "COALESCE or CASE: stable now": update(Agent).values(
        last_heartbeat=func.coalesce(Agent.last_heartbeat, func.now())
    ),
    "COALESCE or CASE: stable statement_timestamp": update(Agent).values(
        last_heartbeat=case((Agent.version == "1", func.statement_timestamp()), else_=Agent.last_heartbeat)
    ),
    "SET: volatile random ": update(Agent).values({"version": text("random()::text")}),
    "SET: volatile clock_timestamp ": update(Agent).values(
        last_heartbeat=literal_column("clock_timestamp()")
    ),
    "ON CONFLICT: stable now": on_conflict(updated_at=func.now()),
    "ON CONFLICT: stable time plus": on_conflict(
        last_heartbeat=ROW.excluded.last_heartbeat + timedelta(seconds=1)
    ),
    "ON CONFLICT: stable now ": ROW.on_conflict_do_update(
        index_elements=["name"], set_={"version": "2"}, where=Agent.last_heartbeat < func.now()
    ),
    "ON CONFLICT: a sub-select": on_conflict(version=select(func.max(Agent.version)).scalar_subquery()),
    "RETURNING: stable now": update(Agent).values(version="2").returning(Agent.id, func.now()),
    "RETURNING: stable jsonb_build_object": delete(Agent).returning(func.jsonb_build_object("id", Agent.id)),
    "RETURNING: stable cast": delete(Agent).returning(cast(Agent.registered_at, Text)),
    "RETURNING: stable time plus": delete(Agent).returning(Agent.registered_at + timedelta(seconds=1)),
    "RETURNING: stable statement_timestamp": insert(Agent).returning(func.statement_timestamp()),
    "INSERT VALUES: a sub-select": insert(Agent).values(name=select(func.max(Agent.name)).scalar_subquery()),
    "TABLESAMPLE: the percentage is no literal": select(func.count()).select_from(
        table_of(Agent).tablesample(func.system(4.2))
    ),
    "TABLESAMPLE: the percentage is no literal ": select(func.count()).select_from(
        table_of(Agent).tablesample(func.bernoulli(select(literal_column("1")).scalar_subquery()))
    ),
    "a lock at its top": into(select(Agent.name, Agent.type).with_for_update(read=True)),
    "a lock at its top ": select(into(COPIED.with_for_update()).returning(Agent.id).cte("copied")),
    "say VALUES": into(select(literal("a"), literal("b"))),
    "now beside a CTE": into(select(BEFORE.c.name, func.now())),
    "now beside a CTE ": into(select(BEFORE.c.name, BEFORE.c.type).where(func.now() > bindparam("time"))),
    "the default of id": into(COPIED),
    "is not read in a materialized CTE": into(select(*COPIED.subquery("copied").c)),
    "is not read in a materialized CTE ": into(select(*COPIED.cte("copied").c)),
    "with now": into(COPIED.where(Agent.last_heartbeat < func.now())),
    "JOIN: no column": select(Agent.id, Task.id).join(Task, Task.intent == "x"),
    "JOIN: no column ": into(select(BEFORE.c.name, TYPED.c.type).join_from(BEFORE, TYPED, true())),
    "set_config": select(func.set_config("hnsw.ef_search", "40", True)),
    "pg_notify is no statement of its own": select(func.pg_notify("c", Agent.name)),
    "pg_try_advisory_lock is no statement": select(Agent.id).where(func.pg_try_advisory_lock(1)),
    "SET: volatile clock_timestamp  ": select(
        update(Agent).values(last_heartbeat=func.clock_timestamp()).returning(Agent.id).cte("touched")
    ),
    "`*`": select(literal_column("*")).select_from(Agent),
    "`*` ": text("SELECT a.* FROM agent_registry a"),
    "`*`  ": "DELETE FROM agent_registry RETURNING *",
    "MERGE": text("MERGE INTO agent_registry USING x ON true WHEN MATCHED THEN DELETE"),
    "text: volatile gen_random_uuid": text("UPDATE agent_registry SET incarnation = gen_random_uuid()"),
    "text: stable to_char with": "UPDATE agent_registry SET version = to_char(updated_at, 'YYYY')",
    "text: now inside COALESCE": "UPDATE t SET seen = coalesce(seen, now())",
    "text: set_config": "SELECT set_config('a.b', 'c', true)",
    "text: pg_notify": "WITH x AS (UPDATE t SET a = 1) SELECT pg_notify('c', '')",
    "shout is not classified": select(func.shout(Agent.name)),
    "is written into the statement": select(Agent.id).where(
        Agent.name == bindparam("name", "x", literal_execute=True)
    ),
}

GOOD = {
    "what is read before an INSERT in a CTE": select(
        insert(Agent)
        .from_select(["name", "type"], select(BEFORE.c.name, BEFORE.c.type), include_defaults=False)
        .returning(Agent.id)
        .cte("added")
    ).add_cte(BEFORE),
    "a time less a bound interval": delete(Agent).where(
        Agent.last_heartbeat < func.now() - timedelta(seconds=60)
    ),
    "the greater of two times": update(Agent).values(
        last_heartbeat=func.greatest(Agent.last_heartbeat, func.now())
    ),
    "a column and one": update(Memory).values(access_count=Memory.access_count + 1),
    "a JSON path": update(Agent).values(configuration=Agent.configuration.op("||")(cast({"a": 1}, JSONB))),
    "what is excluded": on_conflict(updated_at=ROW.excluded.updated_at, version=ROW.excluded.version),
    "whether it was inserted": on_conflict(version="2").returning(Agent.id, literal_column("xmax = 0")),
    "a vector": insert(Memory).returning(Memory.id, Memory.embedding),
    "any value of an array": delete(Agent).where(Agent.name == all_(cast(["a"], ARRAY(Text)))),
    "a random token in the SELECT of a CTE": update(Agent)
    .where(Agent.id == STALE.c.id)
    .values(version="2")
    .returning(Agent.id),
    "a stable function over a column in a sub-select": delete(Agent).where(
        Agent.id.in_(select(Agent.id).where(func.date_trunc("day", Agent.last_heartbeat) < func.now()))
    ),
    "a volatile function in VALUES": insert(Agent).values(name="a", incarnation=func.gen_random_uuid()),
    "a notification of its own": select(func.pg_notify("c", "")),
    "an advisory lock of its own": text("SELECT pg_catalog.pg_try_advisory_xact_lock(:key)"),
    "COALESCE of columns": update(Agent).values(version=func.coalesce(Agent.endpoint_url, "none")),
    "a count": select(func.count()).select_from(Agent),
    "a product": update(Memory).values(importance=Memory.importance * 2),
    "rows of a materialized CTE": into(select(BEFORE.c.name, BEFORE.c.type)),
    "a lock in a materialized CTE": into(
        select(*COPIED.with_for_update(key_share=True).cte("held").prefix_with("MATERIALIZED").c)
    ),
    "a function over an array": into(
        select(func.unnest(literal(["a"], ARRAY(Text))).column_valued("name"), cast(func.now(), Text))
    ),
    "the percentage of a sample as a literal": select(func.count()).select_from(
        table_of(Agent).tablesample(func.system(literal_column("4.2")))
    ),
    "rows of a temporary table": into(
        select(*table("stage", column("name"), column("type"), schema="pg_temp").c)
    ),
    "settings": "SET LOCAL hnsw.ef_search = 40",
    "COPY": "COPY memories (content, embedding) FROM STDIN (FORMAT binary)",
}


@pytest.mark.parametrize("says", BAD)
def test_the_checker_refuses(says: str) -> None:
    found = violations(BAD[says])
    assert any(says.strip() in violation for violation in found), found


@pytest.mark.parametrize("name", GOOD)
def test_the_checker_allows(name: str) -> None:
    assert violations(GOOD[name]) == []
