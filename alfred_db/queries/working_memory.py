"""Statements about working memory."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, delete, literal, or_, select, update
from sqlalchemy.dialects.postgresql import INTERVAL, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import WorkingMemory, WorkingMemoryStatus
from .shapes.functions import func
from .shapes.literals import among, materialized
from .shapes.paging import page

LIST_KEY = ("created_at", "id")

_DELETED = WorkingMemoryStatus.DELETED


def there() -> ColumnElement[bool]:
    """The records that are neither deleted nor expired."""
    lasting = or_(WorkingMemory.expires_at.is_(None), WorkingMemory.expires_at > func.statement_timestamp())
    return and_(WorkingMemory.status != _DELETED, lasting)


def offered(*, session_id: str | None, agent: str | None, memory_type: str | None) -> ColumnElement[bool]:
    """The active records of a session, an agent or a type, which a search considers."""
    active = WorkingMemory.status == WorkingMemoryStatus.ACTIVE
    return and_(active, there(), *_of(session_id, agent, memory_type))


def store(values: Mapping[str, Any], ttl: timedelta | None) -> ReturningInsert[WorkingMemory]:
    """Insert a record."""
    expires_at = func.now() + literal(ttl, INTERVAL)
    return insert(WorkingMemory).values(**values, expires_at=expires_at).returning(WorkingMemory)


def get(memory_id: uuid.UUID) -> Select[WorkingMemory]:
    """Select a record by its id, unless it is deleted or expired."""
    return select(WorkingMemory).where(WorkingMemory.id == memory_id, there())


def change(memory_id: uuid.UUID, values: Mapping[str, Any]) -> ReturningUpdate[WorkingMemory]:
    """Update columns of a record.

    A deleted record expires at once, so that the sweep finds it with the index.
    """
    if values.get("status") == _DELETED:
        at_once = func.least(WorkingMemory.expires_at, func.statement_timestamp())
        values = {**values, "expires_at": at_once}
    return _changed(memory_id, values)


def set_blob(memory_id: uuid.UUID, provider: str, blob_key: str) -> ReturningUpdate[WorkingMemory]:
    """Set the blob of a record; a pending record becomes active."""
    pending = WorkingMemory.status == WorkingMemoryStatus.PENDING
    active = literal(WorkingMemoryStatus.ACTIVE, WorkingMemory.status.type)
    status = case((pending, active), else_=WorkingMemory.status)
    return _changed(memory_id, {"provider": provider, "blob_key": blob_key, "status": status})


def _changed(memory_id: uuid.UUID, values: Mapping[str, Any]) -> ReturningUpdate[WorkingMemory]:
    statement = update(WorkingMemory).where(WorkingMemory.id == memory_id, there())
    return statement.values(**values).returning(WorkingMemory)


def list_(
    *,
    session_id: str | None,
    agent: str | None,
    memory_type: str | None,
    status: WorkingMemoryStatus | None,
    with_blob: bool,
    after: str | None,
    limit: int,
) -> Select[WorkingMemory]:
    """Select a page of records, newest first.

    Deleted records, which wait for the sweep, are selected only with `status`.
    """
    chosen = _of(session_id, agent, memory_type)
    if status is not None:
        chosen.append(WorkingMemory.status == status)
    if status is not _DELETED:
        chosen.append(there())
    if with_blob:
        chosen.append(WorkingMemory.blob_key.is_not(None))
    key = [WorkingMemory.created_at, WorkingMemory.id]
    statement = select(WorkingMemory).where(*chosen)
    return page(statement, key, after=after, limit=limit, newest_first=True)


def _of(session_id: str | None, agent: str | None, memory_type: str | None) -> list[ColumnElement[bool]]:
    given = (
        (WorkingMemory.session_id, session_id),
        (WorkingMemory.agent, agent),
        (WorkingMemory.memory_type, memory_type),
    )
    return [part == value for part, value in given if value is not None]


def sweep(limit: int, *, blobs: bool = True) -> ReturningDelete[uuid.UUID, str | None, str | None]:
    """Delete expired records, the earliest expired first; locked rows are skipped.

    Args:
        limit: Maximum number of records.
        blobs: Whether to delete records whose content is a blob, too.
    """
    due = materialized(
        select(WorkingMemory.id)
        .where(*_expired(blobs))
        .order_by(WorkingMemory.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True),
        "due",
    )
    return (
        delete(WorkingMemory)
        .where(among(WorkingMemory.id, due))
        .returning(WorkingMemory.id, WorkingMemory.provider, WorkingMemory.blob_key)
    )


def purgeable() -> Select[int]:
    """Count the expired records without a blob."""
    return select(func.count()).select_from(WorkingMemory).where(*_expired(False))


def _expired(blobs: bool) -> list[ColumnElement[bool]]:
    expired = WorkingMemory.expires_at <= func.statement_timestamp()
    return [expired] if blobs else [expired, WorkingMemory.blob_key.is_(None)]
