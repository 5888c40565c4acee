"""Hostile values in every text and JSONB parameter: stored as they are or refused, never executed.

To add a repository, add its calls to CALLS: each takes a unit of work and the value, says which tables gain a row,
and gives what was stored.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text

from alfred_db import TestCaseStatus
from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.auth import AsyncUserRepository
from alfred_db.repositories._async.entities import AsyncEntityRepository
from alfred_db.repositories._async.storage import AsyncStorageRepository
from alfred_db.repositories._async.validation import AsyncValidationRepository

HOSTILE = {
    "quotes": """'); DROP TABLE agent_registry; -- " ' '' \\' $$ $1 """,
    "semicolon": "x'; DELETE FROM entity.entity_node; COMMIT; --",
    "percent": "%s %(name)s %% %d 100% %",
    "colons": ":name ::text a::jsonb :1 ::",
    "braces": "{0} {name} {{}} ${x} #{y}",
    "like": "%_\\%[a-z]*?",
    "backslashes": "\\ \\\\ \\n \\x00 \\u0000 E'\\''",
    "unicode": "żółć 日本語 🦉 \u202e\u200b\ufeff ﷽ a\u0301 \U0010ffff",
    "controls": "a\tb\nc\rd\x01\x1b\x7f\u0085\u2028",
    "comment": "/* -- */ # \n-- x",
    "json": '{"a": [1, null], "b": "\\u0027"}',
    "empty": "",
    "nul": "a\x00b",
    "surrogate": "a\ud800b",
    "megabyte": "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(350_000)),
}


@dataclass(frozen=True)
class Call:
    """One call with the hostile value, and what it may change."""

    run: Callable[[AsyncUnitOfWork, Any], Awaitable[Any]]
    gains: tuple[str, ...] = ()
    """Tables that gain a row when the value is stored."""


# What the calls need, made before the tables are counted.


@dataclass
class Ground:
    """The rows that the calls refer to."""

    agent: uuid.UUID
    incarnation: uuid.UUID
    suite: int
    case: int
    node: uuid.UUID
    other: uuid.UUID


async def ground(uow: AsyncUnitOfWork) -> Ground:
    agent = await uow.agents.register("ground", type="t", version="1")
    validation, entities = AsyncValidationRepository(uow.session), AsyncEntityRepository(uow.session)
    suite = await validation.create_suite("ground")
    case = await validation.add_case(suite.id, "ground")
    node, other = await entities.upsert_node("t", "a"), await entities.upsert_node("t", "b")
    storage = AsyncStorageRepository(uow.session)
    await storage.create_bucket("ground")
    await storage.put("ground", "moved")
    return Ground(agent.id, agent.incarnation, suite.id, case.id, node.id, other.id)


async def register_name(uow: AsyncUnitOfWork, value: Any) -> Any:
    return (await uow.agents.register(value, type="t", version="1")).name


async def register_texts(uow: AsyncUnitOfWork, value: Any) -> Any:
    agent = await uow.agents.register(
        "x", type=value, version=value, endpoint_url=value, health_check_url=value
    )
    return agent.type, agent.version, agent.endpoint_url, agent.health_check_url


async def register_json(uow: AsyncUnitOfWork, value: Any) -> Any:
    agent = await uow.agents.register("x", type="t", version="1", configuration={value: [value]})
    return next(iter(agent.configuration.items()))


async def register_capabilities(uow: AsyncUnitOfWork, value: Any) -> Any:
    agent = await uow.agents.register("x", type="t", version="1", capabilities=[value])
    found = await uow.agents.find_by_capability(value)
    assert [one.id for one in found] == [agent.id]
    return agent.capabilities


async def read_agents(uow: AsyncUnitOfWork, value: Any) -> Any:
    assert await uow.agents.get_by_name(value) is None
    assert not await uow.agents.list_alive(type=value)
    assert not await uow.agents.find_by_capability(value, value)


async def cursor_of_agents(uow: AsyncUnitOfWork, value: Any) -> Any:
    with pytest.raises(InvalidInputError):
        await uow.agents.list(after=value)


async def node_key(uow: AsyncUnitOfWork, value: Any) -> Any:
    node = await AsyncEntityRepository(uow.session).upsert_node(value, value)
    assert await AsyncEntityRepository(uow.session).find_node(value, value) is node
    return node.node_type, node.key


async def node_texts(uow: AsyncUnitOfWork, value: Any) -> Any:
    node = await AsyncEntityRepository(uow.session).upsert_node("x", "x", name=value, description=value)
    return node.name, node.description


