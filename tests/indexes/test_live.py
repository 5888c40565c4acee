"""Vectors on their way through the real server: bit for bit, whatever the statement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    Table,
    cast,
    func,
    insert,
    literal,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, aliased, undefer

from alfred_db import Memory, MemoryBank
from alfred_db.errors import DimensionMismatch, InvalidVector, translated
from alfred_db.types import Vector

TABLE = Table(
    "vectors_live",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("v", Vector(3, allow_zero=True)),
    Column("any_length", Vector(None, allow_zero=True)),
    prefixes=["TEMPORARY"],
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VECTORS = st.lists(FLOATS, min_size=3, max_size=3).map(lambda values: np.array(values, dtype=np.float32))
LIVE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)


@pytest.fixture(scope="module")
def connection(migrated: Engine) -> Iterator[Any]:
    with migrated.connect() as connection:
        TABLE.create(connection)
        yield connection


@LIVE
@given(VECTORS)
def test_any_vector_comes_back_as_it_was_sent(connection: Any, vector: Any) -> None:
    found = connection.scalar(select(literal(vector, Vector(3, allow_zero=True))))
    assert found.tobytes() == vector.tobytes()


@LIVE
@given(st.lists(VECTORS, min_size=1, max_size=5))
def test_vectors_come_back_from_every_kind_of_statement(connection: Any, vectors: list[Any]) -> None:
    with connection.begin_nested() as savepoint:
        rows = [
            {"id": number, "v": vector, "any_length": vector[:2]} for number, vector in enumerate(vectors)
        ]
        connection.execute(insert(TABLE), rows)
        wanted = [vector.tobytes() for vector in vectors]
        assert [v.tobytes() for v in connection.scalars(select(TABLE.c.v).order_by(TABLE.c.id))] == wanted
        inner = select(TABLE.c.id, TABLE.c.v).subquery()
        assert [v.tobytes() for v in connection.scalars(select(inner.c.v).order_by(inner.c.id))] == wanted
        cte = select(TABLE.c.id, TABLE.c.v).cte()
        assert [v.tobytes() for v in connection.scalars(select(cte.c.v).order_by(cte.c.id))] == wanted
        nested = union_all(select(TABLE.c.id, TABLE.c.v), select(TABLE.c.id, TABLE.c.v)).subquery()
        found = connection.scalars(select(nested.c.v).order_by(nested.c.id)).all()
        assert [v.tobytes() for v in found[::2]] == wanted
        assert [v.tobytes() for v in connection.scalars(select(TABLE.c.any_length).order_by(TABLE.c.id))] == [
            vector[:2].tobytes() for vector in vectors
        ]
        returned = connection.scalars(
            update(TABLE).where(TABLE.c.id == 0).values(v=vectors[-1]).returning(TABLE.c.v)
        ).one()
        assert returned.tobytes() == wanted[-1]
        equal = connection.scalar(select(func.count()).where(TABLE.c.v == vectors[-1]))
        assert equal >= 1
        connection.execute(TABLE.update().values(v=None))
        assert set(connection.scalars(select(TABLE.c.v))) == {None}
        savepoint.rollback()


def test_many_rows_are_returned_in_their_order(connection: Any) -> None:
    with connection.begin_nested() as savepoint:
        rows = [{"id": number, "v": [number, 1, 2]} for number in range(1500)]
        found = connection.execute(
            insert(TABLE).returning(TABLE.c.id, TABLE.c.v, sort_by_parameter_order=True), rows
        )
        assert [(row.id, row.v[0]) for row in found] == [(number, float(number)) for number in range(1500)]
        savepoint.rollback()


def test_text_from_raw_sql_is_read_too(connection: Any) -> None:
    statement = text("SELECT CAST('[1,2,3]' AS vector) AS v").columns(v=Vector(3))
    assert connection.scalar(statement).tolist() == [1.0, 2.0, 3.0]


def test_a_cast_and_a_distance_work(connection: Any) -> None:
    assert connection.scalar(select(cast([1, 2, 3], Vector(3)))).tolist() == [1.0, 2.0, 3.0]
    with connection.begin_nested() as savepoint:
        connection.execute(insert(TABLE), [{"id": 1, "v": [3.0, 4.0, 0.0]}, {"id": 2, "v": [1.0, 0.0, 0.0]}])
        column: Any = TABLE.c.v
        nearest = select(TABLE.c.id, column.l2_distance([1, 0, 0]).label("d")).order_by("d")
        assert connection.execute(nearest).all() == [(2, 0.0), (1, pytest.approx(20**0.5))]
        assert connection.scalar(select(column.cosine_distance(column)).where(TABLE.c.id == 1)) == 0
        assert connection.scalar(select(column.max_inner_product((1, 0, 0))).where(TABLE.c.id == 1)) == -3
        assert connection.scalar(select(column.l1_distance(np.ones(3))).where(TABLE.c.id == 1)) == 6
        savepoint.rollback()


def test_a_bad_vector_never_reaches_the_server(connection: Any) -> None:
    for value, kind in (([1.0], DimensionMismatch), ([1.0, 2.0, float("nan")], InvalidVector)):
        with pytest.raises(kind, match=r"vectors_live\.v: "), translated():
            connection.execute(insert(TABLE), [{"id": 1, "v": value}])
        with pytest.raises(kind, match=r"vectors_live\.v: "), translated():
            connection.execute(select(TABLE.c.id).order_by(TABLE.c.v.op("<=>")(value)))
    assert connection.scalar(select(func.count()).select_from(TABLE)) == 0


def test_the_orm_writes_reads_and_changes_a_vector(migrated: Engine) -> None:
    first, second = np.linspace(-1, 1, 384, dtype=np.float32), np.linspace(1, 2, 384, dtype=np.float32)
    with Session(migrated) as session:
        memory = Memory(bank=MemoryBank(name="b"), content="c", embedding=first)
        session.add(memory)
        session.flush()
        session.expire(memory)
        assert memory.embedding is not None
        assert memory.embedding.tobytes() == first.tobytes()
        memory.embedding = second
        session.flush()
        session.expunge_all()
        found = session.scalars(select(Memory).options(undefer(Memory.embedding))).one()
        assert found.embedding is not None
        assert found.embedding.tobytes() == second.tobytes()
        other = aliased(Memory)
        assert session.scalars(select(other.embedding)).one().tobytes() == second.tobytes()  # type: ignore[union-attr]
        copied = session.scalars(
            insert(Memory)
            .from_select(["content", "embedding"], select(Memory.content, Memory.embedding))
            .returning(Memory.embedding)
        ).one()
        assert copied is not None
        assert copied.tobytes() == second.tobytes()


async def test_the_same_with_asyncio(migrated: Engine) -> None:
    engine = create_async_engine(migrated.url)
    vector = np.array([1e-45, -0.0, 3.4e38], dtype=np.float32)
    async with engine.connect() as connection:
        found = await connection.scalar(select(literal(vector, Vector(3))))
        assert found is not None
        assert found.tobytes() == vector.tobytes()
    await engine.dispose()
