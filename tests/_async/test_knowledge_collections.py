from __future__ import annotations

import os
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from alfred_db import AsyncDatabase, KnowledgeDistance
from alfred_db.errors import ConfigurationError, ConflictError, InvalidInputError, NotFoundError
from alfred_db.models.knowledge import COLLECTIONS, partition_name
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.knowledge import AsyncKnowledgeRepository

HOSTILE = (
    "it's",
    'a "quoted" one',
    "%s %(name)s %",
    "a::text :name \\:x",
    "'; DROP TABLE knowledge_points; --",
    "back\\slash\\'",
    "Bücher 書籍 🙂",
    "x" * 255,
    "Legal-Knowledge",
    "legal_knowledge",
)
UNIT = [1.0, *[0.0] * 1535]


@pytest.fixture
def knowledge(uow: AsyncUnitOfWork) -> AsyncKnowledgeRepository:
    return AsyncKnowledgeRepository(uow.session)


async def test_four_collections_are_there_from_the_start(knowledge: AsyncKnowledgeRepository) -> None:
    page = await knowledge.list_collections()
    assert [collection.name for collection in page] == sorted(COLLECTIONS)
    assert {(collection.dimensions, collection.distance) for collection in page} == {
        (1536, KnowledgeDistance.COSINE)
    }


async def test_a_collection_is_made_described_and_dropped(knowledge: AsyncKnowledgeRepository) -> None:
    made = await knowledge.create_collection(
        "notes",
        distance=KnowledgeDistance.DOT,
        description="of the team",
        embedding_model="m",
        metadata={"a": 1},
    )
    assert (made.name, made.distance, made.dimensions) == ("notes", KnowledgeDistance.DOT, 1536)
    await knowledge.upsert("notes", [{"id": 1, "vector": UNIT}])
    await knowledge.set_aliases({"jottings": "notes", "b": "notes"})
    info = await knowledge.describe_collection("jottings")
    assert info.collection.metadata_ == {"a": 1}
    assert (info.collection.description, info.collection.embedding_model) == ("of the team", "m")
    assert (info.aliases, info.points, info.table) == (["b", "jottings"], 1, "knowledge_points_notes")
    await knowledge.drop_collection("notes")
    with pytest.raises(NotFoundError, match="'notes': does not exist"):
        await knowledge.describe_collection("notes")
    assert list(await knowledge.list_aliases()) == []
    await knowledge.create_collection("notes")
    assert await knowledge.count("notes") == 0


async def test_a_collection_for_another_model_is_not_taken_for_the_one_that_is_there(
    knowledge: AsyncKnowledgeRepository,
) -> None:
    first = await knowledge.create_collection("notes", embedding_model="one")
    assert await knowledge.create_collection("notes", embedding_model="one") is first
    assert await knowledge.create_collection("notes") is first
    with pytest.raises(ConflictError, match="exists for vectors of 'one'"):
        await knowledge.create_collection("notes", embedding_model="other", description="of the other")
    assert first.description is None
    assert (await knowledge.create_collection("later")).embedding_model is None
    assert (await knowledge.create_collection("later", embedding_model="one")).embedding_model == "one"


async def test_to_create_it_again_changes_what_is_passed(knowledge: AsyncKnowledgeRepository) -> None:
    first = await knowledge.create_collection("notes", description="first", metadata={"a": 1})
    assert await knowledge.create_collection("notes") is first
    assert (first.description, first.metadata_) == ("first", {"a": 1})
    again = await knowledge.create_collection("notes", description="second")
    assert again is first
    assert (again.description, again.metadata_) == ("second", {"a": 1})
    again = await knowledge.create_collection("notes", metadata={})
    assert (again.description, again.metadata_) == ("second", {})
    with pytest.raises(ConflictError, match="exists with the distance cosine"):
        await knowledge.create_collection("notes", distance=KnowledgeDistance.EUCLID)
    with pytest.raises(InvalidInputError, match="expected one of cosine, dot, euclid, manhattan"):
        await knowledge.create_collection("other", distance="near")  # type: ignore[arg-type]
    assert await knowledge.count("notes") == 0


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_name_is_only_a_name(knowledge: AsyncKnowledgeRepository, name: str) -> None:
    await knowledge.create_collection(name)
    await knowledge.upsert(name, [{"id": name, "vector": UNIT, "payload": {name: name}}])
    (found,) = await knowledge.query(name, UNIT)
    assert (found.row.collection, found.row.id, found.row.payload) == (name, name, {name: name})
    await knowledge.set_aliases({name + "x" if len(name) < 255 else "y": name})
    assert (await knowledge.describe_collection(name)).table == partition_name(name)
    assert await knowledge.count("legal-knowledge") == 0
    await knowledge.drop_collection(name)
    assert len(await knowledge.list_collections()) == len(COLLECTIONS)


