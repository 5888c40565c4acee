"""The vector types do in statements what pgvector's own types for SQLAlchemy do: one list of expressions, run with both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pgvector
import pgvector.sqlalchemy as own
import pytest
from pgvector.psycopg import register_vector
from sqlalchemy import (
    ARRAY,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    any_,
    bindparam,
    case,
    cast,
    column,
    delete,
    desc,
    distinct,
    exists,
    func,
    insert,
    intersect,
    literal,
    select,
    text,
    true,
    tuple_,
    type_coerce,
    union,
    union_all,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import ARRAY as POSTGRESQL_ARRAY
from sqlalchemy.dialects.postgresql import aggregate_order_by, array, array_agg
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from alfred_db import Bit, HalfVector, SparseVector, Vector

OURS = (Vector, HalfVector, SparseVector, Bit)
THEIRS = (own.VECTOR, own.HALFVEC, own.SPARSEVEC, own.BIT)
ONE, TWO = [1, -1.5, 0], [2, -1.5, 0]


def table(types: tuple[Any, ...]) -> Table:
    names = ("v", "h", "s", "b")
    columns = [Column(name, type_(3)) for name, type_ in zip(names, types, strict=True)]
    arrays: list[Column[Any]] = [
        Column(f"{name}a", ARRAY(type_(3))) for name, type_ in zip(names, types, strict=True)
    ]
    arrays[0].type = POSTGRESQL_ARRAY(types[0](3))
    return Table(
        "expressions",
        MetaData(),
        Column("id", Integer, primary_key=True),
        *columns,
        *arrays,
        Column("filled", types[0](3), server_default="[1,2,3]"),
        prefixes=["TEMPORARY"],
    )


EXPRESSIONS: dict[str, Callable[[Table], Any]] = {
    "plain": lambda t: select(t.c.id, t.c.v, t.c.h, t.c.s, t.c.b).order_by(t.c.id),
    "order": lambda t: select(t.c.v).order_by(t.c.v.desc(), t.c.id),
    "order, label": lambda t: select(t.c.v.label("e")).order_by("e"),
    "order, label, desc": lambda t: select(t.c.v.label("e"), t.c.id).order_by(desc("e"), t.c.id),
    "order, text": lambda t: select(t.c.v.label("e")).order_by(text("e DESC")),
    "order, number": lambda t: select(t.c.v).order_by(text("1")),
    **{
        f"distinct {name}": lambda t, name=name: select(t.c[name]).distinct().order_by(t.c[name])
        for name in "vhsb"
    },
    "distinct with others": lambda t: select(t.c.v, t.c.b).distinct().order_by(t.c.v, t.c.b),
    "distinct, no order": lambda t: select(func.count()).select_from(select(t.c.v).distinct().subquery()),
    "group": lambda t: select(t.c.v, func.count()).group_by(t.c.v).order_by(t.c.v),
    "group by label": lambda t: select(t.c.v.label("e"), func.count()).group_by("e").order_by("e"),
    "having": lambda t: select(t.c.v).group_by(t.c.v).having(func.count() > 1).order_by(t.c.v),
    "union": lambda t: union(select(t.c.v), select(t.c.v)).order_by("v"),
    "union all": lambda t: union_all(select(t.c.id, t.c.v), select(t.c.id, t.c.v)).order_by("id"),
    "intersect": lambda t: intersect(select(t.c.v), select(t.c.v)).order_by("v"),
    "avg": lambda t: select(func.avg(t.c.v), func.sum(t.c.v), func.avg(t.c.h), func.sum(t.c.h)),
    "avg of a group": lambda t: select(t.c.b, func.avg(t.c.v)).group_by(t.c.b).order_by(t.c.b),
    "array_agg": lambda t: select(*(func.array_agg(t.c[name]) for name in "vhsb")),
    "array_agg, ordered": lambda t: select(array_agg(aggregate_order_by(t.c.v, t.c.v.desc()))),
    "array": lambda t: select(array([t.c.v, t.c.v])).order_by(t.c.id),
    "first_value": lambda t: select(func.first_value(t.c.v).over(order_by=t.c.id)),
    "first_value, typed": lambda t: select(func.first_value(t.c.v, type_=t.c.v.type).over(order_by=t.c.id)),
    "lag": lambda t: select(func.lag(t.c.v).over(order_by=t.c.id), func.lead(t.c.b).over(order_by=t.c.id)),
    "row_number": lambda t: select(t.c.v, func.row_number().over(partition_by=t.c.v, order_by=t.c.id)),
    "equal": lambda t: select(t.c.id).where(t.c.v == ONE),
    "not equal": lambda t: select(t.c.id).where(t.c.v != ONE),
    "greater": lambda t: select(t.c.id).where(t.c.v > ONE),
    "between": lambda t: select(t.c.id).where(t.c.v.between(ONE, TWO)),
    "in": lambda t: select(t.c.id).where(t.c.v.in_([ONE, TWO])),
    "in, arrays": lambda t: select(t.c.id).where(t.c.v.in_([np.array(ONE), np.array(TWO)])),
    "not in": lambda t: select(t.c.id).where(t.c.v.not_in([ONE])),
    "in, bits": lambda t: select(t.c.id).where(t.c.b.in_(["111"])),
    "equal, bits": lambda t: select(t.c.id).where(t.c.b == "111"),
    "distinct from": lambda t: select(t.c.id).where(t.c.v.is_distinct_from(ONE)),
    "is null": lambda t: select(t.c.id).where(t.c.v.is_(None)),
    "case": lambda t: select(case((t.c.id == 1, t.c.v), else_=None)).order_by(t.c.id),
    "coalesce": lambda t: select(func.coalesce(t.c.v, t.c.v), func.nullif(t.c.v, t.c.v)),
    "greatest": lambda t: select(func.greatest(t.c.v, cast(TWO, t.c.v.type))).order_by(t.c.id),
    "cast": lambda t: select(cast(t.c.v, t.c.h.type), cast(ONE, t.c.v.type), cast(t.c.v, Text)),
    "literal": lambda t: select(literal(ONE, t.c.v.type), type_coerce(ONE, t.c.v.type)),
    "literal, bits": lambda t: select(literal("101", t.c.b.type)),
    "bound": lambda t: select(t.c.id).where(t.c.v == bindparam("one")).params(one=ONE),
    "arithmetic": lambda t: select(t.c.v + t.c.v, t.c.v - ONE, t.c.v * t.c.v, t.c.v.op("||")(t.c.v)),
    "distance": lambda t: select(t.c.id, t.c.v.l2_distance(ONE)).order_by(t.c.v.l2_distance(ONE), t.c.id),
    "distances": lambda t: select(
        t.c.v.cosine_distance(t.c.v), t.c.v.max_inner_product(ONE), t.c.v.l1_distance(ONE)
    ),
    "distances, bits": lambda t: select(t.c.b.hamming_distance("101"), t.c.b.jaccard_distance("101")),
    "nearest": lambda t: select(t.c.v).order_by(t.c.v.l2_distance(ONE), t.c.id).limit(2),
    "functions": lambda t: select(
        func.l2_normalize(t.c.v),
        func.subvector(t.c.v, 1, 2),
        func.vector_norm(t.c.v),
        func.vector_dims(t.c.v),
    ),
    "binary_quantize": lambda t: select(cast(func.binary_quantize(t.c.v), t.c.b.type)),
    "scalar subquery": lambda t: select(select(t.c.v).order_by(t.c.id).limit(1).scalar_subquery()),
    "cte": lambda t: select(cte := select(t.c.v).cte().c.v).distinct().order_by(cte),
    "subquery": lambda t: select(found := select(t.c.v, t.c.id).subquery()).order_by(found.c.id),
    "lateral": lambda t: select(t.c.id, (one := select(t.c.v).limit(1).lateral()).c.v).join(one, true()),
    "exists": lambda t: select(exists().where(t.c.v == ONE)),
    "count distinct": lambda t: select(func.count(distinct(t.c.v))),
    "tuple": lambda t: select(t.c.id).where(tuple_(t.c.id, t.c.v).in_([(1, ONE)])),
    "values": lambda t: select(values(column("x", t.c.v.type), name="rows").data([(ONE,)])),
    "any": lambda t: select(t.c.id).where(t.c.v == any_(array([t.c.v]))),
    "insert": lambda t: insert(t).values(id=60, v=ONE, b="111").returning(t.c.v, t.c.b, t.c.filled),
    "insert from select": lambda t: (
        insert(t).from_select(["id", "v"], select(t.c.id + 70, t.c.v).where(t.c.id == 1)).returning(t.c.v)
    ),
    "update": lambda t: update(t).where(t.c.id == 1).values(v=TWO, h=t.c.v).returning(t.c.v, t.c.h),
    "delete": lambda t: delete(t).where(t.c.v == ONE).returning(t.c.id, t.c.v),
}

ARRAYS: dict[str, Callable[[Table], Any]] = {
    "stored": lambda t: select(t.c.va, t.c.ha, t.c.sa, t.c.ba).where(t.c.id == 1),
    "equal": lambda t: select(t.c.id).where(t.c.va == [ONE, TWO]),
    "contains": lambda t: select(t.c.id).where(t.c.va.contains([ONE])),
    "overlap": lambda t: select(t.c.id).where(t.c.va.overlap([TWO, ONE])),
    "element": lambda t: select(t.c.va[2], t.c.ba[1]).where(t.c.id == 1),
    "unnest": lambda t: select(func.unnest(t.c.va)),
    "any": lambda t: select(t.c.id).where(cast(ONE, t.c.v.type) == any_(t.c.va)),
    "cast": lambda t: select(cast([ONE], ARRAY(t.c.v.type))),
    "distinct": lambda t: select(t.c.va).distinct().order_by(t.c.va),
    "insert": lambda t: insert(t).values(id=80, va=[], ha=[None, ONE]).returning(t.c.va, t.c.ha),
    "two dimensions": lambda t: select(cast([[ONE, TWO]], ARRAY(t.c.v.type, dimensions=2))),
}


@contextmanager
def filled(engine: Engine, types: tuple[Any, ...]) -> Iterator[tuple[Connection, Table]]:
    items = table(types)
    with engine.connect() as connection:
        items.create(connection)
        for id_, first, bits in ((0, 2, "101"), (1, 1, "111"), (2, 1, "111"), (3, -3, "001"), (4, 10, "100")):
            vector = [first, -1.5, 0 if id_ != 2 else -0.0]
            values = {"v": vector, "h": vector, "s": pgvector.SparseVector(vector), "b": bits}
            connection.execute(insert(items).values(id=id_, **values))
        connection.execute(insert(items).values(id=5))
        yield connection, items
        connection.rollback()


@pytest.fixture(scope="module")
def both(migrated: Engine) -> Iterator[list[tuple[Connection, Table]]]:
    with filled(migrated, OURS) as ours, filled(migrated, THEIRS) as theirs:
        driver: Any = theirs[0].connection.driver_connection
        register_vector(driver)
        yield [ours, theirs]
        theirs[0].invalidate()


def rows(connection: Connection, statement: Any) -> list[Any]:
    with connection.begin_nested() as undone:
        found = [[plain(value) for value in row] for row in connection.execute(statement)]
        undone.rollback()
    return found


def plain(value: Any) -> Any:
    if isinstance(value, pgvector.Vector | pgvector.HalfVector | pgvector.SparseVector):
        return value.to_list()
    if isinstance(value, np.ndarray):
        return "".join("01"[int(bit)] for bit in value) if value.dtype == bool else value.tolist()
    return [plain(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_returns_what_pgvectors_own_types_return(
    both: list[tuple[Connection, Table]], name: str
) -> None:
    ours, theirs = (rows(connection, EXPRESSIONS[name](items)) for connection, items in both)
    assert ours == theirs
    assert ours


def test_literal_binds(both: list[tuple[Connection, Table]]) -> None:
    connection, items = both[0]
    for condition, ids in (
        (items.c.v == ONE, [1, 2]),
        (items.c.b == "111", [1, 2]),
        (items.c.s == ONE, [1, 2]),
        (items.c.va == [ONE], []),
        (items.c.v.in_([TWO, [-3, -1.5, 0]]), [0, 3]),
    ):
        written = (
            select(items.c.id)
            .where(condition)
            .order_by(items.c.id)
            .compile(connection, compile_kwargs={"literal_binds": True})
        )
        assert [row[0] for row in connection.execute(text(str(written)))] == ids


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_vectors(both: list[tuple[Connection, Table]], name: str) -> None:
    connection, items = both[0]
    expected: dict[str, Any] = {
        "stored": [[[ONE, TWO, None], [ONE], [ONE], ["101", "011"]]],
        "equal": [],
        "contains": [[1]],
        "overlap": [[1]],
        "element": [[TWO, "101"]],
        "unnest": [[ONE], [TWO], [None]],
        "any": [[1]],
        "cast": [[[ONE]]],
        "distinct": [[[ONE, TWO, None]], [None]],
        "insert": [[[], [None, ONE]]],
        "two dimensions": [[[[ONE, TWO]]]],
    }
    with connection.begin_nested() as undone:
        arrays = {"va": [ONE, np.array(TWO), None], "ha": [ONE], "sa": [ONE], "ba": ["101", [0, 1, 1]]}
        connection.execute(update(items).where(items.c.id == 1).values(**arrays))
        assert rows(connection, ARRAYS[name](items)) == expected[name]
        undone.rollback()


class OwnBase(DeclarativeBase):
    pass


class Thing(OwnBase):
    __tablename__ = "things"
    __table_args__: ClassVar[Any] = {"prefixes": ["TEMPORARY"]}

    id: Mapped[int] = mapped_column(primary_key=True)
    embedding: Mapped[Any] = mapped_column(Vector(3))
    several: Mapped[Any] = mapped_column(ARRAY(Vector(3)))


def test_the_same_by_way_of_the_orm(migrated: Engine) -> None:
    with Session(migrated) as session:
        OwnBase.metadata.create_all(session.connection())
        session.add_all([Thing(id=id_, embedding=[id_ % 2, 1, 0], several=[ONE, TWO]) for id_ in range(4)])
        session.flush()
        session.expire_all()
        embedding = Thing.embedding
        assert [
            one.tolist() for one in session.scalars(select(embedding).distinct().order_by(embedding))
        ] == [
            [0, 1, 0],
            [1, 1, 0],
        ]
        (last, *_) = session.scalars(select(embedding).order_by(embedding.desc()))
        assert last.tolist() == [1, 1, 0]
        (first, *_) = session.scalars(select(func.first_value(embedding).over(order_by=Thing.id)))
        assert first.tolist() == [0, 1, 0]
        thing = session.get_one(Thing, 2)
        assert (thing.embedding.tolist(), [one.tolist() for one in thing.several]) == ([0, 1, 0], [ONE, TWO])
        (found,) = session.scalars(select(func.array_agg(embedding)).where(Thing.id < 2))
        assert [one.tolist() for one in found] == [[0, 1, 0], [1, 1, 0]]


def test_a_plain_select_is_in_binary() -> None:
    items = table(OURS)
    nearest = select(items.c.v, items.c.v.l2_distance(ONE).label("near"))
    for statement in (
        nearest,
        nearest.order_by(items.c.v.l2_distance(ONE)).limit(3),
        nearest.order_by("near"),
        select(items).order_by(items.c.id),
        insert(items).returning(items.c.v),
    ):
        assert "vector_send(expressions.v)" in str(statement)
