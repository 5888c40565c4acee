"""Statements about web sessions. Their keys are hashes of tokens; the clock is the database's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Select,
    bindparam,
    delete,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import WebSession
from ..models.base import table_of
from ..types import Text
from .shapes.clock import bigint, now_us
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, materialized, number

_sessions = table_of(WebSession)
_id = bindparam("id", type_=LargeBinary)
_user = bindparam("user_id", type_=Text)
_live = (_sessions.c.expires_us > now_us()) & (_sessions.c.seen_us + _sessions.c.idle_us > now_us())
_CONTENT = (
    _sessions.c.user_id,
    _sessions.c.data,
    _sessions.c.created_us,
    _sessions.c.seen_us,
    _sessions.c.idle_us,
    _sessions.c.expires_us,
)


@driver_statement
def create() -> ReturningInsert[str | None, dict[str, object], int, int, int, int]:
    """Insert a session under the hash `id`."""
    return (
        insert(_sessions)
        .values(
            id=_id,
            user_id=_user,
            data=bindparam("data", type_=JSONB),
            created_us=now_us(),
            seen_us=now_us(),
            idle_us=bigint("idle"),
            expires_us=now_us() + bigint("lifetime"),
        )
        .returning(*_CONTENT)
    )


@driver_statement
def get() -> Select[int, str | None, dict[str, object], int, int, int, int]:
    """Select the clock and the session `id` unless it has ended."""
    return select(now_us(), *_CONTENT).where(_sessions.c.id == _id, _live)


@driver_statement
def touch() -> ReturningUpdate[str | None, dict[str, object], int, int, int, int]:
    """Move the idle expiry of the session `id` unless it has ended."""
    return update(_sessions).where(_sessions.c.id == _id, _live).values(seen_us=now_us()).returning(*_CONTENT)


@driver_statement
def rotate(*, login: bool) -> ReturningUpdate[str | None, dict[str, object], int, int, int, int]:
    """Replace the hash `id` by `new_id` unless the session has ended; `login` sets the user too."""
    values: dict[str, Any] = {"id": bindparam("new_id", type_=LargeBinary), "seen_us": now_us()}
    if login:
        values["user_id"] = _user
    return update(_sessions).where(_sessions.c.id == _id, _live).values(values).returning(*_CONTENT)


@driver_statement
def save() -> ReturningUpdate[str | None, dict[str, object], int, int, int, int]:
    """Replace the content of the session `id` unless it has ended."""
    return (
        update(_sessions)
        .where(_sessions.c.id == _id, _live)
        .values(data=bindparam("data", type_=JSONB), seen_us=now_us())
        .returning(*_CONTENT)
    )


@driver_statement
def revoke() -> ReturningDelete[bytes]:
    """Delete the session `id`."""
    return delete(_sessions).where(_sessions.c.id == _id).returning(_sessions.c.id)


@driver_statement
def revoke_user(*, limit: int | None = None) -> ReturningDelete[bytes]:
    """Delete the sessions of `user_id`, at most `limit`, but the one with the hash `kept`, which may be empty."""
    other = _sessions.c.id != bindparam("kept", type_=LargeBinary)
    statement = delete(_sessions).where(_sessions.c.user_id == _user, other).returning(_sessions.c.id)
    if limit is not None:
        some = select(_sessions.c.id).where(_sessions.c.user_id == _user, other).limit(number(limit))
        doomed = materialized(some.order_by(_sessions.c.id).with_for_update(), "doomed")
        statement = statement.where(among(_sessions.c.id, doomed))
    return statement


@driver_statement
def of_user() -> Select[str | None, dict[str, object], int, int, int, int]:
    """Select the sessions of `user_id` that have not ended, the newest first."""
    return (
        select(*_CONTENT)
        .where(_sessions.c.user_id == _user, _live)
        .order_by(_sessions.c.created_us.desc(), _sessions.c.id)
    )


@driver_statement
def purge(*, limit: int) -> ReturningDelete[bytes]:
    """Delete at most `limit` sessions that have ended; locked rows are skipped."""
    doomed = materialized(
        select(_sessions.c.id).where(_ended()).limit(number(limit)).with_for_update(skip_locked=True),
        "doomed",
    )
    return delete(_sessions).where(among(_sessions.c.id, doomed)).returning(_sessions.c.id)


@driver_statement
def purgeable() -> Select[int]:
    """Count the sessions that have ended."""
    return select(func.count()).select_from(_sessions).where(_ended())


def _ended() -> ColumnElement[bool]:
    idle: ColumnElement[bool] = _sessions.c.seen_us + _sessions.c.idle_us <= now_us()
    return (_sessions.c.expires_us <= now_us()) | idle
