"""A model of a user's own, whose index holds half-precision copies of its vectors."""

from __future__ import annotations

from collections.abc import Iterator

import corpus
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from plans import Explain
from sqlalchemy import URL, Index, MetaData, cast, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alfred_db import Base, Database, Embedding, HalfVector, SearchParams, SearchPath, Vector, indexes
from alfred_db.execution._sync.bulk import add_many
from alfred_db.execution._sync.search import search, search_many
from alfred_db.indexes import IndexState, catalog
from alfred_db.models.base import BigIntId, table_of
from alfred_db.queries.shapes.vector_search import nearest_each, vector_index

ROWS = 3000


class Own(DeclarativeBase):
    """Apart from the library's own tables, which other tests compare with a database."""

    type_annotation_map = Base.type_annotation_map


class Note(Own):
    __tablename__ = "notes"

    id: Mapped[BigIntId]
    part: Mapped[int]
    embedding: Mapped[Embedding | None] = mapped_column(Vector(384), deferred=True)


Index(
    "idx_notes_half",
    cast(Note.embedding, HalfVector(384)).label("half"),
    postgresql_using="hnsw",
    postgresql_with={"m": 12, "ef_construction": 48},
    postgresql_ops={"half": "halfvec_cosine_ops"},
)
Index(
    "idx_notes_part_one",
    Note.embedding,
    postgresql_using="hnsw",
    postgresql_ops={"embedding": "vector_cosine_ops"},
    postgresql_where=Note.part == 1,
)


class Unindexed(Own):
    __tablename__ = "unindexed"

    id: Mapped[BigIntId]
    one: Mapped[Embedding | None] = mapped_column(Vector(3))


@pytest.fixture(scope="module")
def notes(template: URL, new_database: object) -> Iterator[Database]:
    with Database(new_database(template.database)) as database:  # type: ignore[operator]
        with database.session() as session:
            table_of(Note).create(session.connection())  # type: ignore[arg-type]
            session.execute(text("DROP INDEX idx_notes_half, idx_notes_part_one"))
            rows = [{"part": number % 2} for number in range(ROWS)]
            add_many(session, Note, rows, vectors={"embedding": corpus.grown()[:ROWS]})  # type: ignore[arg-type]
            for index in table_of(Note).indexes:  # type: ignore[arg-type]
                index.create(session.connection())
            session.execute(text("ANALYZE notes"))
            session.commit()
        yield database


@pytest.fixture
def session(notes: Database) -> Iterator[Session]:
    with notes.session() as session:
        yield session


def test_the_index_is_described_as_it_is_declared() -> None:
    known = vector_index(Note)
    assert (known.name, known.operator, known.m, known.ef_construction) == ("idx_notes_half", "<=>", 12, 48)
    assert known.column is table_of(Note).c.embedding  # type: ignore[arg-type]
    assert str(known.expression) == "CAST(notes.embedding AS HALFVEC(384))"
    with pytest.raises(LookupError, match="Unindexed has no vector index"):
        vector_index(Unindexed)


def test_alembic_would_generate_nothing(session: Session) -> None:
    options = {"include_name": lambda name, kind, parents: kind != "table" or name == "notes"}
    only = MetaData()
    table_of(Note).to_metadata(only)  # type: ignore[arg-type]
    assert compare_metadata(MigrationContext.configure(session.connection(), opts=options), only) == []


def test_every_search_repeats_the_expression_of_the_index(session: Session) -> None:
    vector = corpus.grown()[5]
    for _ in range(12):
        for where, path in ((None, SearchPath.HNSW), (Note.part == 1, SearchPath.HNSW_ITERATIVE)):
            found = search(session, Note, vector, where=where, params=SearchParams(exact=False), explain=True)  # type: ignore[arg-type]
            assert found.path is path
            assert found.hits[0].row.id == 6
            assert found.hits[0].distance == pytest.approx(0, abs=1e-3)
            assert not hasattr(found.hits[0].row, "embedding")
            assert "Index Scan using idx_notes_half" in (found.plan or "")
            assert "Seq Scan" not in (found.plan or "")
    each = "\n".join(session.scalars(Explain(nearest_each(Note, [vector], 10, None))))  # type: ignore[arg-type]
    assert "Index Scan using idx_notes_half" in each
    assert [hits[0].row.id for hits in search_many(session, Note, corpus.grown()[[5, 7]])] == [6, 8]  # type: ignore[arg-type]
    exact = search(session, Note, vector, params=SearchParams(exact=True))  # type: ignore[arg-type]
    near = search(session, Note, vector)  # type: ignore[arg-type]
    assert len({hit.row.id for hit in exact} & {hit.row.id for hit in near}) >= 9


def test_the_commands_about_vectors_go_by_it(notes: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "models", lambda: {"notes": Note})
    monkeypatch.setattr("alfred_db.indexes.measuring.models", catalog.models)

    def states() -> dict[str, IndexState]:
        with notes.engine.connect() as connection:
            return {one.name: one.state for one in indexes.status(connection)}

    assert states() == {"idx_notes_half": IndexState.VALID, "idx_notes_part_one": IndexState.VALID}
    report = indexes.recall(notes.engine, "notes", samples=20, ef=(80,))
    assert (report.index, report.measured[0].recall > 0.9) == ("idx_notes_half", True)
    with notes.engine.begin() as connection:
        connection.execute(text("DROP INDEX idx_notes_half"))
    with notes.engine.connect() as connection:
        (missing,) = [one for one in indexes.status(connection) if one.state is IndexState.MISSING]
        (command,) = [line for line in missing.warnings[0].split(": ") if line.startswith("CREATE INDEX")]
        assert "(CAST(embedding AS HALFVEC(384)) halfvec_cosine_ops)" in command
    with notes.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(command))
    assert states()["idx_notes_half"] is IndexState.VALID
    (rebuilt,) = indexes.rebuild(notes.engine, "idx_notes_half")
    assert rebuilt is not None
