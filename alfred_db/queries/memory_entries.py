"""Statements about the memory entries of the knowledge agent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, delete, literal, select
from sqlalchemy.dialects.postgresql import INTERVAL, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert

from ..models import MemoryEntry
from ..models.base import table_of
from ..types import Text
from ..vectors.formats import VectorLike
from .shapes.functions import func
from .shapes.literals import among, in_order
from .shapes.memories import alive, content_hash, expired, lasting, later, stored_words
from .shapes.paging import page

LIST_KEY = ("created_at", "id")

WRITTEN = ("content", "search", "search_hash", "metadata", "updated_at")
"""The columns that a text which is stored already takes from the new row."""

_entries = table_of(MemoryEntry)


IN_NAMESPACE = and_(MemoryEntry.namespace == bindparam("namespace", type_=Text), alive(MemoryEntry))
"""The condition of `in_namespace` for the parameter `namespace`."""


@lru_cache
def in_namespace(namespace: str) -> ColumnElement[bool]:
    """The entries of a namespace that have not expired."""
    return and_(MemoryEntry.namespace == namespace, alive(MemoryEntry))


def remember(
    namespace: str,
    content: str,
    *,
    embedding: VectorLike | None,
    agent: str | None,
    source: str | None,
    metadata: Mapping[str, Any] | None,
    ttl: timedelta | None,
    embedding_model: str | None,
) -> ReturningInsert[MemoryEntry]:
    """Insert an entry, or update the one with the same text.

    An update keeps vector, model, agent and source where None is passed, and the later expiry.
    """
    statement = insert(MemoryEntry).values(
        namespace=namespace,
        content=content,
        content_hash=content_hash(content),
        embedding=embedding,
        embedding_model=embedding_model,
        agent=agent,
        source=source,
        metadata_=dict(metadata or {}),
        expires_at=func.now() + literal(lasting(ttl), INTERVAL),
        updated_at=func.now(),
        **stored_words(literal(content, Text)),
    )
    old, new = _entries.c, statement.excluded
    taken: dict[str, Any] = {name: new[name] for name in WRITTEN}
    kept = ("embedding", "embedding_model", "agent", "source")
    taken |= {name: func.coalesce(new[name], old[name]) for name in kept}
    taken["expires_at"] = later(old.expires_at, new.expires_at)
    return statement.on_conflict_do_update(
        index_elements=[MemoryEntry.namespace, MemoryEntry.content_hash], set_=taken
    ).returning(MemoryEntry)


def get(entry_id: uuid.UUID) -> Select[MemoryEntry]:
    """Select an entry that has not expired by its id."""
    return select(MemoryEntry).where(MemoryEntry.id == entry_id, alive(MemoryEntry))


def remove(entry_id: uuid.UUID) -> ReturningDelete[uuid.UUID]:
    """Delete an entry."""
    return delete(MemoryEntry).where(MemoryEntry.id == entry_id).returning(MemoryEntry.id)


def empty(namespace: str, *, limit: int | None) -> ReturningDelete[uuid.UUID]:
    """Delete the entries of a namespace, at most `limit`."""
    held = in_order(MemoryEntry.id, MemoryEntry.namespace == namespace, limit=limit)
    return delete(MemoryEntry).where(among(MemoryEntry.id, held)).returning(MemoryEntry.id)


def list_(namespace: str, *, after: str | None, limit: int) -> Select[MemoryEntry]:
    """Select a page of the entries of a namespace that have not expired, oldest first."""
    return page(
        select(MemoryEntry).where(in_namespace(namespace)),
        [MemoryEntry.created_at, MemoryEntry.id],
        after=after,
        limit=limit,
    )


def sweep(limit: int) -> ReturningDelete[uuid.UUID]:
    """Delete expired entries, the earliest expired first; locked rows are skipped."""
    due = select(MemoryEntry.id).where(expired(MemoryEntry)).order_by(MemoryEntry.expires_at).limit(limit)
    gone = due.with_for_update(skip_locked=True).cte("gone")
    return delete(MemoryEntry).where(among(MemoryEntry.id, gone)).returning(MemoryEntry.id)


def purgeable() -> Select[int]:
    """Count the expired entries."""
    return select(func.count()).select_from(MemoryEntry).where(expired(MemoryEntry))