@pytest.mark.parametrize("name", ["", "  ", "x" * 256, "a\0b", "\ud800"])
async def test_a_name_that_cannot_be_is_refused(knowledge: AsyncKnowledgeRepository, name: str) -> None:
    async with knowledge._session.begin_nested():
        with pytest.raises(InvalidInputError):
            await knowledge.create_collection(name)
    with pytest.raises(InvalidInputError):
        await knowledge.set_aliases({name: "legal-knowledge"})
    assert len(await knowledge.list_collections()) == len(COLLECTIONS)


async def test_an_alias_is_switched_at_once(knowledge: AsyncKnowledgeRepository) -> None:
    await knowledge.create_collection("v1")
    await knowledge.create_collection("v2")
    await knowledge.upsert("v2", [{"id": 1, "vector": UNIT}])
    await knowledge.set_aliases({"live": "v1", "next": "v2"})
    assert await knowledge.count("live") == 0
    await knowledge.set_aliases({"live": "v2", "next": "v1"})
    assert await knowledge.count("live") == 1
    assert [hit.row.id for hit in await knowledge.query("live", UNIT)] == ["1"]
    assert [(alias.alias, alias.collection) for alias in await knowledge.list_aliases()] == [
        ("live", "v2"),
        ("next", "v1"),
    ]
    assert [alias.alias for alias in await knowledge.list_aliases("v2")] == ["live"]
    await knowledge.delete_alias("live")
    with pytest.raises(NotFoundError, match="'live': does not exist"):
        await knowledge.count("live")
    with pytest.raises(NotFoundError, match="alias 'live': does not exist"):
        await knowledge.delete_alias("live")


async def test_an_alias_never_hides_a_collection(knowledge: AsyncKnowledgeRepository) -> None:
    await knowledge.create_collection("v1")
    await knowledge.set_aliases({"live": "v1"})
    with pytest.raises(ConflictError, match="a collection has the name"):
        await knowledge.set_aliases({"other": "v1", "legal-knowledge": "v1"})
    with pytest.raises(ConflictError, match="an alias has the name"):
        await knowledge.create_collection("live")
    with pytest.raises(NotFoundError, match="'nope': does not exist"):
        await knowledge.set_aliases({"other": "nope"})
    with pytest.raises(NotFoundError, match="'live': does not exist"):
        await knowledge.set_aliases({"other": "live"})
    with pytest.raises(NotFoundError, match="'live': does not exist"):
        await knowledge.drop_collection("live")
    assert [alias.alias for alias in await knowledge.list_aliases()] == ["live"]
    await knowledge.set_aliases({})


async def test_pages_cover_everything_once(knowledge: AsyncKnowledgeRepository) -> None:
    first = await knowledge.list_collections(limit=3)
    second = await knowledge.list_collections(after=first.next, limit=3)
    assert [one.name for one in (*first, *second)] == sorted(COLLECTIONS)
    assert second.next is None


