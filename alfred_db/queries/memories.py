"""Statements about memories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Double,
    Integer,
    LargeBinary,
    Select,
    Update,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    delete,
    extract,
    literal,
    literal_column,
    select,
    true,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import INTERVAL, Insert, insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate
from sqlalchemy.types import TypeEngine

from ..models import Memory, MemoryBank
from ..models.base import table_of
from ..types import Text
from ..vectors.formats import MatrixLike
from .shapes.driver_statement import driver_statement
from .shapes.functions import func
from .shapes.literals import among, any_of, in_order, materialized, number
from .shapes.memories import alive, expired, later, stored_words
from .shapes.paging import page
from .shapes.vector_search import literal_limit

LIST_KEY = ("id",)
STORED = ("content", "content_hash", "embedding", "importance", "metadata", "embedding_model")
"""The columns that are parameters of both statements that store memories."""

_memories = table_of(Memory)


IN_BANK = and_(Memory.memory_bank_id == bindparam("bank", type_=BigInteger), alive(Memory))
"""The condition of `in_bank` for the parameter `bank`."""


@lru_cache
def in_bank(bank_id: int) -> ColumnElement[bool]:
    """The memories of a bank that have not expired."""
    return and_(Memory.memory_bank_id == bank_id, alive(Memory))


@lru_cache
def remember() -> ReturningInsert[int, int]:
    """Insert a memory, or count it if the bank already holds its text.

    Returns no row if the bank does not exist. Parameters of the statement: `bank`, `ttl` (may be None), and
    the columns `STORED`, each prefixed with `new_`.
    """
    expires_at = func.now() + bindparam("ttl", type_=INTERVAL)
    bank = materialized(
        select(MemoryBank.id, expires_at.label("expires_at"), func.now().label("updated_at"))
        .where(MemoryBank.id == bindparam("bank"))
        .with_for_update(read=True, key_share=True),
        "bank",
    )
    given = (bindparam(f"new_{name}", type_=_memories.c[name].type) for name in STORED)
    words = stored_words(bindparam("new_content", type_=Text))
    chosen: Select[Any] = select(
        bank.c.id, *given, *words.values(), literal_column("1"), bank.c.expires_at, bank.c.updated_at
    )
    names = ["memory_bank_id", *STORED, *words, "seen_count", "expires_at", "updated_at"]
    statement = insert(_memories).from_select(names, chosen, include_defaults=False)
    return _counted(statement).returning(Memory.id, Memory.seen_count)


def remember_many() -> ReturningInsert[bytes | None, int, int]:
    """Insert several memories, or count those whose text the bank already holds.

    Run it with a list of mappings of columns, with the content once more as `words`; their hashes must differ.
    """
    statement = insert(_memories).values(stored_words(bindparam("words", type_=Text)))
    return _counted(statement).returning(Memory.content_hash, Memory.id, Memory.seen_count)


def _counted(statement: Insert) -> Insert:
    """Add ON CONFLICT to the INSERT of memories.

    Keeps the newest text and, where it is not NULL, the newest vector and metadata; the greatest importance
    and the later expiry.
    """
    old, new = _memories.c, statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[Memory.memory_bank_id, Memory.content_hash],
        set_={
            "content": new.content,
            "search": new.search,
            "search_hash": new.search_hash,
            "seen_count": old.seen_count + new.seen_count,
            "importance": func.greatest(old.importance, new.importance),
            "metadata": func.coalesce(new.metadata, old.metadata),
            "embedding": func.coalesce(new.embedding, old.embedding),
            "embedding_model": case(
                (new.embedding.is_(None), old.embedding_model), else_=new.embedding_model
            ),
            "expires_at": later(old.expires_at, new.expires_at),
            "updated_at": new.updated_at,
        },
    )


def known(bank_id: int, hashes: Sequence[bytes]) -> Select[bytes | None]:
    """Select those of these hashes that a bank holds."""
    return select(Memory.content_hash).where(
        Memory.memory_bank_id == bank_id, Memory.content_hash == any_of(hashes, LargeBinary())
    )


def hold(memory_ids: Sequence[int]) -> Select[Memory]:
    """Select memories and lock them in the order of their ids.

    All statements lock in this order, so that two calls cannot deadlock.
    """
    return select(Memory).where(_one_of(memory_ids)).order_by(Memory.id).with_for_update(key_share=True)


def count_in(counts: Sequence[tuple[int, int, int]]) -> ReturningUpdate[int]:
    """Count near duplicates in the memories that they are merged into: its id, how many, and their importance."""
    given = _given("counted", {"into": BigInteger(), "more": Integer(), "weight": Integer()}, counts)
    return (
        update(_memories)
        .where(_memories.c.id == given.c.into)
        .values(
            seen_count=_memories.c.seen_count + given.c.more,
            importance=func.greatest(_memories.c.importance, given.c.weight),
        )
        .returning(_memories.c.id)
    )


def still_near(pairs: Sequence[tuple[int, int]], near: float) -> Select[int, int]:
    """Select those pairs of memories that are in one bank, have not expired, and are near to each other."""
    given = _given("pairs", {"newest": BigInteger(), "other": BigInteger()}, pairs)
    newest, other = aliased(Memory, name="newest"), aliased(Memory, name="other")
    return (
        select(newest.id, other.id)
        .select_from(given)
        .join(newest, newest.id == given.c.newest)
        .join(other, other.id == given.c.other)
        .where(
            newest.memory_bank_id == other.memory_bank_id,
            alive(newest),
            alive(other),
            newest.embedding.cosine_distance(other.embedding) <= literal(float(near), Double),
        )
        .order_by(newest.id.desc(), other.id.desc())
    )


_MERGED = (
    "importance",
    "seen_count",
    "access_count",
    "last_accessed",
    "expires_at",
    "content",
    "content_hash",
)


def merge(changes: Sequence[Mapping[str, Any]]) -> ReturningUpdate[int]:
    """Update the memories that others were merged into; without a content they keep theirs."""
    types = {name: _memories.c[name].type for name in ("id", *_MERGED)}
    given = _given("merged", types, [tuple(change[name] for name in types) for change in changes])
    values = {name: given.c[name] for name in _MERGED}
    for name in ("content", "content_hash"):
        values[name] = func.coalesce(given.c[name], _memories.c[name])
    for name, words in stored_words(given.c.content).items():
        values[name] = case((given.c.content.is_(None), _memories.c[name]), else_=words)
    return update(_memories).where(_memories.c.id == given.c.id).values(values).returning(_memories.c.id)


def _given(name: str, types: Mapping[str, TypeEngine[Any]], rows: Sequence[Sequence[Any]]) -> Any:
    """Return rows as a table: an array for each column, so that it is one statement for any number of rows."""
    arrays = [
        literal([row[place] for row in rows], ARRAY(type_)) for place, type_ in enumerate(types.values())
    ]
    columns = [column(one, type_) for one, type_ in types.items()]
    return func.unnest(*arrays).table_valued(*columns, name=name).render_derived()


def get(memory_id: int) -> Select[Memory]:
    """Select a memory that has not expired by its id."""
    return select(Memory).where(Memory.id == memory_id, alive(Memory))


def change(memory_id: int, values: Mapping[str, Any]) -> ReturningUpdate[Memory]:
    """Update columns of a memory that has not expired."""
    if "content" in values:
        values = {**values, **stored_words(literal(values["content"], Text))}
    return update(Memory).where(Memory.id == memory_id, alive(Memory)).values(**values).returning(Memory)


def remove(memory_ids: Sequence[int]) -> ReturningDelete[int]:
    """Delete memories."""
    return (
        delete(Memory).where(among(Memory.id, in_order(Memory.id, _one_of(memory_ids)))).returning(Memory.id)
    )


def list_(bank_id: int, *, after: str | None, limit: int) -> Select[Memory]:
    """Select a page of the memories of a bank that have not expired, ordered by id."""
    return page(select(Memory).where(in_bank(bank_id)), [Memory.id], after=after, limit=limit)


@driver_statement
def touch() -> Update:
    """Record an access to memories. The parameter `ids` must be sorted.

    Neither an indexed column nor the vector changes, so the update can be heap-only (HOT).
    """
    given = bindparam("ids", type_=ARRAY(BigInteger))
    locked = select(_memories.c.id).where(_memories.c.id == any_(given)).order_by(_memories.c.id)
    held = locked.with_for_update(key_share=True).cte("held")
    return (
        update(_memories)
        .where(among(_memories.c.id, held))
        .values(
            access_count=_memories.c.access_count + literal_column("1"),
            last_accessed=func.statement_timestamp(),
        )
    )


def _one_of(memory_ids: Sequence[int]) -> ColumnElement[bool]:
    return _memories.c.id == any_of(sorted(set(memory_ids)), BigInteger())


def nearest_each(bank_id: int, embeddings: MatrixLike, *, limit: int, exact: bool) -> Select[int, int, float]:
    """Select the nearest memories of each of several vectors; `place` is the index of the vector, from 0."""
    vector = _memories.c.embedding.type
    given = values(column("place", Integer), column("embedding", vector), name="given").data(
        list(enumerate(embeddings))
    )
    near = _near(given.c.embedding, bank_id, limit, exact)
    return select(given.c.place, near.c.id, near.c.distance).join(near, true())


def neighbours(
    bank_id: int, *, after: int, rows: int, limit: int, exact: bool
) -> Select[int, int | None, float | None]:
    """Select the memories nearest to each of the next `rows` memories of a bank.

    Without a near memory, `other` and `distance` are NULL.
    """
    picked = (
        select(Memory.id, Memory.embedding)
        .where(in_bank(bank_id), Memory.embedding.is_not(None), Memory.id > after)
        .order_by(Memory.id)
        .limit(rows)
        .subquery("picked")
    )
    near = _near(picked.c.embedding, bank_id, limit, exact)
    return select(picked.c.id, near.c.id.label("other"), near.c.distance).outerjoin(near, true())


def _near(vector: ColumnElement[Any], bank_id: int, limit: int, exact: bool) -> Any:
    other = aliased(Memory, name="other")
    distance = other.embedding.cosine_distance(vector)
    rows = select(other.id, distance.label("distance")).where(
        other.memory_bank_id == bank_id, alive(other), other.embedding.is_not(None)
    )
    # No index has the order of the sum, so that all memories are compared.
    order = distance + literal_column("0::float8") if exact else distance
    return rows.order_by(order).limit(literal_limit(limit)).lateral("near")


def sweep(limit: int) -> ReturningDelete[int]:
    """Delete expired memories, the earliest expired first; locked rows are skipped."""
    due = select(Memory.id).where(expired(Memory)).order_by(Memory.expires_at).limit(limit)
    gone = due.with_for_update(skip_locked=True).cte("gone")
    return delete(Memory).where(among(Memory.id, gone)).returning(Memory.id)


def purgeable() -> Select[int]:
    """Count the expired memories."""
    return select(func.count()).select_from(Memory).where(expired(Memory))


def prune(
    bank_id: int, *, half_life: float, keep: int | None, below: float | None, limit: int | None
) -> ReturningDelete[int]:
    """Delete the memories of a bank with the least life: importance * 2^(-age / half_life).

    The order of log2(importance) + last use / half_life is the same at any time, so that the life is compared
    in this form.

    Args:
        bank_id: The bank.
        half_life: Half-life in seconds.
        keep: Number of memories to keep; None for no limit.
        below: Delete memories whose life is less than this; None for no threshold.
        limit: Maximum number of memories to delete; None for no limit.
    """
    used = func.coalesce(Memory.last_accessed, Memory.created_at)
    life = _log2(func.greatest(Memory.importance, 1)) + _epoch(used) / literal(float(half_life), Double)
    doomed = select(Memory.id).where(in_bank(bank_id))
    if keep is not None:
        doomed = doomed.order_by(life.desc(), Memory.id.desc()).offset(keep)
    if below is not None:
        now = _epoch(func.statement_timestamp()) / literal(float(half_life), Double)
        doomed = doomed.where(life < _log2(literal(float(below), Double)) + now)
    if limit is not None:
        doomed = doomed.limit(number(limit))
    # Locked in the order of the ids, as in all other statements, so that they cannot deadlock.
    chosen = materialized(doomed, "doomed")
    held = select(Memory.id).where(among(Memory.id, chosen)).order_by(Memory.id).with_for_update()
    return delete(Memory).where(among(Memory.id, held.cte("gone"))).returning(Memory.id)


def _log2(number: Any) -> ColumnElement[float]:
    # With types: SQLAlchemy would cast the divisor to NUMERIC, and pg_catalog has no double precision / numeric.
    return cast(
        func.ln(cast(number, Double), type_=Double) / func.ln(literal(2.0, Double), type_=Double), Double
    )


def _epoch(time: Any) -> ColumnElement[float]:
    return cast(extract("epoch", time), Double)
