"""Statements about the cache."""

from __future__ import annotations

import uuid

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    LargeBinary,
    Select,
    Update,
    Uuid,
    any_,
    bindparam,
    case,
    column,
    delete,
    null,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert

from ..models import CacheBound, CacheClaim, CacheEntry
from ..models.base import table_of
from ..types import Text
from .shapes.clock import NEVER, bigint, now_us
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, materialized, number, percentage
from .shapes.prefixes import prefixed

BLOCKS = 400
"""How many blocks of the table a sample reads, 3 MB; a smaller table is read whole."""

BLOCK_BYTES = 8192
"""The size of a block, unless the server was built with another; a sample is then larger or smaller."""

_cache = table_of(CacheEntry)
_claims = table_of(CacheClaim)
_bounds = table_of(CacheBound)
_key = bindparam("key", type_=Text)
_live = _cache.c.expires_us > now_us()
_REPLACED = ("value", "number", "set_us", "expires_us")


@driver_statement
def get() -> Select[bytes | None, int | None]:
    """Select the value of `key` unless it has expired."""
    return select(_cache.c.value, _cache.c.number).where(_cache.c.key == _key, _live)


@driver_statement
def get_many() -> Select[str, bytes | None, int | None]:
    """Select the values of `keys` that have not expired."""
    keys = any_(bindparam("keys", type_=ARRAY(Text)))
    return select(_cache.c.key, _cache.c.value, _cache.c.number).where(_cache.c.key == keys, _live)


def _insert(*, expires: bool, numeric: bool) -> Insert:
    # A value is either bytes or a number: the other one is NULL, and not a parameter.
    return insert(_cache).values(
        key=_key,
        value=null() if numeric else bindparam("value", type_=LargeBinary),
        number=bigint("number") if numeric else null(),
        set_us=now_us(),
        expires_us=now_us() + bigint("ttl") if expires else number(NEVER),
    )


@driver_statement
def set_(*, expires: bool, numeric: bool) -> Insert:
    """Insert or replace `key`."""
    statement = _insert(expires=expires, numeric=numeric)
    return statement.on_conflict_do_update(
        index_elements=[_cache.c.key], set_={name: statement.excluded[name] for name in _REPLACED}
    )


@driver_statement
def add(*, expires: bool, numeric: bool) -> ReturningInsert[str]:
    """Insert `key`, or replace it if it has expired."""
    statement = _insert(expires=expires, numeric=numeric)
    return statement.on_conflict_do_update(
        index_elements=[_cache.c.key],
        set_={name: statement.excluded[name] for name in _REPLACED},
        where=_cache.c.expires_us <= statement.excluded.set_us,
    ).returning(_cache.c.key)


@driver_statement
def set_many() -> Insert:
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
        set_={name: statement.excluded[name] for name in _REPLACED},
    )


@driver_statement
def increment(*, expires: bool) -> ReturningInsert[int | None]:
    """Add `number` to `key`, which begins at 0 and keeps its expiry; NULL if the value is not a number."""
    statement = _insert(expires=expires, numeric=True)
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


def _equal() -> list[ColumnElement[bool]]:
    old = (bindparam("old_value", type_=LargeBinary), bigint("old_number"))
    return [_cache.c.value.is_not_distinct_from(old[0]), _cache.c.number.is_not_distinct_from(old[1])]


@driver_statement
def replace(*, expires: bool) -> Update:
    """Replace `key` if it has not expired and has the old value."""
    values = {
        "value": bindparam("value", type_=LargeBinary),
        "number": bigint("number"),
        "set_us": now_us(),
        "expires_us": now_us() + bigint("ttl") if expires else number(NEVER),
    }
    return update(_cache).where(_cache.c.key == _key, _live, *_equal()).values(values)


@driver_statement
def remove_equal() -> ReturningDelete[str]:
    """Delete `key` if it has not expired and has the old value."""
    return delete(_cache).where(_cache.c.key == _key, _live, *_equal()).returning(_cache.c.key)


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
def clear(*, limit: int, bounded: bool) -> ReturningDelete[str]:
    """Delete at most `limit` entries whose key starts with `prefix`, expired ones too."""
    found = select(_cache.c.key).where(*prefixed(_cache.c.key, bounded=bounded))
    doomed = materialized(found.order_by(_cache.c.key).limit(number(limit)).with_for_update(), "doomed")
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
def size() -> Select[int, int]:
    """Select the number of entries, and the bytes of their keys and values."""
    return select(func.count(), func.coalesce(func.sum(_held(_cache)), number(0))).select_from(_cache)


def _held(entries: FromClause) -> ColumnElement[int]:
    """The bytes of an entry, without reading a value that is stored out of line."""
    return func.octet_length(entries.c.key) + func.coalesce(func.octet_length(entries.c.value), number(8))


@driver_statement
def blocks() -> Select[int]:
    """Select the number of blocks of the table."""
    table = select(column("tableoid", Integer)).select_from(_cache).limit(number(1)).scalar_subquery()
    size = func.coalesce(func.pg_relation_size(table, type_=BigInteger), number(0))
    return select(size // number(BLOCK_BYTES))


@driver_statement
def sample(percent: float) -> Select[int, int]:
    """Select the entries and their bytes in a sample of `percent` of the blocks."""
    seen = _cache.tablesample(func.system(percentage(percent)), name="seen")
    return select(func.count(), func.coalesce(func.sum(_held(seen)), number(0))).select_from(seen)


@driver_statement
def evict(percent: float) -> ReturningDelete[int]:
    """Delete expired entries, then those that were set first, of a sample of `percent` of the blocks.

    Delete `entries` of them, or more until they have `bytes`, but at most `most`; return the bytes of each. Locked rows
    are skipped. No index has the time of an entry, which each `set` would have to change.
    """
    seen = _cache.tablesample(func.system(percentage(percent)), name="seen")
    held, rank = _held(seen), case((seen.c.expires_us <= now_us(), number(0)), else_=seen.c.set_us)
    ranked = select(
        seen.c.key,
        func.row_number().over(order_by=(rank, seen.c.key)).label("place"),
        (func.sum(held).over(order_by=(rank, seen.c.key)) - held).label("before"),
    ).subquery("ranked")
    chosen = (ranked.c.place <= bigint("entries")) | (ranked.c.before < bigint("bytes"))
    oldest = materialized(select(ranked.c.key).where(chosen, ranked.c.place <= bigint("most")), "oldest")
    doomed = materialized(
        select(_cache.c.key).where(among(_cache.c.key, oldest)).with_for_update(skip_locked=True), "doomed"
    )
    return delete(_cache).where(among(_cache.c.key, doomed)).returning(_held(_cache))


@driver_statement
def bound() -> Select[int | None, int | None]:
    """Select the bound of the cache."""
    return select(_bounds.c.entries, _bounds.c.bytes)


@driver_statement
def set_bound() -> Insert:
    """Set the bound of the cache; NULL is none."""
    statement = insert(_bounds).values(id=number(1), entries=bigint("entries"), bytes=bigint("bytes"))
    return statement.on_conflict_do_update(
        index_elements=[_bounds.c.id],
        set_={name: statement.excluded[name] for name in ("entries", "bytes")},
    )


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