async def node_json(uow: AsyncUnitOfWork, value: Any) -> Any:
    entities = AsyncEntityRepository(uow.session)
    node = await entities.upsert_node("x", "x", properties={value: {"in": [value]}})
    assert [found.id for found in await entities.list_nodes(properties=node.properties)] == [node.id]
    ((key, inner),) = node.properties.items()
    return key, inner["in"][0]


async def edge_texts(uow: AsyncUnitOfWork, value: Any) -> Any:
    entities = AsyncEntityRepository(uow.session)
    node, other = await entities.find_node("t", "a"), await entities.find_node("t", "b")
    assert node is not None
    assert other is not None
    edge = await entities.upsert_edge(node.id, other.id, value, properties={value: value})
    (near,) = await entities.neighbours(node.id, edge_types=[value])
    path = await entities.shortest_path(node.id, other.id, edge_types=[value])
    assert path is not None
    assert len(await entities.history(node.id, other.id, value)) == 1
    graph = await entities.subgraph([node.id], edge_types=[value])
    (fact,) = await entities.facts(node.id, edge_types=[value])
    stored = next(iter(edge.properties.items()))
    return near.edge_type, path.edges[0].edge_type, graph.edges[0].edge_type, fact.edge_type, *stored


async def read_nodes(uow: AsyncUnitOfWork, value: Any) -> Any:
    entities = AsyncEntityRepository(uow.session)
    assert await entities.find_node(value, value) is None
    assert len(await entities.list_nodes(node_type=value, properties={value: value})) == 0
    with pytest.raises(InvalidInputError):
        await entities.neighbours(uuid.uuid4(), direction=value)
    with pytest.raises(InvalidInputError):
        await entities.list_nodes(after=value)


async def suite_texts(uow: AsyncUnitOfWork, value: Any) -> Any:
    suite = await AsyncValidationRepository(uow.session).create_suite(value, description=value)
    return suite.name, suite.description


async def case_texts(uow: AsyncUnitOfWork, value: Any) -> Any:
    validation = AsyncValidationRepository(uow.session)
    suite = (await validation.list_suites()).items[0]
    case = await validation.add_case(suite.id, value, description=value)
    done = await validation.finish_case(case.id, TestCaseStatus.PASSED, result=value)
    return done.name, done.description, done.result


async def run_json(uow: AsyncUnitOfWork, value: Any) -> Any:
    validation = AsyncValidationRepository(uow.session)
    suite = (await validation.list_suites()).items[0]
    return next(iter((await validation.start_run(suite.id, metadata={value: value})).metadata_.items()))


async def metric(uow: AsyncUnitOfWork, value: Any) -> Any:
    validation = AsyncValidationRepository(uow.session)
    suite = (await validation.list_suites()).items[0]
    case = (await validation.list_cases(suite.id)).items[0]
    result = await validation.record(case.id, value, 1)
    assert [found.id for found in await validation.trend(case.id, value)] == [result.id]
    return result.metric_name


async def read_users(uow: AsyncUnitOfWork, value: Any) -> Any:
    users = AsyncUserRepository(uow.session)
    assert await users.get_by_email(value) is None
    with pytest.raises(InvalidInputError):
        await users.list(after=value)


async def bucket_texts(uow: AsyncUnitOfWork, value: Any) -> Any:
    bucket = await AsyncStorageRepository(uow.session).create_bucket(value, allowed_mime_types=[value])
    return bucket.id, bucket.name, *(bucket.allowed_mime_types or ())


async def object_name(uow: AsyncUnitOfWork, value: Any) -> Any:
    storage = AsyncStorageRepository(uow.session)
    stored = await storage.put("ground", value)
    names = [found.name for found in await storage.list("ground", prefix=value)]
    assert value in names
    assert stored.path_tokens == (value.split("/") if value else [])
    return stored.name


async def object_texts(uow: AsyncUnitOfWork, value: Any) -> Any:
    stored = await AsyncStorageRepository(uow.session).put(
        "ground", "x", metadata={value: value}, version=value
    )
    return stored.version, *next(iter((stored.metadata_ or {}).items()))


async def object_moved(uow: AsyncUnitOfWork, value: Any) -> Any:
    return (await AsyncStorageRepository(uow.session).move("ground", "moved", to_name=value)).name


