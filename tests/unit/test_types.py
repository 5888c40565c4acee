from __future__ import annotations

import array
import struct
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np
import pgvector
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, Table, literal, select
from sqlalchemy.dialects.postgresql import psycopg

from alfred_db import Memory
from alfred_db.errors import DimensionMismatch, InvalidInputError, InvalidVector, SchemaDriftError
from alfred_db.models import Base
from alfred_db.queries.shapes.vector_search import vector_index
from alfred_db.types import Bit, EnumText, HalfVector, SparseVector, Vector
from alfred_db.vectors.formats import pack, unpack

DIALECT = psycopg.dialect()
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ONE_TWO_THREE = struct.pack(">HH3f", 3, 0, 1, 2, 3)


def read_only() -> Any:
    values = np.array([1, 2, 3], dtype=np.float32)
    values.flags.writeable = False
    return values


@pytest.mark.parametrize(
    "value",
    [
        [1.0, 2.0, 3.0],
        (1, 2, 3),
        [np.float32(1), np.float64(2), np.int64(3)],
        np.array([1, 2, 3], dtype=np.float32),
        np.array([1, 2, 3], dtype=np.float64),
        np.array([1, 2, 3], dtype=np.float16),
        np.array([1, 2, 3], dtype=">f4"),
        np.array([1, 2, 3], dtype=np.int32),
        np.array([1, 2, 3], dtype=np.uint8),
        np.array([1, 9, 2, 9, 3, 9], dtype=np.float32)[::2],
        np.array([3, 2, 1], dtype=np.float64)[::-1],
        np.array([[1, 9], [2, 9], [3, 9]], dtype=np.float32)[:, 0],
        read_only(),
        array.array("d", [1, 2, 3]),
        pgvector.Vector([1, 2, 3]),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_every_usual_form_of_a_vector_is_packed(value: Any) -> None:
    assert pack(value, 3) == ONE_TWO_THREE
    assert Vector(3).pack(value) == ONE_TWO_THREE


def test_a_vector_is_returned_as_float32_and_cannot_be_changed() -> None:
    found = unpack(ONE_TWO_THREE)
    assert (found.dtype, found.dtype.isnative, found.tolist()) == (
        np.dtype(np.float32),
        True,
        [1.0, 2.0, 3.0],
    )
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 9


@given(st.lists(FLOATS, min_size=1, max_size=50))
def test_any_float32_vector_round_trips_bit_for_bit(values: list[float]) -> None:
    vector = np.array(values, dtype=np.float32)
    for form in (vector, vector.astype(np.float64), values):
        assert unpack(pack(form, len(values))).tobytes() == vector.tobytes()


@given(st.lists(FLOATS, min_size=1, max_size=20))
def test_our_binary_form_is_the_one_of_pgvector(values: list[float]) -> None:
    assert pack(values, None) == pgvector.Vector(values).to_binary()


def infinite() -> Iterator[float]:
    yield 1.0


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        ([1.0, 2.0], DimensionMismatch, "expected 3 dimensions, got 2"),
        ([1.0] * 4, DimensionMismatch, "expected 3 dimensions, got 4"),
        ([], DimensionMismatch, "expected 3 dimensions, got 0"),
        (np.ones(384), DimensionMismatch, "expected 3 dimensions, got 384"),
        ([1.0, float("nan"), 1.0], InvalidVector, "NaN, infinite"),
        ([1.0, float("inf"), 1.0], InvalidVector, "NaN, infinite"),
        ([1.0, float("-inf"), 1.0], InvalidVector, "NaN, infinite"),
        ([1.0, 1e39, 1.0], InvalidVector, "beyond float32"),
        (np.array([1, -1e300, 1]), InvalidVector, "beyond float32"),
        ([1, 10**30, 1], InvalidVector, "other elements"),
        ([1, 10**400, 1], InvalidVector, "other elements"),
        ([[1.0, 2.0, 3.0]], InvalidVector, r"got shape \(1, 3\)"),
        (np.ones((3, 3)), InvalidVector, r"got shape \(3, 3\)"),
        ([[1.0], [1.0, 2.0]], InvalidVector, "got list"),
        ([1.0, [2.0], 3.0], InvalidVector, "got list"),
        (1.0, InvalidVector, r"got shape \(\)"),
        (["1", "2", "3"], InvalidVector, "got list"),
        ("[1,2,3]", InvalidVector, "got str"),
        ("123", InvalidVector, "got str"),
        (b"123", InvalidVector, "got bytes"),
        (ONE_TWO_THREE, InvalidVector, "got bytes"),
        ([1.0, None, 3.0], InvalidVector, "got list"),
        ([1.0, "2", 3.0], InvalidVector, "got list"),
        ([True, False, True], InvalidVector, "got list"),
        (np.array([True, False, True]), InvalidVector, "got ndarray"),
        ([1j, 2, 3], InvalidVector, "got list"),
        ([Decimal(1), 2, 3], InvalidVector, "got list"),
        ({"a": 1}, InvalidVector, "got dict"),
        ({1.0, 2.0, 3.0}, InvalidVector, "got set"),
        (object(), InvalidVector, "got object"),
        (infinite(), InvalidVector, "got generator"),
    ],
    ids=lambda value: None if isinstance(value, str | type) else type(value).__name__,
)
def test_what_is_no_vector_is_refused(value: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        pack(value, 3, "t.embedding")
    assert str(caught.value).startswith("t.embedding: expected 3") or kind is InvalidVector
    assert str(caught.value).startswith("t.embedding: ")


@pytest.mark.parametrize("value", [["0.123456789"] * 3, [0.123456789] * 4, [0.123456789, None, 1.0]])
def test_no_element_is_in_the_message_or_behind_it(value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        pack(value, 3)
    assert "0.1234" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "0.1234" not in str(caught.value.__context__)


@pytest.mark.parametrize("value", [[0, 0, 0], [0.0, -0.0, 0.0], np.zeros(3), [1e-60, 0, 0]])
def test_the_zero_vector_has_no_direction(value: Any) -> None:
    with pytest.raises(InvalidVector, match="zero vector"):
        Vector(3).pack(value)
    assert len(Vector(3, allow_zero=True).pack(value)) == 16


@pytest.mark.parametrize("length", [0, 16_001, 70_000])
def test_a_length_that_pgvector_cannot_store_is_refused(length: int) -> None:
    with pytest.raises(DimensionMismatch, match=f"expected 1 to 16000 dimensions, got {length}"):
        pack(np.ones(length), None)


def test_the_message_names_table_and_column() -> None:
    embedding: Any = vector_index(Memory).column.type
    with pytest.raises(DimensionMismatch, match=r"^memories\.embedding: expected 384 dimensions, got 2;"):
        embedding.pack([1.0, 2.0])
    names = {
        f"{table.fullname}.{column.name}": column.type._where
        for table in Base.metadata.tables.values()
        for column in table.c
        if isinstance(column.type, Vector)
    }
    assert len(names) >= 5
    assert all(name == where for name, where in names.items())


def test_a_column_that_is_added_later_is_named_too() -> None:
    table = Table("late", MetaData(), schema="s")
    column: Column[Any] = Column("v", Vector(3))
    table.append_column(column)
    process = column.type.dialect_impl(DIALECT).bind_processor(DIALECT)
    with pytest.raises(DimensionMismatch, match=r"^s\.late\.v: "):
        process([1.0])


def test_distances_bind_a_vector_with_its_type() -> None:
    expressions = {
        "<=>": Memory.embedding.cosine_distance([1.0] * 384),
        "<->": Memory.embedding.l2_distance([1.0] * 384),
        "<+>": Memory.embedding.l1_distance([1.0] * 384),
        "<#>": Memory.embedding.max_inner_product([1.0] * 384),
    }
    for operator, expression in expressions.items():
        compiled = select(expression).compile(dialect=DIALECT)
        assert f"embedding {operator} %(embedding_1)s::VECTOR(384)" in str(compiled)


@pytest.mark.parametrize(
    ("type_", "value", "same"),
    [
        (HalfVector(3), [1, 2, 3], pgvector.HalfVector([1.0, 2.0, 3.0])),
        (HalfVector(3), (1.0, 2.0, 3.0), pgvector.HalfVector([1.0, 2.0, 3.0])),
        (HalfVector(3), np.array([1, 2, 3], dtype=np.float64)[::-1], pgvector.HalfVector([3.0, 2.0, 1.0])),
        (HalfVector(3), pgvector.HalfVector([1.0, 2.0, 3.0]), pgvector.HalfVector([1.0, 2.0, 3.0])),
        (HalfVector(3), pgvector.Vector([1.0, 2.0, 65504.0]), pgvector.HalfVector([1.0, 2.0, 65504.0])),
        (Vector(3), pgvector.HalfVector([1.0, 2.0, 3.0]), pgvector.Vector([1.0, 2.0, 3.0])),
        (SparseVector(4), {2: 5.0, 0: 1.0, 3: 0.0}, pgvector.SparseVector([1.0, 0.0, 5.0, 0.0])),
        (SparseVector(4), {}, pgvector.SparseVector({}, 4)),
        (SparseVector(4), [1, 0, 5, 0], pgvector.SparseVector([1.0, 0.0, 5.0, 0.0])),
        (
            SparseVector(4),
            np.array([1, 0, 5, 0], dtype=np.float16),
            pgvector.SparseVector([1.0, 0.0, 5.0, 0.0]),
        ),
        (SparseVector(), pgvector.SparseVector({7: 2.0}, 9), pgvector.SparseVector({7: 2.0}, 9)),
        (SparseVector(3), {1: 1e-60, 2: 1.0}, pgvector.SparseVector({2: 1.0}, 3)),
        (Bit(3), [True, False, True], pgvector.Bit("101")),
        (Bit(3), (1, 0, 1), pgvector.Bit("101")),
        (Bit(3), "101", pgvector.Bit("101")),
        (Bit(9), np.array([1, 0, 1, 0, 0, 0, 0, 0, 1], dtype=np.uint8), pgvector.Bit("101000001")),
        (Bit(3), np.array([1.0, 0.0, 1.0]) > 0, pgvector.Bit("101")),
        (Bit(3), pgvector.Bit("001"), pgvector.Bit("001")),
        (Bit(3), [0, 0, 0], pgvector.Bit("000")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_form_of_the_other_types_is_packed_as_pgvector_does(type_: Any, value: Any, same: Any) -> None:
    type_.allow_zero = True
    assert type_.pack(value) == same.to_binary()


@pytest.mark.parametrize(
    ("type_", "value", "kind", "says"),
    [
        (HalfVector(3), [1.0, 2.0, 65520.0], InvalidVector, "whose largest number is 65504"),
        (HalfVector(3), [1.0, 2.0, float("inf")], InvalidVector, "infinite"),
        (HalfVector(3), [1e-9, 0, 0], InvalidVector, "zero vector"),
        (HalfVector(3), [[1.0, 2.0, 3.0]], InvalidVector, r"got shape \(1, 3\)"),
        (HalfVector(3), "abc", InvalidVector, "got str"),
        (HalfVector(3), pgvector.SparseVector([1.0, 2.0, 3.0]), InvalidVector, "got SparseVector"),
        (HalfVector(3), [1.0], DimensionMismatch, "expected 3 dimensions, got 1"),
        (SparseVector(3), {3: 1.0}, InvalidVector, "expected indices from 0 to 2, got others"),
        (SparseVector(3), {-1: 1.0}, InvalidVector, "expected indices from 0 to 2, got others"),
        (SparseVector(3), {0.5: 1.0}, InvalidVector, "expected a flat sequence of indices"),
        (SparseVector(3), {"a": 1.0}, InvalidVector, "expected a flat sequence of indices"),
        (SparseVector(3), {0: "a"}, InvalidVector, "expected a flat sequence of numbers"),
        (SparseVector(3), {0: float("nan")}, InvalidVector, "NaN, infinite"),
        (SparseVector(3), {0: 1e39}, InvalidVector, "beyond float32"),
        (SparseVector(3), {0: 0.0}, InvalidVector, "zero vector"),
        (SparseVector(3), {}, InvalidVector, "zero vector"),
        (SparseVector(3), [1.0], DimensionMismatch, "expected 3 dimensions, got 1"),
        (
            SparseVector(3),
            pgvector.SparseVector({0: 1.0}, 4),
            DimensionMismatch,
            "expected 3 dimensions, got 4",
        ),
        (SparseVector(), {0: 1.0}, InvalidVector, "the column has no dimensions"),
        (
            SparseVector(3),
            pgvector.SparseVector._from_parts(3, [1, 1], [1.0, 2.0]),
            InvalidVector,
            "the same index twice",
        ),
        (
            SparseVector(3),
            pgvector.SparseVector._from_parts(3, [0, 1], [1.0]),
            InvalidVector,
            "index of each value",
        ),
        (SparseVector(16_001), np.ones(16_001), InvalidVector, "at most 16000 elements that are not zero"),
        (SparseVector(3), object(), InvalidVector, "got object"),
        (Bit(3), [2, 0, 1], InvalidVector, "expected True or False, or 1 and 0"),
        (Bit(3), [1.0, 0.0, 1.0], InvalidVector, "expected a flat sequence of True or False"),
        (Bit(3), "1x1", InvalidVector, "got other numbers"),
        (Bit(3), "1\ud800é", InvalidVector, "got other numbers"),
        (Bit(3), "1011", DimensionMismatch, "expected 3 dimensions, got 4"),
        (Bit(3), [True], DimensionMismatch, "expected 3 dimensions, got 1"),
        (Bit(3), pgvector.Bit("1010"), DimensionMismatch, "expected 3 dimensions, got 4"),
    ],
    ids=lambda value: None if isinstance(value, str | type) else type(value).__name__,
)
def test_what_is_no_value_of_the_other_types_is_refused(
    type_: Any, value: Any, kind: type[Exception], says: str
) -> None:
    Table("t", MetaData(), Column("v", type_))
    with pytest.raises(kind, match=says) as caught:
        type_.pack(value)
    assert str(caught.value).startswith("t.v: ")


def test_a_sparse_array_of_scipy_is_taken() -> None:
    class Coordinates:
        """What this library sees of scipy.sparse.coo_array, which the tests do not install."""

        shape = (1, 4)
        data: ClassVar[Any] = np.array([2.0, 3.0])
        coords: ClassVar[Any] = (np.array([0, 0]), np.array([3, 1]))
        has_canonical_format = True

        def tocoo(self, copy: bool = True) -> Coordinates:
            return self

    found = pgvector.SparseVector({1: 3.0, 3: 2.0}, 4).to_binary()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pgvector.sparsevec.is_sparse_array", lambda value: isinstance(value, Coordinates))
        assert SparseVector(4).pack(Coordinates()) == found
        Coordinates.shape = (2, 4)
        with pytest.raises(InvalidVector, match=r"one row, got shape \(2, 4\)"):
            SparseVector(4).pack(Coordinates())


def test_a_literal_is_the_text_of_pgvector() -> None:
    for type_, value, text in (
        (Vector(2), [1, 2], "[1.0,2.0]"),
        (HalfVector(2), [1, 2], "[1.0,2.0]"),
        (SparseVector(2), {1: 2}, "{2:2.0}/2"),
        (Bit(2), [1, 0], "10"),
    ):
        shown = select(literal(value, type_)).compile(dialect=DIALECT, compile_kwargs={"literal_binds": True})
        assert f"'{text}'" in str(shown)


class Light(StrEnum):
    RED = "red"
    GREEN = "green"


def test_an_enum_is_bound_as_its_text_and_read_as_a_member() -> None:
    type_ = EnumText(Light)
    assert type_.process_bind_param(Light.RED, DIALECT) == "red"
    assert type(type_.process_bind_param(Light.RED, DIALECT)) is str
    assert type_.process_bind_param("green", DIALECT) == "green"
    assert type_.process_bind_param(None, DIALECT) is None
    assert type_.process_result_value("green", DIALECT) is Light.GREEN
    assert type_.process_result_value(None, DIALECT) is None


@pytest.mark.parametrize("value", ["blue", "RED", "", 1, True, ["red"], {"red": 1}, object()])
def test_what_is_no_member_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="Light: expected one of red, green, got"):
        EnumText(Light).process_bind_param(value, DIALECT)


def test_a_long_text_that_is_no_member_is_cut() -> None:
    with pytest.raises(InvalidInputError) as caught:
        EnumText(Light).process_bind_param("x" * 5000, DIALECT)
    assert len(str(caught.value)) < 200


def test_a_member_that_only_a_newer_version_knows_is_named() -> None:
    with pytest.raises(SchemaDriftError, match=r"the database holds 'blue'.*upgrade alfred-db"):
        EnumText(Light).process_result_value("blue", DIALECT)


def test_types_differ_in_the_statement_cache() -> None:
    assert Vector(3)._static_cache_key != Vector(4)._static_cache_key
    assert Vector(3)._static_cache_key != Vector(3, allow_zero=True)._static_cache_key
    assert EnumText(Light)._static_cache_key != EnumText(StrEnum("Other", ["A"]))._static_cache_key  # type: ignore[arg-type]


def test_what_the_column_allows_holds_where_values_are_bound() -> None:
    process = Vector(3, allow_zero=True).dialect_impl(DIALECT).bind_processor(DIALECT)
    assert process([0, 0, 0]) == struct.pack(">HH3f", 3, 0, 0, 0, 0)
