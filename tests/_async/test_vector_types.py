"""The four vector types of pgvector, through a server and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pgvector
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sqlalchemy import (
    Column,
    Identity,
    Integer,
    MetaData,
    Table,
    Text,
    cast,
    insert,
    literal_column,
    select,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateTable

from alfred_db import (
    Bit,
    HalfVector,
    MemoryEntry,
    SparseVector,
    Vector,
    cosine_distance,
    hamming_distance,
    jaccard_distance,
    l1_distance,
    l2_distance,
    max_inner_product,
)
from alfred_db.errors import (
    DimensionMismatch,
    InvalidInputError,
    InvalidVector,
    SchemaOutdatedError,
    translated,
)
from alfred_db.execution._async.copy import copy_rows
from alfred_db.repositories import AsyncUnitOfWork

D = 6
ITEMS = Table(
    "vector_items",
    MetaData(),
    Column("id", Integer, Identity(), primary_key=True),
    Column("vector", Vector(D, True)),
    Column("half", HalfVector(D, True)),
    Column("sparse", SparseVector(D, True)),
    Column("bits", Bit(D)),
    Column("open", Vector()),
)
VALUES = [ITEMS.c.vector, ITEMS.c.half, ITEMS.c.sparse, ITEMS.c.bits]


def finite(bits: Any) -> Any:
    """The floats of these bits; 1 for those that are none."""
    floats = bits.view(f"f{bits.itemsize}")
    return np.where(np.isfinite(floats), floats, np.ones_like(floats))


SINGLES = arrays(np.uint32, D).map(finite)
HALVES = arrays(np.uint16, D).map(finite)
BITS = arrays(np.bool_, D)
ROWS = st.lists(st.tuples(SINGLES, HALVES, SINGLES, BITS), min_size=1, max_size=5)


@pytest.fixture
async def session(uow: AsyncUnitOfWork) -> AsyncSession:
    await uow.session.execute(CreateTable(ITEMS))
    return uow.session


def forms(row: Any) -> list[Any]:
    """The values of a row, in one form: bytes, and for a sparse vector its parts."""
    vector, half, sparse, bits = row
    assert (vector.dtype, half.dtype, bits.dtype) == (np.float32, np.float32, np.bool_)
    assert [array.flags.writeable for array in (vector, half, bits)] == [False] * 3
    parts = (sparse.indices(), np.array(sparse.values(), np.float32).tobytes(), sparse.dimensions())
    return [vector.tobytes(), half.tobytes(), parts, bits.tobytes()]


def expected(row: Any) -> list[Any]:
    vector, half, sparse, bits = row
    (found,) = np.nonzero(sparse)
    parts = (found.tolist(), sparse[found].tobytes(), D)
    return [vector.tobytes(), half.astype(np.float32).tobytes(), parts, bits.tobytes()]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
async def test_any_vector_round_trips_bit_for_bit(session: AsyncSession, rows: list[Any]) -> None:
    wanted = [expected(row) for row in rows]
    async with session.begin_nested() as savepoint:
        named = [dict(zip(("vector", "half", "sparse", "bits"), row, strict=True)) for row in rows]
        inserted = await session.execute(insert(ITEMS).returning(*VALUES), named)
        assert sorted(forms(row) for row in inserted) == sorted(wanted)
        await copy_rows(session, ITEMS, VALUES, rows)
        stored = (await session.execute(select(*VALUES).order_by(ITEMS.c.id))).all()
        assert [forms(row) for row in stored] == wanted * 2
        # What the server shows is what pgvector's own classes would have sent.
        shown = (await session.execute(select(*(cast(column, Text) for column in VALUES)).limit(1))).one()
        kinds: tuple[Any, ...] = (pgvector.Vector, pgvector.HalfVector, pgvector.SparseVector, pgvector.Bit)
        for kind, text, value in zip(kinds, shown, rows[0], strict=True):
            assert kind.from_text(text).to_binary() == kind(value).to_binary()
        await savepoint.rollback()


async def test_null_is_no_vector(session: AsyncSession) -> None:
    await session.execute(insert(ITEMS), [{"vector": None, "half": None, "sparse": None, "bits": None}] * 2)
    await copy_rows(session, ITEMS, VALUES, [(None,) * 4])
    assert set(await session.execute(select(*VALUES))) == {(None,) * 4}
    assert await copy_rows(session, ITEMS, VALUES, []) == 0


async def test_a_subquery_and_an_expression_return_vectors_too(session: AsyncSession) -> None:
    one = np.arange(1, D + 1, dtype=np.float32)
    await session.execute(insert(ITEMS).values(vector=one, half=one, sparse={0: 1.5}, bits=[1, 0] * 3))
    inner = select(*VALUES).subquery()
    found = (await session.execute(select(*inner.c))).one()
    assert forms(found) == expected(
        (one, one, np.array([1.5, 0, 0, 0, 0, 0], np.float32), np.array([1, 0] * 3, bool))
    )
    half = await session.scalar(select(cast(ITEMS.c.vector, HalfVector(D))))
    assert half is not None
    assert half.tolist() == one.tolist()


async def test_distances_are_the_ones_of_numpy(session: AsyncSession) -> None:
    one, other = np.random.default_rng(3).normal(size=(2, D)).astype(np.float16).astype(np.float32)
    bits, others = np.array([1, 1, 0, 0, 1, 0], bool), np.array([1, 0, 1, 0, 1, 0], bool)
    await session.execute(insert(ITEMS).values(vector=one, half=one, sparse=one, bits=bits))
    product = float(one @ other)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    for column in VALUES[:3]:
        asked = select(
            cosine_distance(column, other),
            l2_distance(column, other),
            l1_distance(column, other),
            max_inner_product(column, other),
            cosine_distance(column, column),
        )
        truth = [1 - product / lengths, np.linalg.norm(one - other), np.abs(one - other).sum(), -product, 0]
        assert tuple((await session.execute(asked)).one()) == pytest.approx(truth, abs=1e-5)
    found = (
        await session.execute(
            select(hamming_distance(ITEMS.c.bits, others), jaccard_distance(ITEMS.c.bits, others))
        )
    ).one()
    assert list(found) == [2, pytest.approx(1 - 2 / 4)]


@pytest.mark.parametrize(
    ("column", "value", "error", "says"),
    [
        ("vector", [1.0] * 5, DimensionMismatch, "expected 6 dimensions, got 5"),
        ("half", [1.0] * 7, DimensionMismatch, "expected 6 dimensions, got 7"),
        (
            "half",
            [65520.0, *[1.0] * 5],
            InvalidVector,
            "beyond half precision, whose largest number is 65504",
        ),
        ("half", [float("nan")] * 6, InvalidVector, "NaN"),
        ("sparse", {6: 1.0}, InvalidVector, "expected indices from 0 to 5"),
        ("sparse", pgvector.SparseVector({0: 1.0}, 7), DimensionMismatch, "expected 6 dimensions, got 7"),
        ("bits", [1, 0], DimensionMismatch, "expected 6 dimensions, got 2"),
        ("bits", [2] * 6, InvalidVector, "expected True or False"),
    ],
)
async def test_a_wrong_value_is_refused_before_it_is_sent(
    session: AsyncSession, column: str, value: Any, error: type[Exception], says: str
) -> None:
    await session.execute(insert(ITEMS).values(vector=[1.0] * 6))
    for write in (
        lambda: session.execute(insert(ITEMS).values({column: value})),
        lambda: copy_rows(session, ITEMS, [ITEMS.c[column]], [(value,)]),
    ):
        with pytest.raises(error, match=rf"vector_items\.{column}: .*{says}"), translated():
            await write()
    assert len((await session.execute(select(ITEMS.c.id))).all()) == 1


async def test_a_matrix_is_read_at_once(session: AsyncSession, uow: AsyncUnitOfWork) -> None:
    rows = np.random.default_rng(5).normal(size=(50, D)).astype(np.float16).astype(np.float32)
    await copy_rows(session, ITEMS, VALUES[:2], [(row, row) for row in rows])
    await copy_rows(session, ITEMS, VALUES[:1], [(None,)])
    for column in VALUES[:2]:
        ids, matrix = await uow.fetch_matrix(select(ITEMS.c.id, column).order_by(ITEMS.c.id))
        assert ids == list(range(1, 51))
        assert (matrix.dtype, matrix.shape, matrix.flags.c_contiguous) == (
            np.dtype(np.float32),
            (50, D),
            True,
        )
        assert matrix.tobytes() == rows.tobytes()
    wanted = [7, 3, 49, 51, 99]
    some = select(ITEMS.c.id, ITEMS.c.half).where(ITEMS.c.id.in_(wanted)).order_by(ITEMS.c.id.desc()).limit(2)
    ids, matrix = await uow.fetch_matrix(some)
    assert ids == [49, 7]
    assert matrix.tobytes() == rows[[48, 6]].tobytes()
    near = ITEMS.c.vector.cosine_distance(rows[9])
    ids, matrix = await uow.fetch_matrix(select(ITEMS.c.id, ITEMS.c.vector).order_by(near).limit(1))
    assert ids == [10]
    ids, matrix = await uow.fetch_matrix(select(ITEMS.c.id, ITEMS.c.vector).where(ITEMS.c.id < 0))
    assert (ids, matrix.shape) == ([], (0, D))


async def test_a_matrix_has_keys_of_any_type(uow: AsyncUnitOfWork) -> None:
    entry = await uow.memory_entries.remember("matrix", "text", embedding=[1.0] * 768)
    ids, matrix = await uow.fetch_matrix(
        select(MemoryEntry.id, MemoryEntry.embedding).where(MemoryEntry.namespace == "matrix")
    )
    assert ids == [entry.id]
    assert matrix.tolist() == [[1.0] * 768]
    names, _ = await uow.fetch_matrix(select(MemoryEntry.namespace, MemoryEntry.embedding).limit(1))
    assert names == ["matrix"]


async def test_only_a_key_and_a_vector_make_a_matrix(session: AsyncSession, uow: AsyncUnitOfWork) -> None:
    for wrong in (
        select(ITEMS.c.id),
        select(ITEMS.c.vector, ITEMS.c.id),
        select(ITEMS.c.id, ITEMS.c.sparse),
        select(ITEMS.c.id, ITEMS.c.vector, ITEMS.c.half),
    ):
        with pytest.raises(InvalidInputError, match="expected a SELECT of a key and a vector"):
            await uow.fetch_matrix(wrong)
    await copy_rows(session, ITEMS, [ITEMS.c.vector, ITEMS.c.open], [([1.0] * D, [1.0] * n) for n in (2, 1)])
    with pytest.raises(DimensionMismatch, match="matrix: expected 2 dimensions"):
        await uow.fetch_matrix(select(ITEMS.c.id, ITEMS.c.open).order_by(ITEMS.c.id))
    with pytest.raises(SchemaOutdatedError, match="nosuch"):
        async with session.begin_nested():
            await uow.fetch_matrix(select(literal_column("nosuch"), ITEMS.c.vector))
    assert (await uow.fetch_matrix(select(ITEMS.c.id, ITEMS.c.vector)))[1].shape == (2, D)
    assert await session.scalar(select(ITEMS.c.id).limit(1)) == 1
