"""Time that passes at once: the clock of the database cannot be moved, so the times in it are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Interval, Table, bindparam, update
from sqlalchemy.orm import Session

from ..models.base import Base

__all__ = ["let_time_pass"]


def let_time_pass(session: Session, time: timedelta) -> None:
    """Move all times in the tables of the library back.

    Leases, locks, cached values and sessions run out, schedules are due and memories age as if `time` had passed.

    Args:
        session: The session; it is not committed.
        time: How much time passes.
    """
    for table in Base.metadata.sorted_tables:
        moved = _moved(table)
        if moved:
            values = {column.name: value for column, value in moved.items()}
            session.execute(
                update(table).values(values),
                {"passed": time, "passed_us": int(time.total_seconds() * 1_000_000)},
            )
    session.expire_all()


def _moved(table: Table) -> dict[Column[Any], Any]:
    moved: dict[Column[Any], Any] = {}
    for column in table.columns:
        if column.computed is not None:
            continue
        if isinstance(column.type, DateTime):
            moved[column] = column - bindparam("passed", type_=Interval)
        elif isinstance(column.type, BigInteger) and column.name.endswith("_us"):
            moved[column] = column - bindparam("passed_us", type_=BigInteger)
    return moved
