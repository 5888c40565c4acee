"""Statements about memory banks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import Memory, MemoryBank
from .shapes.functions import func
from .shapes.literals import among, in_order
from .shapes.memories import alive
from .shapes.paging import page

LIST_KEY = ("id",)


def lock(key: int) -> Select[Any]:
    """Wait for whoever does the same; the lock ends with the transaction."""
    return select(func.pg_advisory_xact_lock(key))


def add(name: str, description: str | None) -> ReturningInsert[MemoryBank]:
    return insert(MemoryBank).values(name=name, description=description).returning(MemoryBank)


def get(bank_id: int) -> Select[MemoryBank]:
    return select(MemoryBank).where(MemoryBank.id == bank_id)


def get_by_name(name: str) -> Select[MemoryBank]:
    """Of several with the name, which plain SQL may have made, the oldest."""
    return select(MemoryBank).where(MemoryBank.name == name).order_by(MemoryBank.id).limit(1)


def change(bank_id: int, values: Mapping[str, Any]) -> ReturningUpdate[MemoryBank]:
    return update(MemoryBank).where(MemoryBank.id == bank_id).values(**values).returning(MemoryBank)


def hold(bank_id: int, *, for_removal: bool) -> Select[datetime]:
    """Keep the bank from being removed or, for its removal, from taking memories; gives the database's time."""
    statement = select(func.now()).where(MemoryBank.id == bank_id)
    return (
        statement.with_for_update() if for_removal else statement.with_for_update(read=True, key_share=True)
    )


def empty(bank_id: int) -> ReturningDelete[int]:
    held = in_order(Memory.id, Memory.memory_bank_id == bank_id)
    return delete(Memory).where(among(Memory.id, held)).returning(Memory.id)


def remove(bank_id: int) -> ReturningDelete[int]:
    return delete(MemoryBank).where(MemoryBank.id == bank_id).returning(MemoryBank.id)


def list_(*, after: str | None, limit: int) -> Select[Any]:
    memories = (
        select(func.count())
        .where(Memory.memory_bank_id == MemoryBank.id, alive(Memory))
        .correlate(MemoryBank)
        .scalar_subquery()
        .label("memories")
    )
    statement: Any = select(
        MemoryBank.id, MemoryBank.name, MemoryBank.description, MemoryBank.created_at, memories
    )
    return page(statement, [MemoryBank.id], after=after, limit=limit)
