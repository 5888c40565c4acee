from __future__ import annotations

import array
import struct
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from typing import Any

import numpy as np
import pgvector
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, Table, select
from sqlalchemy.dialects.postgresql import psycopg

from alfred_db import Memory
from alfred_db.errors import DimensionMismatch, InvalidInputError, InvalidVector, SchemaDriftError
from alfred_db.models import Base
from alfred_db.types import EnumText, Vector, pack, unpack

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


def test_a_vector_is_given_as_float32_and_cannot_be_changed() -> None:
    found = unpack(ONE_TWO_THREE)
    assert (found.dtype, found.dtype.isnative, found.tolist()) == (np.float32, True, [1.0, 2.0, 3.0])
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
        ([1, 10**30, 1], InvalidVector, "elements that are none"),
        ([1, 10**400, 1], InvalidVector, "elements that are none"),
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
    with pytest.raises(DimensionMismatch, match=r"^memories\.embedding: expected 384 dimensions, got 2;"):
        Memory.__table__.c.embedding.type.pack([1.0, 2.0])
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
    column = Column("v", Vector(3))
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


def test_types_are_told_apart_in_the_statement_cache() -> None:
    assert Vector(3)._static_cache_key != Vector(4)._static_cache_key
    assert Vector(3)._static_cache_key != Vector(3, allow_zero=True)._static_cache_key
    assert EnumText(Light)._static_cache_key != EnumText(StrEnum("Other", ["A"]))._static_cache_key


def test_what_the_column_allows_holds_where_values_are_bound() -> None:
    process = Vector(3, allow_zero=True).dialect_impl(DIALECT).bind_processor(DIALECT)
    assert process([0, 0, 0]) == struct.pack(">HH3f", 3, 0, 0, 0, 0)
