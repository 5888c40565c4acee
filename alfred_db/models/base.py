"""What every model shares: the metadata, the names of constraints, and the columns that recur."""

from __future__ import annotations

import uuid
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, TypeVar, cast

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    DateTime,
    Identity,
    MetaData,
    Table,
    Uuid,
    event,
    func,
    inspect,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

from ..types import Text

__all__ = [
    "Base",
    "BigIntId",
    "CreatedAt",
    "Json",
    "UpdatedAt",
    "UuidId",
    "after_create",
    "monthly_partitions",
    "one_of",
    "table_of",
    "trigram_index",
    "updated_by_trigger",
]


class Base(DeclarativeBase):
    """Base of all models."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "ix": "idx_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        datetime: DateTime(timezone=True),
        str: Text,
        uuid.UUID: Uuid,
    }

    def __repr__(self) -> str:
        """The class and the primary key: never a vector, a secret, or a query to the database."""
        state = inspect(self)
        key = ", ".join(
            f"{attribute.key}={state.dict.get(attribute.key)!r}"
            for attribute in state.mapper.column_attrs
            if attribute.columns[0].primary_key
        )
        return f"{type(self).__name__}({key})"


M = TypeVar("M", bound=Base)

BigIntId = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
UuidId = Annotated[uuid.UUID, mapped_column(Uuid, primary_key=True, server_default=text("gen_random_uuid()"))]
CreatedAt = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]
UpdatedAt = Annotated[
    datetime, mapped_column(DateTime(timezone=True), server_default=func.now(), onupdate=func.now())
]
Json = Annotated[dict[str, Any], mapped_column(JSONB, server_default=text("'{}'::jsonb"))]


def one_of(column: str, enum: type[StrEnum]) -> CheckConstraint:
    """The CHECK that holds a text column to the members of `enum`; named after the column."""
    values = ", ".join(f"'{member.value}'" for member in enum)
    return CheckConstraint(f"{column} IN ({values})", name=column)


def table_of(model: type[Base]) -> Table:
    """The table of a model, typed as such."""
    return cast("Table", model.__table__)


def after_create(model: type[Base], statement: str) -> None:
    """Run a statement when the table is made; `%(fullname)s` is the table, wherever the tenant has it."""
    event.listen(model.__table__, "after_create", DDL(statement))  # type: ignore[no-untyped-call]


def monthly_partitions(model: type[Base], storage: str = "") -> None:
    """Make the partitions of a table by month: this month's, the next three, and the default one, whose storage they take."""
    after_create(
        model, f"CREATE TABLE %(fullname)s_default PARTITION OF %(fullname)s DEFAULT {storage}".rstrip()
    )
    after_create(model, "SELECT extensions.make_month_partitions('%(fullname)s')")


def updated_by_trigger(model: type[M]) -> type[M]:
    """Give raw SQL what the library's own statements do themselves: `updated_at` follows each UPDATE."""
    after_create(
        model,
        "CREATE TRIGGER set_updated_at BEFORE UPDATE ON %(fullname)s FOR EACH ROW"
        " WHEN (NEW.updated_at = OLD.updated_at) EXECUTE FUNCTION extensions.set_updated_at()",
    )
    table_of(model).info["updated_by_trigger"] = True
    return model


def trigram_index(model: type[Base], column: str) -> None:
    """Index a column for search by similar spelling, where pg_trgm is installed: not in the metadata, as it may not be."""
    name = f"idx_{table_of(model).name}_{column}_trgm"
    after_create(
        model,
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN"
        f" CREATE INDEX {name} ON %(fullname)s USING gin ({column} gin_trgm_ops); END IF; END $$",
    )
