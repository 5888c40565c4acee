"""Indexes of fields in JSON columns: `alfred-db indexes`."""

from __future__ import annotations

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, literal_column, select, text

from alfred_db import Database, Document, KnowledgePoint, migrate
from alfred_db.cli import Commands
from alfred_db.cli.indexes import indexes
from alfred_db.errors import InvalidInputError, NotFoundError, SchemaOutdatedError
from alfred_db.indexes import add_field, drop_field, field_indexes
from alfred_db.queries.shapes.explain import Explain
from alfred_db.queries.shapes.filters import compile_filter
from alfred_db.queries.shapes.vector_search import nearest_within
from alfred_db.search.filters import Filter, range_

from .care import sql

FIELDS = (
    "documents.metadata.year",
    "documents.metadata.author.born in",
    "knowledge.payload.year",
    "memories.metadata.a_b",
)


def found(database: Database) -> dict[str | None, bool]:
    with database.engine.connect() as connection:
        return {one.field: one.valid for one in field_indexes(connection, database.schema)}


def numbered(database: Database) -> None:
    home = "" if database.schema is None else f"{database.schema}."
    sql(
        database,
        f"""UPDATE {home}documents SET metadata = jsonb_build_object('year', mod(id, 500), 'author', jsonb_build_object('born in', id))""",
    )


def test_a_field_is_indexed_listed_and_forgotten(tenant: Database) -> None:
    numbered(tenant)
    assert found(tenant) == {}
    for field in FIELDS:
        made = add_field(tenant.engine, field, schema=tenant.schema)
        assert (made.field, made.valid, made.schema) == (field, True, tenant.schema or "public")
        assert add_field(tenant.engine, field, schema=tenant.schema) == made
    assert found(tenant) == dict.fromkeys(FIELDS, True)
    with tenant.begin() as uow:
        for model, name, field in (
            (Document, "own_documents_metadata_year", "metadata.year"),
            (Document, "own_documents", "metadata.author.born in"),
            (KnowledgePoint, "_knowledge", "payload.year"),
        ):
            where = compile_filter(model, Filter(must=[range_(field, gte=3, lte=4)]))
            uow.session.execute(text("SET LOCAL enable_seqscan = off"))
            plan = "\n".join(
                uow.session.scalars(Explain(select(literal_column("1")).select_from(model).where(where)))
            )
            assert "Index Cond" in plan
            assert name in plan
    for field in FIELDS:
        drop_field(tenant.engine, field, schema=tenant.schema)
        with pytest.raises(NotFoundError, match=r"it has no index; `alfred-db indexes list .*` shows those"):
            drop_field(tenant.engine, field, schema=tenant.schema)
    assert found(tenant) == {}
    assert sql(tenant, "SELECT 1 FROM pg_class WHERE pg_catalog.starts_with(relname, 'own_')") == []


def test_a_search_reads_the_index_of_its_range(tenant: Database) -> None:
    numbered(tenant)
    add_field(tenant.engine, "documents.metadata.year", schema=tenant.schema)
    where = compile_filter(Document, Filter(must=[range_("metadata.year", gte=3, lt=5)]))
    statement = nearest_within(Document, 10, where, max_distance=None, exact=True)
    with tenant.begin() as uow:
        plan = "\n".join(uow.session.scalars(Explain(statement.params(embedding=[1.0] * 384))))
        assert "own_documents_metadata_year" in plan
        hits = uow.documents.search(
            [1.0] * 384, where=Filter(must=[range_("metadata.year", gte=3, lt=5)]), limit=100
        )
        assert {hit.row.metadata_["year"] for hit in hits if hit.row.metadata_} == {3, 4}


def test_upgrades_keep_it_and_nothing_calls_it_drift(empty_url: URL) -> None:
    url = empty_url
    migrate.upgrade(url, "alfred_0031_growth_indexes")
    with Database(url) as database:
        add_field(database.engine, "documents.metadata.year")
        add_field(database.engine, "knowledge.payload.year")
        database.upgrade()
        database.verify()
        migrate.check(url)
        assert found(database) == {"documents.metadata.year": True, "knowledge.payload.year": True}
        with database.begin() as uow:
            uow.knowledge.create_collection("later")
        migrate.check(url)
        assert found(database) == {"documents.metadata.year": True, "knowledge.payload.year": True}


def test_what_an_interrupted_build_has_left_is_built_again(database: Database) -> None:
    made = add_field(database.engine, "documents.metadata.year", schema=database.schema)
    sql(
        database,
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{made.schema}.{made.name}'::regclass",
        f"COMMENT ON INDEX {made.schema}.{made.name} IS NULL",
    )
    assert found(database) == {None: False}
    assert add_field(database.engine, "documents.metadata.year", schema=database.schema).valid
    assert found(database) == {"documents.metadata.year": True}


@pytest.mark.parametrize(
    "field",
    ["", "documents", "documents.metadata", "documents.metadata.", "documents.metadata..a", "documents.title.x",
     "documents.embedding.x", "nothing.metadata.year", "tasks.metadata.year", "knowledge_points.payload.year",
     "Documents.metadata.year", "documents.nothing.year", "documents;drop.metadata.x"],
)  # fmt: skip
def test_a_name_that_is_no_field_is_one_error(reader: Database, field: str) -> None:
    for call in (add_field, drop_field):
        with pytest.raises(
            InvalidInputError,
            match=r"field .*: no such field can be indexed; expected one of documents\.metadata\.KEY",
        ) as raised:
            call(reader.engine, field, schema=reader.schema)
        assert "\n" not in str(raised.value)
    with pytest.raises(InvalidInputError, match="NUL"):
        add_field(reader.engine, "documents.metadata.a\0b", schema=reader.schema)


def test_keys_are_text_and_nothing_else(database: Database) -> None:
    for key in ("it's", 'a"b', "100%", "日本", "x" * 200, ":name", "$1", "'; DROP TABLE documents; --"):
        made = add_field(database.engine, f"documents.metadata.{key}", schema=database.schema)
        assert made.field == f"documents.metadata.{key}"
        assert len(made.name.encode()) <= 63
    assert len(found(database)) == 8


def test_a_database_without_tables_is_refused(empty_url: URL) -> None:
    with Database(empty_url) as database, pytest.raises(SchemaOutdatedError, match="documents"):
        add_field(database.engine, "documents.metadata.year")


def test_the_command(tenant: Database) -> None:
    commands = Commands("alfred-db", commands=[indexes])
    given = ["--url", tenant.url.render_as_string(hide_password=False)]
    given += [] if tenant.schema is None else ["--schema", tenant.schema]

    def run(*words: str) -> Result:
        return CliRunner().invoke(commands, ["indexes", *words, *given])

    assert run("list").stdout == "no field has an index\n"
    done = run("add", "documents.metadata.year")
    assert (done.exit_code, "documents.metadata.year has the index" in done.stdout) == (0, True)
    assert "own_documents_metadata_year" in run("list").stdout
    assert '"valid": true' in run("list", "--json").stdout
    assert run("drop", "documents.metadata.year", "--yes").exit_code == 0
    for words in (("add", "documents.title"), ("drop", "documents.metadata.year", "--yes")):
        failed = run(*words)
        assert (failed.exit_code, failed.stderr.count("\n")) == (2, 1)
