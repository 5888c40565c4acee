"""Which kind of index is the best: measured on a sample, and built for a space beside running work."""

from __future__ import annotations

import json
import re
import threading

import corpus
import numpy as np
import pytest
from click.testing import CliRunner

from alfred_db import Database, SearchParams, SearchPath, SpaceIndex
from alfred_db.cli import Commands
from alfred_db.cli.vectors import vectors
from alfred_db.errors import InvalidInputError, NotFoundError
from alfred_db.indexes import (
    EfRecall,
    IndexAdvice,
    MeasuredIndex,
    Progress,
    advise,
    build_index,
    rebuilding,
    reembedding,
)

from .care import PARTITIONS, sql

ROWS = 300


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reembedding, "FOLLOWED", 0.05)


def spaced(database: Database, index: str | None = None, storage: str = "vector") -> np.ndarray:
    """A space `new` with a vector of each of the first documents."""
    real, _ = corpus.vectors()
    matrix = np.tile(real[:ROWS], 2)
    with database.begin() as uow:
        ids = uow.session.connection().exec_driver_sql(
            f"SELECT id FROM {home(database)}.documents ORDER BY id LIMIT {ROWS}"
        )
        keys = [row[0] for row in ids]
        uow.spaces.create("new", kind="documents", model="m", dimensions=768, index=index, storage=storage)
        uow.spaces.store("new", keys, matrix)
    return matrix


def home(database: Database) -> str:
    return database.schema or "public"


def definitions(database: Database) -> dict[str, str]:
    """The indexes of the space, besides that of its key."""
    found = sql(
        database,
        "SELECT c.relname, pg_get_indexdef(c.oid) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid"
        f" WHERE NOT indisprimary AND indisvalid AND indrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent ="
        f" '{home(database)}.documents_embeddings'::regclass)",
    )
    return dict(found)


def test_each_kind_is_measured_and_nothing_stays(tenant: Database) -> None:
    found = advise(
        tenant.engine, "documents", schema=tenant.schema, samples=20, rows=500, ef=(40, 200), target=0.9
    )
    assert [one.index for one in found.indexes] == ["hnsw", "hnsw-halfvec", "hnsw-bit"]
    assert (found.dimensions, found.samples, found.sampled) == (384, 20, 500)
    sizes = [one.size for one in found.indexes]
    assert sizes == sorted(sizes, reverse=True)
    for one in found.indexes:
        assert [each.ef for each in one.measured] == [40, 200]
        assert one.measured[-1].recall > 0.9, one.index
    assert found.best is not None
    assert f"{found.best.index} meets 0.9 in the least time" in found.as_text()
    assert found.as_dict()["best"] == found.best.index
    assert sql(
        tenant, "SELECT count(*) FROM pg_class WHERE pg_catalog.starts_with(relname, 'alfred_db_advice')"
    ) == [(0,)]


def test_partitions_and_spaces_are_measured(tenant: Database) -> None:
    of_points = advise(tenant.engine, PARTITIONS[2], schema=tenant.schema, ef=(40,), samples=5, rows=100)
    assert (of_points.dimensions, of_points.samples) == (1536, 5)
    spaced(tenant, storage="halfvec")
    found = advise(tenant.engine, space="new", schema=tenant.schema, ef=(100,), samples=10)
    assert [one.index for one in found.indexes] == ["hnsw-halfvec", "hnsw-bit"]
    assert (found.dimensions, found.sampled, found.samples) == (768, ROWS - 10, 10)


def test_the_fastest_index_is_the_best_and_the_smallest_of_equal_ones() -> None:
    def kind(name: str, size: int, *points: tuple[float, float]) -> MeasuredIndex:
        measured = tuple(
            EfRecall(40 * place, recall, 0.5, ms) for place, (recall, ms) in enumerate(points, 1)
        )
        return MeasuredIndex(name, size, 1.0, measured)

    def chosen(*indexes: MeasuredIndex) -> str | None:
        found = IndexAdvice("t", 8, 100, 100, 0.98, 10, 10, 9.0, indexes)
        assert found.as_text()
        return None if found.best is None else found.best.index

    hnsw = kind("hnsw", 100, (0.9, 1.0), (0.99, 2.0))
    assert chosen(hnsw, kind("hnsw-bit", 10, (0.9, 0.5), (0.985, 2.1))) == "hnsw-bit"
    assert chosen(hnsw, kind("hnsw-bit", 10, (0.9, 0.5), (0.985, 2.5))) == "hnsw"
    assert chosen(kind("hnsw", 100, (0.5, 1.0))) is None


def test_what_cannot_be_measured_is_refused(reader: Database) -> None:
    engine, schema = reader.engine, reader.schema
    with pytest.raises(InvalidInputError, match="either `table` or `space`"):
        advise(engine, schema=schema)
    with pytest.raises(InvalidInputError, match="has no vector index"):
        advise(engine, "tasks", schema=schema)
    with pytest.raises(InvalidInputError, match="rows: expected"):
        advise(engine, "documents", schema=schema, rows=1)
    with pytest.raises(NotFoundError, match="'nothing': not found"):
        advise(engine, space="nothing", schema=schema)
    with pytest.raises(NotFoundError, match="too few"):
        advise(engine, "memories", schema=schema)