async def test_a_new_partition_is_like_the_others(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await AsyncKnowledgeRepository(uow.session).create_collection("notes")
    schema = committed.schema or "public"
    described = text(
        "SELECT c.relkind, am.amname, replace(replace(c.relname, 'legal_knowledge', ''), 'notes', ''),"
        " replace(replace(pg_get_indexdef(c.oid), 'legal_knowledge', ''), 'notes', ''), x.indisvalid,"
        " EXISTS (SELECT FROM pg_inherits WHERE inhrelid = c.oid)"
        " FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_am am ON am.oid = c.relam"
        " WHERE x.indrelid = CAST(:name AS regclass) ORDER BY 3"
    )
    constraints = text(
        "SELECT contype, convalidated, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = CAST(:name AS regclass) ORDER BY 1, 3"
    )
    columns = text(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, attstorage, attgenerated,"
        " pg_get_expr(adbin, adrelid) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = CAST(:name AS regclass) AND attnum > 0 ORDER BY attnum"
    )
    triggers = text(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = CAST(:name AS regclass) AND NOT tgisinternal"
    )
    async with committed.session() as session:
        for statement in (described, constraints, columns, triggers):
            old = (
                await session.execute(statement, {"name": f"{schema}.knowledge_points_legal_knowledge"})
            ).all()
            new = (await session.execute(statement, {"name": f"{schema}.knowledge_points_notes"})).all()
            assert old == new
            assert old
    await committed.verify()


async def test_others_read_and_write_while_a_collection_is_made(committed: AsyncDatabase) -> None:
    async with committed.session() as one, committed.begin() as two:
        first, second = AsyncKnowledgeRepository(one), AsyncKnowledgeRepository(two.session)
        await first.create_collection("notes")
        await second.upsert("legal-knowledge", [{"id": 1, "vector": UNIT}])
        assert len(await second.query("legal-knowledge", UNIT)) == 1
        with pytest.raises(NotFoundError):
            await second.count("notes")
        await one.commit()
        assert await second.count("notes") == 0


async def test_a_collection_in_use_is_not_dropped(
    committed: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alfred_db.repositories._async.knowledge_collections.LOCK_TIMEOUT", "200ms")
    async with committed.session() as one, committed.session() as two:
        first, second = AsyncKnowledgeRepository(one), AsyncKnowledgeRepository(two)
        await first.query("legal-knowledge", UNIT)
        before = await two.scalar(text("SHOW lock_timeout"))
        with pytest.raises(ConflictError, match="lock") as caught:
            await second.drop_collection("legal-knowledge")
        assert caught.value.retryable
        await first.query("legal-knowledge", UNIT)
        await one.commit()
        await second.drop_collection("legal-knowledge")
        assert await two.scalar(text("SHOW lock_timeout")) == before
        await two.commit()
        with pytest.raises(NotFoundError):
            await first.query("legal-knowledge", UNIT)


async def test_a_role_that_may_not_make_tables_gets_an_error(committed: AsyncDatabase) -> None:
    schema, role = committed.schema or "public", f"alfred_reader_{os.getpid()}"
    engine = create_engine(committed.url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        for statement in (
            f"GRANT USAGE ON SCHEMA {schema}, extensions TO {role}",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.knowledge_points, {schema}.knowledge_collections,"
            f" {schema}.knowledge_aliases TO {role}",
        ):
            connection.execute(text(statement))
    try:
        async with (
            AsyncDatabase(committed.url.set(username=role), schema=committed.schema) as limited,
            limited.begin() as uow,
        ):
            knowledge = AsyncKnowledgeRepository(uow.session)
            with pytest.raises(ConfigurationError, match="only the owner of that may create and drop it"):
                await knowledge.create_collection("notes")
            with pytest.raises(ConfigurationError, match="only the owner of that may create and drop it"):
                await knowledge.drop_collection("legal-knowledge")
            # What it may do goes on in the same transaction, by the rights on the parent alone.
            assert (await knowledge.create_collection("legal-knowledge")).name == "legal-knowledge"
            await knowledge.upsert("legal-knowledge", [{"id": 1, "vector": UNIT}])
            assert len(await knowledge.query("legal-knowledge", UNIT)) == 1
            assert len(await knowledge.list_collections()) == len(COLLECTIONS)
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))
        engine.dispose()


async def test_the_tenant_is_the_only_one_that_changes(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        knowledge: Any = AsyncKnowledgeRepository(uow.session)
        await knowledge.create_collection("notes")
        await knowledge.upsert("notes", [{"id": 1, "vector": UNIT}])
    other = AsyncDatabase(committed.url, schema="acme" if committed.schema is None else None)
    async with other, other.begin() as uow:
        knowledge = AsyncKnowledgeRepository(uow.session)
        with pytest.raises(NotFoundError):
            await knowledge.count("notes")
        await knowledge.create_collection("notes")
        assert await knowledge.count("notes") == 0
