"""Statements about processed messages."""

from __future__ import annotations

from sqlalchemy import ARRAY, ColumnElement, Select, bindparam, column, delete, select
from sqlalchemy.dialects.postgresql import INTERVAL, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert

from ..models import ProcessedMessage
from ..models.base import table_of
from ..types import Text
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, materialized, number

_messages = table_of(ProcessedMessage)


@driver_statement
def first_time() -> ReturningInsert[str]:
    """Insert those of `message_ids` that are new or expired, for the interval `ttl`, and return them.

    The ids must be unique.
    """
    given = func.unnest(bindparam("message_ids", type_=ARRAY(Text))).table_valued(column("message_id", Text))
    expires_at = func.statement_timestamp() + bindparam("ttl", type_=INTERVAL)
    statement = insert(_messages).from_select(
        ["message_id", "processed_at", "expires_at"],
        select(given.render_derived("given").c.message_id, func.statement_timestamp(), expires_at),
        include_defaults=False,
    )
    excluded = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[_messages.c.message_id],
        set_={"processed_at": excluded.processed_at, "expires_at": excluded.expires_at},
        where=_messages.c.expires_at <= excluded.processed_at,
    ).returning(_messages.c.message_id)


def get(message_id: str) -> Select[ProcessedMessage]:
    """Select a processed message by its id."""
    return select(ProcessedMessage).where(ProcessedMessage.message_id == message_id)


def purge(*, limit: int) -> ReturningDelete[str]:
    """Delete expired messages, the earliest expired first; locked rows are skipped."""
    oldest = materialized(
        select(ProcessedMessage.message_id)
        .where(_expired())
        .order_by(ProcessedMessage.expires_at)
        .limit(number(limit))
        .with_for_update(skip_locked=True),
        "oldest",
    )
    return (
        delete(ProcessedMessage)
        .where(among(ProcessedMessage.message_id, oldest))
        .returning(ProcessedMessage.message_id)
    )


def purgeable() -> Select[int]:
    """Count the expired messages."""
    return select(func.count()).select_from(ProcessedMessage).where(_expired())


def _expired() -> ColumnElement[bool]:
    return ProcessedMessage.expires_at <= func.statement_timestamp()
