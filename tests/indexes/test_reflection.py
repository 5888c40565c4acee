"""Reflection and Alembic see vector columns and their indexes as they are declared."""

from __future__ import annotations

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Engine, Integer, MetaData, Table, inspect

from alfred_db import Bit, HalfVector, SparseVector, Vector


def table(dimensions: int, *more: Any) -> Table:
    return Table(
        "vector_items",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("vector", Vector(dimensions)),
        Column("half", HalfVector(dimensions)),
        Column("sparse", SparseVector(dimensions)),
        Column("bits", Bit(dimensions)),
        Column("any_vector", Vector()),
        *more,
    )


def test_reflection_and_alembic_see_the_types(migrated: Engine) -> None:
    items = table(6)
    with migrated.connect() as connection:
        items.create(connection)
        seen = {
            column["name"]: column["type"].compile(connection.dialect)
            for column in inspect(connection).get_columns(items.name)
        }
        assert seen == {
            "id": "INTEGER",
            "vector": "VECTOR(6)",
            "half": "HALFVEC(6)",
            "sparse": "SPARSEVEC(6)",
            "bits": "BIT(6)",
            "any_vector": "VECTOR",
        }
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, parents: kind != "table" or name == items.name},
        )
        assert compare_metadata(context, items.metadata) == []
        changed = compare_metadata(context, table(7).metadata)
        assert [(one[0][0], one[0][3]) for one in changed] == [
            ("modify_type", name) for name in ("vector", "half", "sparse", "bits")
        ]