async def read_storage(uow: AsyncUnitOfWork, value: Any) -> Any:
    storage = AsyncStorageRepository(uow.session)
    assert await storage.get_bucket(value) is None
    assert await storage.get(value, value) is None
    assert len(await storage.list(value, prefix=value)) == 0
    assert len(await storage.list_references(value)) == 0
    assert len(await storage.list_dangling(value, provider=value)) == 0
    assert len(await storage.list_unreferenced(value, prefix=value)) == 0
    with pytest.raises(InvalidInputError):
        await storage.list("ground", after=value)


CALLS: dict[str, Call] = {
    "agents.register, name": Call(register_name, ("agent_registry",)),
    "agents.register, texts": Call(register_texts, ("agent_registry",)),
    "agents.register, configuration": Call(register_json, ("agent_registry",)),
    "agents.register, capabilities": Call(register_capabilities, ("agent_registry",)),
    "agents, reading": Call(read_agents),
    "agents, cursor": Call(cursor_of_agents),
    "entities.upsert_node, key": Call(node_key, ("entity_node",)),
    "entities.upsert_node, texts": Call(node_texts, ("entity_node",)),
    "entities.upsert_node, properties": Call(node_json, ("entity_node",)),
    "entities.upsert_edge": Call(edge_texts, ("entity_edge",)),
    "entities, reading": Call(read_nodes),
    "validation.create_suite": Call(suite_texts, ("test_suites",)),
    "validation.add_case": Call(case_texts, ("test_cases",)),
    "validation.start_run": Call(run_json, ("test_runs",)),
    "validation.record": Call(metric, ("test_results",)),
    "auth, reading": Call(read_users),
    "storage.create_bucket": Call(bucket_texts, ("buckets",)),
    "storage.put, name": Call(object_name, ("objects",)),
    "storage.put, texts": Call(object_texts, ("objects",)),
    "storage.move": Call(object_moved),
    "storage, reading": Call(read_storage),
}

_TABLES = text("""
    SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_t%'
    ORDER BY 1
""")
_CATALOG = text("""
    SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (
        SELECT concat_ws(' ', 'class', oid, relname, relnamespace, relacl::text, relowner) FROM pg_class
        WHERE relnamespace <> 'pg_toast'::regnamespace
        UNION ALL SELECT concat_ws(' ', 'proc', oid, proname, md5(prosrc), proacl::text) FROM pg_proc
        UNION ALL SELECT concat_ws(' ', 'role', oid, rolname, rolsuper) FROM pg_roles
        UNION ALL SELECT concat_ws(' ', 'constraint', oid, conname, conrelid) FROM pg_constraint
        UNION ALL SELECT concat_ws(' ', 'trigger', oid, tgname, tgenabled) FROM pg_trigger
        UNION ALL SELECT concat_ws(' ', 'schema', oid, nspname, nspacl::text) FROM pg_namespace
        UNION ALL SELECT concat_ws(' ', 'column', attrelid, attname, atttypid, attnotnull, attisdropped)
        FROM pg_attribute WHERE attnum > 0
    ) AS lines (line)
""")


async def state(uow: AsyncUnitOfWork) -> tuple[str | None, dict[str, int]]:
    """A digest of the catalog, and the rows of every table of every tenant."""
    digest = await uow.session.scalar(_CATALOG)
    names = (await uow.session.scalars(_TABLES)).all()
    counts = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM {name}" for name in names)
    return digest, {row[0]: row[1] for row in await uow.session.execute(text(counts))}


@pytest.mark.parametrize("name", CALLS)
async def test_hostile_values_are_data(uow: AsyncUnitOfWork, name: str) -> None:
    call, stored_values = CALLS[name], 0
    await ground(uow)
    catalog, before = await state(uow)
    for kind, value in HOSTILE.items():
        savepoint = await uow.session.begin_nested()
        refusal: str | None = None
        stored: Any = None
        try:
            stored = await call.run(uow, value)
        except InvalidInputError as error:
            refusal = str(error)
        if refusal is not None:
            assert len(refusal) < 1000, kind
            assert value not in refusal, kind
            assert kind in ("nul", "surrogate", "megabyte"), f"{kind} is refused"
            await savepoint.rollback()
        elif stored is not None:
            for part in stored if isinstance(stored, tuple | list) else [stored]:
                assert part == value or part == [value], kind
            stored_values += 1
        catalog_then, after = await state(uow)
        assert catalog_then == catalog, kind
        gained = sorted(
            (table.rpartition(".")[2], rows - before[table])
            for table, rows in after.items()
            if rows != before[table]
        )
        assert gained == ([] if refusal is not None else [(table, 1) for table in call.gains]), kind
        if refusal is None:
            await savepoint.rollback()
    assert not call.gains or stored_values >= len(HOSTILE) - 3
