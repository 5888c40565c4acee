"""Rows of every model with plausible values, from what the models say about their columns."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    String,
    Uuid,
    inspect,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.types import JSON, TypeEngine

from ..errors import InvalidInputError
from ..models import (
    CacheBound,
    CacheEntry,
    DocumentEmbedding,
    EmbeddingSpaceDefault,
    EventConsumer,
    KnowledgePoint,
    MemoryEmbedding,
    MemoryEntryEmbedding,
    SpaceKind,
    WorkingMemoryEmbedding,
)
from ..models.base import Base
from ..repositories import KnowledgeRepository, SpaceRepository
from ..types import EnumText
from ..vectors.toy import toy_embedder
from ..vectors.types import VectorType

__all__ = ["RowFactory"]

M = TypeVar("M", bound=Base)

_numbers = itertools.count(1)


class RowFactory:
    """Makes rows: required columns get plausible values, unique ones are different each time.

    A column that may be NULL or has a default of the server is left to it, except for embeddings, which get the toy
    embedder's vector of the row's text. A row that a foreign key requires is made, too.

        task = factory(Task, intent="SUMMARISE")

    Args:
        session: Opens a session for each row, and commits it at the end.
    """

    def __init__(self, session: Callable[[], Any]) -> None:
        self._session = session

    def __call__(self, model: type[M], **values: Any) -> M:
        """Make a row, store it, and return it with all its columns.

        Args:
            model: The model.
            **values: Attributes of the row; the others are chosen.

        Raises:
            InvalidInputError: The model has no such attribute.
        """
        with self._session() as session:
            row = self._add(session, model, values)
            session.refresh(row)
            session.commit()
            session.expunge_all()
        return row

    def many(self, model: type[M], number: int, **values: Any) -> list[M]:
        """Make several rows with the same values."""
        return [self(model, **values) for _ in range(number)]

    def build(self, model: type[M], **values: Any) -> M:
        """Return a row that is not stored; foreign keys stay as they are passed."""
        row, _ = _built(model, values)
        return row

    def _add(self, session: Session, model: type[M], values: Mapping[str, Any]) -> M:
        row, missing = _built(model, {**_partition(session, model, values), **values})
        for name, column in missing.items():
            target = next(iter(column.foreign_keys)).column
            setattr(row, name, self._parent(session, target))
        if model in (CacheBound, EmbeddingSpaceDefault):  # their keys are few
            row = session.merge(row)
        else:
            session.add(row)
        session.flush()
        return row

    def _parent(self, session: Session, target: Column[Any]) -> Any:
        for mapper in Base.registry.mappers:
            if mapper.local_table is target.table:
                parent = self._add(session, mapper.class_, {})
                return getattr(parent, mapper.get_property_by_column(target).key)
        raise InvalidInputError(f"{target.table.name}: no model has this table; pass the foreign key")


def _built(model: type[M], values: Mapping[str, Any]) -> tuple[M, dict[str, Column[Any]]]:
    """Return a row, and the foreign keys that it still needs."""
    mapper: Mapper[M] = inspect(model)
    unknown = set(values) - set(mapper.attrs.keys())
    if unknown:
        raise InvalidInputError(f"{model.__name__}: no attribute {', '.join(sorted(unknown))}")
    number = next(_numbers)
    chosen: dict[str, Any] = {**_special(model, number), **values}
    missing: dict[str, Column[Any]] = {}
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if attribute.key in chosen or not isinstance(column, Column) or not _is_needed(column):
            continue
        if column.foreign_keys:
            missing[attribute.key] = column
        elif not isinstance(column.type, VectorType):
            chosen[attribute.key] = _value(column.type, column.name, number)
    text = " ".join(str(value) for value in chosen.values() if isinstance(value, str))
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if attribute.key not in chosen and isinstance(column.type, VectorType) and column.type.dim:
            chosen[attribute.key] = toy_embedder([text], column.type.dim)[0]
    return model(**chosen), missing


def _is_needed(column: Column[Any]) -> bool:
    left = column.nullable or column.server_default is not None or column.default is not None
    return not (left or column.identity is not None or column.computed is not None)


def _value(type_: TypeEngine[Any], name: str, number: int) -> Any:
    """Return a plausible value of a type."""
    if isinstance(type_, EnumText):
        enum: Any = type_.enum
        return next(iter(enum))
    match type_:
        case Boolean():
            return False
        case Uuid():
            return uuid.uuid4()
        case DateTime():
            return datetime.now(UTC) + timedelta(seconds=number)
        case Date():
            return datetime.now(UTC).date()
        case Interval():
            return timedelta(minutes=1)
        case BigInteger() if name.endswith("_us"):
            return int(datetime.now(UTC).timestamp() * 1_000_000)
        case Integer():
            return number
        case Float():
            return 0.5
        case Numeric():
            return Decimal("0.5")
        case LargeBinary():
            return b"value %d" % number
        case JSONB() | JSON():
            return {}
        case ARRAY():
            return []
        case Enum():
            return type_.enums[0]
        case String():
            return f"{name} {number}"
        case TSVECTOR():
            return None
        case _:
            raise InvalidInputError(f"{name}: no plausible value of {type_!r} is known; pass one")


def _special(model: type[Base], number: int) -> dict[str, Any]:
    """Return what a check of the table demands beyond the types of the columns."""
    if model is CacheBound:
        return {"id": 1}
    if model is CacheEntry:
        return {"value": b"value %d" % number}
    if model is EventConsumer:
        return {"topics": [f"topic {number}"]}
    return {}


def _partition(session: Session, model: type[Base], values: Mapping[str, Any]) -> dict[str, Any]:
    """Create the partition that a row goes to, unless the caller names it, and return the row's reference to it."""
    name = f"of row {next(_numbers)}"
    if model is KnowledgePoint and "collection" not in values:
        return {"collection": KnowledgeRepository(session).create_collection(name).name}
    if issubclass(model, _EMBEDDINGS) and "space_id" not in values:
        kind = SpaceKind(str(model.__tablename__).removesuffix("_embeddings"))
        space = SpaceRepository(session).create(name, kind=kind, model="toy", dimensions=DIMENSIONS)
        return {"space_id": space.id, "embedding": toy_embedder([name], DIMENSIONS)[0]}
    return {}


_EMBEDDINGS = (DocumentEmbedding, MemoryEmbedding, MemoryEntryEmbedding, WorkingMemoryEmbedding)

DIMENSIONS = 384
"""The length of the vectors of a space that is made for a row."""
