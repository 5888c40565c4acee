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
from .shapes.literals import among, in_order, materialized, number
from .shapes.memories import expired
from .shapes.paging import page

LIST_KEY = ("id",)


def lock(key: int) -> Select[Any]:
    """Take the advisory lock that serialises the creation of banks; it is held until the transaction ends."""
    return select(func.pg_advisory_xact_lock(key))


def add(name: str, description: str | None) -> ReturningInsert[MemoryBank]:
    """Insert a bank."""
    return insert(MemoryBank).values(name=name, description=description).returning(MemoryBank)


def get(bank_id: int) -> Select[MemoryBank]:
    """Select a bank by its id."""
    return select(MemoryBank).where(MemoryBank.id == bank_id)


def get_by_name(name: str) -> Select[MemoryBank]:
    """Select a bank by its name; if plain SQL created several with this name, the oldest."""
    return select(MemoryBank).where(MemoryBank.name == name).order_by(MemoryBank.id).limit(1)


def change(bank_id: int, values: Mapping[str, Any]) -> ReturningUpdate[MemoryBank]:
    """Update columns of a bank."""
    return update(MemoryBank).where(MemoryBank.id == bank_id).values(**values).returning(MemoryBank)


def hold(bank_id: int, *, for_removal: bool) -> Select[datetime]:
    """Lock a bank and select the time of the database.

    Args:
        bank_id: The bank.
        for_removal: True blocks transactions that add memories to the bank; False only blocks its removal.
    """
    statement = select(func.now()).where(MemoryBank.id == bank_id)
    return (
        statement.with_for_update() if for_removal else statement.with_for_update(read=True, key_share=True)
    )


def known(bank_id: int) -> Select[int]:
    """Select the id of a bank that exists."""
    return select(MemoryBank.id).where(MemoryBank.id == bank_id)


def empty(bank_id: int, *, limit: int | None) -> ReturningDelete[int]:
    """Delete the memories of a bank, at most `limit`."""
    held = in_order(Memory.id, Memory.memory_bank_id == bank_id, limit=limit)
    return delete(Memory).where(among(Memory.id, held)).returning(Memory.id)


def remove(bank_id: int) -> ReturningDelete[int]:
    """Delete a bank."""
    return delete(MemoryBank).where(MemoryBank.id == bank_id).returning(MemoryBank.id)


def list_(*, up_to: int | None, after: str | None, limit: int) -> Select[Any]:
    """Select a page of banks, ordered by id, with the number of their rows and of those that have expired.

    Rows are counted in the index of the bank, without their expiry, and at most one more than `up_to`. The expired
    ones have their own index, and are few where they are swept.
    """
    own = select(Memory.memory_bank_id).where(Memory.memory_bank_id == MemoryBank.id).correlate(MemoryBank)
    if up_to is not None:
        own = own.limit(number(up_to + 1))
    stored = select(func.count()).select_from(own.subquery("own")).scalar_subquery()
    gone = materialized(
        select(Memory.memory_bank_id.label("bank"), func.count().label("rows"))
        .where(expired(Memory))
        .group_by(Memory.memory_bank_id),
        "gone",
    )
    gone_rows = (
        select(gone.c.rows).where(gone.c.bank == MemoryBank.id).correlate(MemoryBank).scalar_subquery()
    )
    statement: Any = select(
        MemoryBank.id,
        MemoryBank.name,
        MemoryBank.description,
        MemoryBank.created_at,
        stored.label("stored"),
        func.coalesce(gone_rows, number(0)).label("expired"),
    )
    return page(statement, [MemoryBank.id], after=after, limit=limit)
