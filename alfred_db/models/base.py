"""Shared parts of the models: the metadata, naming conventions, and common columns."""

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
    "status_times_by_trigger",
    "table_of",
    "trigram_index",
    "updated_by_trigger",
]


class Base(DeclarativeBase):
    """Base class of all models."""

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
        """Return class and primary key, without vectors or secrets and without a query."""
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
    """Return the CHECK that restricts a text column to the members of `enum`, named after the column."""
    values = ", ".join(f"'{member.value}'" for member in enum)
    return CheckConstraint(f"{column} IN ({values})", name=column)


def table_of(model: type[Base]) -> Table:
    """Return the table of a model with its type."""
    return cast("Table", model.__table__)


def after_create(model: type[Base], statement: str) -> None:
    """Run a statement after the table is created; `%(fullname)s` is the table in the schema of the tenant."""
    event.listen(model.__table__, "after_create", DDL(statement))  # type: ignore[no-untyped-call]


def monthly_partitions(model: type[Base], storage: str = "") -> None:
    """Create the monthly partitions of a table: the current month, the next three, and the default partition.

    They copy the storage parameters of the default partition.
    """
    after_create(
        model, f"CREATE TABLE %(fullname)s_default PARTITION OF %(fullname)s DEFAULT {storage}".rstrip()
    )
    after_create(model, "SELECT extensions.make_month_partitions('%(fullname)s')")


def updated_by_trigger(model: type[M]) -> type[M]:
    """Set `updated_at` by a trigger in each UPDATE.

    Statements of the library set it themselves; the trigger serves raw SQL.
    """
    after_create(
        model,
        "CREATE TRIGGER set_updated_at BEFORE UPDATE ON %(fullname)s FOR EACH ROW"
        " WHEN (NEW.updated_at = OLD.updated_at) EXECUTE FUNCTION extensions.set_updated_at()",
    )
    table_of(model).info["updated_by_trigger"] = True
    return model


def status_times_by_trigger(model: type[Base], condition: str) -> None:
    """Set the times of a status by a trigger, where a raw INSERT or UPDATE of the status leaves them out.

    Statements of the library set them, so that the condition is false and the function is not called.

    Args:
        model: The model; the function knows the columns of its table.
        condition: What the times of a row would have to be set for, of NEW.
    """
    name = table_of(model).name
    after_create(
        model,
        "CREATE TRIGGER set_status_times BEFORE INSERT OR UPDATE OF status ON %(fullname)s FOR EACH ROW"
        f" WHEN ({condition}) EXECUTE FUNCTION extensions.set_status_times('{name}')",
    )
    table_of(model).info["status_times_by_trigger"] = True


def trigram_index(model: type[Base], column: str) -> None:
    """Create a trigram index on a column if pg_trgm is installed.

    It is not part of the metadata, because the extension is optional.
    """
    name = f"idx_{table_of(model).name}_{column}_trgm"
    after_create(
        model,
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN"
        f" CREATE INDEX {name} ON %(fullname)s USING gin ({column} gin_trgm_ops); END IF; END $$",
    )
