"""Statements about the cache."""

from __future__ import annotations

import uuid

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    LargeBinary,
    Select,
    Update,
    Uuid,
    any_,
    bindparam,
    case,
    column,
    delete,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert

from ..models import CacheClaim, CacheEntry
from ..models.base import table_of
from ..types import Text
from .shapes.clock import NEVER, bigint, now_us
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, materialized, number

_cache = table_of(CacheEntry)
_claims = table_of(CacheClaim)
_key = bindparam("key", type_=Text)
_live = _cache.c.expires_us > now_us()


@driver_statement
def get() -> Select[bytes | None, int | None]:
    """Select the value of `key` unless it has expired."""
    return select(_cache.c.value, _cache.c.number).where(_cache.c.key == _key, _live)


@driver_statement
def get_many() -> Select[str, bytes | None, int | None]:
    """Select the values of `keys` that have not expired."""
    keys = any_(bindparam("keys", type_=ARRAY(Text)))
    return select(_cache.c.key, _cache.c.value, _cache.c.number).where(_cache.c.key == keys, _live)


def _insert(*, expires: bool) -> Insert:
    return insert(_cache).values(
        key=_key,
        value=bindparam("value", type_=LargeBinary),
        number=bigint("number"),
        set_us=now_us(),
        expires_us=now_us() + bigint("ttl") if expires else number(NEVER),
    )


@driver_statement
def set_(*, expires: bool, add: bool) -> ReturningInsert[str]:
    """Insert or replace `key`; `add` replaces only what has expired."""
    statement = _insert(expires=expires)
    return statement.on_conflict_do_update(
        index_elements=[_cache.c.key],
        set_={name: statement.excluded[name] for name in ("value", "number", "set_us", "expires_us")},
        where=_cache.c.expires_us <= statement.excluded.set_us if add else None,
    ).returning(_cache.c.key)


@driver_statement
def set_many() -> ReturningInsert[str]:
    """Insert or replace `keys`, each with its value, number and `ttls`; a `ttl` of NULL never expires.

    The keys must be unique and sorted.
    """
    given = (
        func.unnest(
            bindparam("keys", type_=ARRAY(Text)),
            bindparam("values", type_=ARRAY(LargeBinary)),
            bindparam("numbers", type_=ARRAY(BigInteger)),
            bindparam("ttls", type_=ARRAY(BigInteger)),
        )
        .table_valued(
            column("key", Text),
            column("value", LargeBinary),
            column("number", BigInteger),
            column("ttl", BigInteger),
        )
        .render_derived("given")
    )
    statement = insert(_cache).from_select(
        ["key", "value", "number", "set_us", "expires_us"],
        select(
            given.c.key,
            given.c.value,
            given.c.number,
            now_us(),
            case((given.c.ttl.is_(None), number(NEVER)), else_=now_us() + given.c.ttl),
        ),
        include_defaults=False,
    )
    return statement.on_conflict_do_update(
        index_elements=[_cache.c.key],
        set_={name: statement.excluded[name] for name in ("value", "number", "set_us", "expires_us")},
    ).returning(_cache.c.key)


@driver_statement
def increment(*, expires: bool) -> ReturningInsert[int | None]:
    """Add `number` to `key`, which begins at 0 and keeps its expiry; NULL if the value is not a number."""
    statement = _insert(expires=expires)
    excluded, expired = statement.excluded, _cache.c.expires_us <= statement.excluded.set_us
    return statement.on_conflict_do_update(
        index_elements=[_cache.c.key],
        set_={
            "value": case((expired, excluded.value), else_=_cache.c.value),
            "number": case((expired, excluded.number), else_=_cache.c.number + excluded.number),
            "set_us": excluded.set_us,
            "expires_us": case((expired, excluded.expires_us), else_=_cache.c.expires_us),
        },
    ).returning(_cache.c.number)


@driver_statement
def touch(*, expires: bool) -> Update:
    """Set the expiry of `key` unless it has expired."""
    moved = now_us() + bigint("ttl") if expires else number(NEVER)
    return update(_cache).where(_cache.c.key == _key, _live).values(expires_us=moved)


@driver_statement
def remove() -> ReturningDelete[str]:
    """Delete those of `keys` that have not expired."""
    keys = any_(bindparam("keys", type_=ARRAY(Text)))
    return delete(_cache).where(_cache.c.key == keys, _live).returning(_cache.c.key)


@driver_statement
def clear(*, limit: int) -> ReturningDelete[str]:
    """Delete at most `limit` entries whose key starts with `prefix`, expired ones too."""
    doomed = materialized(
        select(_cache.c.key)
        .where(func.starts_with(_cache.c.key, bindparam("prefix", type_=Text)))
        .order_by(_cache.c.key)
        .limit(number(limit))
        .with_for_update(),
        "doomed",
    )
    return delete(_cache).where(among(_cache.c.key, doomed)).returning(_cache.c.key)


@driver_statement
def purge(*, limit: int) -> ReturningDelete[str]:
    """Delete at most `limit` expired entries; locked rows are skipped."""
    doomed = materialized(
        select(_cache.c.key).where(_expired()).limit(number(limit)).with_for_update(skip_locked=True),
        "doomed",
    )
    return delete(_cache).where(among(_cache.c.key, doomed)).returning(_cache.c.key)


@driver_statement
def purgeable() -> Select[int]:
    """Count the expired entries."""
    return select(func.count()).select_from(_cache).where(_expired())


def _expired() -> ColumnElement[bool]:
    return _cache.c.expires_us <= now_us()


@driver_statement
def purge_claims(*, limit: int) -> ReturningDelete[str]:
    """Delete at most `limit` expired claims; locked rows are skipped."""
    doomed = materialized(
        select(_claims.c.key)
        .where(_claims.c.expires_us <= now_us())
        .limit(number(limit))
        .with_for_update(skip_locked=True),
        "doomed",
    )
    return delete(_claims).where(among(_claims.c.key, doomed)).returning(_claims.c.key)


@driver_statement
def evict(*, limit: int) -> ReturningDelete[str]:
    """Delete the `limit` entries that were set first; locked rows are skipped."""
    doomed = materialized(
        select(_cache.c.key).order_by(_cache.c.set_us).limit(number(limit)).with_for_update(skip_locked=True),
        "doomed",
    )
    return delete(_cache).where(among(_cache.c.key, doomed)).returning(_cache.c.key)


@driver_statement
def size() -> Select[int, int]:
    """Select the number of entries, and the bytes of their keys and values."""
    value = func.coalesce(func.octet_length(_cache.c.value), number(8))
    held = func.coalesce(func.sum(func.octet_length(_cache.c.key) + value), number(0))
    return select(func.count(), held).select_from(_cache)


@driver_statement
def claim() -> ReturningInsert[uuid.UUID]:
    """Claim the computation of `key` for `lease`, unless another caller holds it."""
    statement = insert(_claims).values(
        key=_key,
        token=bindparam("token", type_=Uuid),
        claimed_us=now_us(),
        expires_us=now_us() + bigint("lease"),
    )
    return statement.on_conflict_do_update(
        index_elements=[_claims.c.key],
        set_={name: statement.excluded[name] for name in ("token", "claimed_us", "expires_us")},
        where=_claims.c.expires_us <= statement.excluded.claimed_us,
    ).returning(_claims.c.token)


@driver_statement
def release() -> ReturningDelete[str]:
    """Delete the claim of `key` if it still has this `token`."""
    held = _claims.c.token == bindparam("token", type_=Uuid)
    return delete(_claims).where(_claims.c.key == _key, held).returning(_claims.c.key)