@pytest.mark.usefixtures("quick")
def test_a_space_gets_another_index_while_it_is_searched(
    tenant: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "POLLED_EVERY", 0.002)
    matrix = spaced(tenant)
    stop, failed, searched = threading.Event(), list[str](), [0]

    def search() -> None:
        while not stop.is_set():
            try:
                with tenant.begin() as uow:
                    found = uow.documents.search(matrix[7], space="new", limit=5)
                if len(found) != 5 or (found.hits[0].distance or 0.0) > 1e-3:
                    failed.append(str(found))
                searched[0] += 1
            except Exception as error:
                failed.append(repr(error))

    thread = threading.Thread(target=search)
    thread.start()
    try:
        reported: list[Progress] = []
        for kind, written in (
            ("hnsw-bit", "binary_quantize"),
            ("hnsw-halfvec", "::halfvec(768)"),
            ("none", ""),
            ("hnsw", "::vector(768)"),
        ):
            assert build_index(tenant, "new", kind, progress=reported.append) is SpaceIndex(kind)
            known = definitions(tenant)
            assert len(known) == (kind != "none")
            assert all(written in one for one in known.values())
            assert all(
                name.startswith("idx_documents_embeddings_") and not name.endswith("_new") for name in known
            )
            with tenant.begin() as uow:
                assert uow.spaces.describe("new").space.index is SpaceIndex(kind)
                path = uow.documents.search(matrix[7], space="new").path
            assert path is (SearchPath.EXACT if kind == "none" else SearchPath.HNSW)
    finally:
        stop.set()
        thread.join()
    assert not failed
    assert searched[0]


@pytest.mark.usefixtures("quick")
def test_a_build_that_was_broken_off_is_done_again(database: Database) -> None:
    spaced(database)
    (name,) = definitions(database)
    own = name.removeprefix("idx_")
    # Broken off before searches use the new one: what is left is of no use.
    sql(database, f"CREATE INDEX {name}_new ON {own} (source_hash)")
    assert build_index(database, "new", "hnsw-bit") is SpaceIndex.HNSW_BIT
    assert ["binary_quantize" in one for one in definitions(database).values()] == [True]
    # Broken off after it: only the old one has to go.
    sql(database, f"ALTER INDEX {name} RENAME TO {name}_new", f"CREATE INDEX {name} ON {own} (source_hash)")
    assert build_index(database, "new") is SpaceIndex.HNSW_BIT
    assert [(one, "binary_quantize" in said) for one, said in definitions(database).items()] == [(name, True)]
    assert build_index(database, "new") is SpaceIndex.HNSW_BIT
    with database.begin() as uow:
        uow.spaces.create("empty", kind="documents", model="m", dimensions=5000, building=True)
    with pytest.raises(InvalidInputError, match="at most 4000"):
        build_index(database, "empty", "hnsw-halfvec")
    assert build_index(database, "empty") is SpaceIndex.HNSW_BIT
    with pytest.raises(InvalidInputError, match="'builtin'"):
        build_index(database, "builtin", "hnsw")
    with pytest.raises(NotFoundError):
        build_index(database, "nothing")


@pytest.mark.usefixtures("quick")
def test_the_commands_advise_and_build(tenant: Database) -> None:
    commands = Commands("alfred-db", commands=[vectors])
    of = ["--url", tenant.url.render_as_string(hide_password=False)]
    of += [] if tenant.schema is None else ["--schema", tenant.schema]

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(commands, ["vectors", *arguments, *of])
        return done.exit_code, done.stdout

    spaced(tenant)
    few = ["--samples", "5", "--ef", "40", "--rows", "200"]
    status, said = run("advise", "--table", "documents", "--target", "0.5", *few)
    assert (status, "meets 0.5 in the least time" in said) == (0, True)
    status, said = run("advise", "--space", "new", "--target", "1", "--json", *few)
    assert status == (json.loads(said)["best"] is None)
    assert run("build", "new", "--index", "hnsw-bit") == (0, "new has the index hnsw-bit\n")


def test_as_many_bits_are_ranked_again_as_the_index_keeps(database: Database) -> None:
    matrix = spaced(database, "hnsw-bit")
    sql(database, "ANALYZE documents_embeddings")
    with database.begin() as uow:
        few, many = (
            uow.documents.search(
                matrix[3], space="new", params=SearchParams(exact=False, ef_search=ef), explain=True
            ).plan
            for ef in (40, 240)
        )
    assert "rows=40 " in (few or "")
    assert "rows=240 " in (many or "")
    # Neither the vector nor its signs are in a plan.
    assert "$1" in (few or "")
    assert not re.search(r"[01]{8}|\[", few or "")
