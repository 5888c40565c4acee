"""Statements about rate limits. A row returned means allowed; the clock is the database's."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Select,
    any_,
    bindparam,
    case,
    cast,
    delete,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import Insert, array, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert

from ..models import RateLimitState
from ..models.base import table_of
from ..types import Text
from .shapes.clock import bigint, now_us
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, materialized, number
from .shapes.prefixes import prefixed

_limits = table_of(RateLimitState)
_key = bindparam("key", type_=Text)
_STATE = (_limits.c.at_us, _limits.c.start_us, _limits.c.hits, _limits.c.previous)


def _insert(start: ColumnElement[Any], kept: ColumnElement[Any], hits: ColumnElement[Any]) -> Insert:
    return insert(_limits).values(
        key=_key,
        at_us=now_us(),
        start_us=start,
        hits=hits,
        previous=number(0),
        expires_us=kept,
    )


def _window_start() -> ColumnElement[Any]:
    return now_us() - now_us() % bigint("window")


@driver_statement
def fixed_window() -> ReturningInsert[int, int, int, int]:
    """Count `cost` in the window of the clock, `window` microseconds long, unless it would exceed `limit`."""
    start = _window_start()
    statement = _insert(start, start + bigint("window"), bigint("cost"))
    excluded = statement.excluded
    same = _limits.c.start_us >= excluded.start_us
    return statement.on_conflict_do_update(
        index_elements=[_limits.c.key],
        set_={
            "at_us": func.greatest(_limits.c.at_us, excluded.at_us),
            "start_us": func.greatest(_limits.c.start_us, excluded.start_us),
            "hits": case((same, _limits.c.hits), else_=number(0)) + excluded.hits,
            "expires_us": func.greatest(_limits.c.expires_us, excluded.expires_us),
        },
        where=(_limits.c.start_us < excluded.start_us) | (_limits.c.hits + excluded.hits <= bigint("limit")),
    ).returning(*_STATE)


@driver_statement
def sliding_window() -> ReturningInsert[int, int, int, int]:
    """Count `cost` in the window, unless it and the whole units that remain of the last would exceed `limit`."""
    start, window = _window_start(), bigint("window")
    statement = _insert(start, start + window + window, bigint("cost"))
    excluded = statement.excluded
    same = _limits.c.start_us >= excluded.start_us
    following = _limits.c.start_us + window == excluded.start_us
    hits = case((same, _limits.c.hits), else_=number(0))
    previous = case((same, _limits.c.previous), (following, _limits.c.hits), else_=number(0))
    elapsed = func.greatest(_limits.c.at_us, excluded.at_us) - func.greatest(
        _limits.c.start_us, excluded.start_us
    )
    remains = literal_column("1.0::double precision", Float) - _float(elapsed) / _float(window)
    share = func.floor(
        _float(previous) * func.greatest(literal_column("0.0::double precision", Float), remains)
    )
    return statement.on_conflict_do_update(
        index_elements=[_limits.c.key],
        set_={
            "at_us": func.greatest(_limits.c.at_us, excluded.at_us),
            "start_us": func.greatest(_limits.c.start_us, excluded.start_us),
            "hits": hits + excluded.hits,
            "previous": previous,
            "expires_us": func.greatest(_limits.c.expires_us, excluded.expires_us),
        },
        where=share + _float(hits + excluded.hits) <= _float(bigint("limit")),
    ).returning(*_STATE)


def _float(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(value, Float(53))


@driver_statement
def token_bucket() -> ReturningInsert[int, int, int, int]:
    """Take `cost` microseconds of refilling from the bucket, unless more than `burst` would be missing."""
    full = now_us() + bigint("cost")
    statement = _insert(full, full, number(0))
    excluded = statement.excluded
    # A statement that began earlier may come later: the time of the row never goes back.
    now = func.greatest(_limits.c.at_us, excluded.at_us)
    filled = func.greatest(_limits.c.start_us, now) + (excluded.start_us - excluded.at_us)
    return statement.on_conflict_do_update(
        index_elements=[_limits.c.key],
        set_={"at_us": now, "start_us": filled, "expires_us": filled},
        where=filled - now <= bigint("burst"),
    ).returning(*_STATE)


@driver_statement
def moving_window() -> ReturningInsert[int, int, int]:
    """Add `cost` units to the last `window` microseconds, unless they would have more than `limit`.

    Return the time, the units that the window has then, and the time of the oldest one. The times of the units are kept,
    the oldest first; `width_bucket` finds those that have left the window by a binary search.
    """
    cost = cast(bindparam("cost"), Integer)
    statement = insert(_limits).values(
        key=_key,
        at_us=now_us(),
        start_us=now_us(),
        hits=number(0),
        previous=number(0),
        expires_us=now_us() + bigint("window"),
        entries=func.array_fill(now_us(), array([cost])),
    )
    excluded = statement.excluded
    now = func.greatest(_limits.c.at_us, excluded.at_us)
    stored, gone = func.cardinality(_limits.c.entries), _gone(now)
    kept = _limits.c.entries[gone + number(1) : stored]
    return statement.on_conflict_do_update(
        index_elements=[_limits.c.key],
        set_={
            "at_us": now,
            "start_us": now,
            "entries": func.array_cat(kept, func.array_fill(now, array([cost])), type_=ARRAY(BigInteger)),
            "expires_us": func.greatest(_limits.c.expires_us, excluded.expires_us),
        },
        where=stored - gone + cost <= cast(bindparam("limit"), Integer),
    ).returning(_limits.c.at_us, func.cardinality(_limits.c.entries), _limits.c.entries[number(1)])


def _gone(now: ColumnElement[Any]) -> ColumnElement[int]:
    """The number of units that have left the moving window."""
    return func.width_bucket(now - bigint("window"), _limits.c.entries, type_=Integer)


@driver_statement
def moving_state() -> Select[int, int, int, int | None]:
    """Select the time, the units in the moving window, the oldest one, and the one whose end makes room for `cost`."""
    now = func.greatest(now_us(), _limits.c.at_us)
    gone = _gone(now)
    units = func.cardinality(_limits.c.entries) - gone
    missing = units + cast(bindparam("cost"), Integer) - cast(bindparam("limit"), Integer)
    return select(
        now,
        units,
        _limits.c.entries[gone + number(1)],
        _limits.c.entries[gone + func.greatest(missing, number(1))],
    ).where(_limits.c.key == _key)


@driver_statement
def count() -> ReturningInsert[int, int]:
    """Add `cost` to a counter that begins again `window` microseconds after its first hit."""
    statement = _insert(now_us(), now_us() + bigint("window"), bigint("cost"))
    excluded = statement.excluded
    expired = _limits.c.expires_us <= excluded.at_us
    return statement.on_conflict_do_update(
        index_elements=[_limits.c.key],
        set_={
            "at_us": excluded.at_us,
            "start_us": case((expired, excluded.start_us), else_=_limits.c.start_us),
            "hits": case((expired, excluded.hits), else_=_limits.c.hits + excluded.hits),
            "expires_us": case((expired, excluded.expires_us), else_=_limits.c.expires_us),
        },
    ).returning(_limits.c.hits, _limits.c.expires_us - _limits.c.at_us)


@driver_statement
def counted() -> Select[int, int]:
    """Select a counter, and the microseconds until it begins again."""
    left = _limits.c.expires_us - now_us()
    return select(_limits.c.hits, left).where(_limits.c.key == _key, left > number(0))


@driver_statement
def clear(*, limit: int) -> ReturningDelete[str]:
    """Delete the state of at most `limit` keys that start with `prefix`."""
    found = select(_limits.c.key).where(*prefixed(_limits.c.key, bounded=True))
    doomed = materialized(found.order_by(_limits.c.key).limit(number(limit)).with_for_update(), "doomed")
    return delete(_limits).where(among(_limits.c.key, doomed)).returning(_limits.c.key)


@driver_statement
def state() -> Select[int, int, int, int, int]:
    """Select the clock and the state of `key`."""
    return select(now_us(), *_STATE).where(_limits.c.key == _key)


@driver_statement
def reset() -> ReturningDelete[str]:
    """Delete the state of `keys`."""
    keys = any_(bindparam("keys", type_=ARRAY(Text)))
    return delete(_limits).where(_limits.c.key == keys).returning(_limits.c.key)


@driver_statement
def purge(*, limit: int) -> ReturningDelete[str]:
    """Delete at most `limit` keys whose state no longer matters; locked rows are skipped."""
    doomed = materialized(
        select(_limits.c.key).where(_expired()).limit(number(limit)).with_for_update(skip_locked=True),
        "doomed",
    )
    return delete(_limits).where(among(_limits.c.key, doomed)).returning(_limits.c.key)


@driver_statement
def purgeable() -> Select[int]:
    """Count the keys whose state no longer matters."""
    return select(func.count()).select_from(_limits).where(_expired())


def _expired() -> ColumnElement[bool]:
    return _limits.c.expires_us <= now_us()
