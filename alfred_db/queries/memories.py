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

from ..models import Memory, MemoryBank
from ..models.base import table_of
from ..vectors.formats import VectorLike
from .shapes.functions import func
from .shapes.literals import among, any_of, in_order
from .shapes.memories import alive, expired, later
from .shapes.paging import page
from .shapes.vector_search import literal_limit

LIST_KEY = ("id",)
TSVECTOR = func.to_tsvector(
    literal_column("'english'::regconfig"), func.left(Memory.content, literal_column("100000"))
)
"""The indexed expression of the search by word."""

GIVEN = ("content", "content_hash", "embedding", "importance", "metadata", "embedding_model")
"""What is told of a memory: the columns that both statements of remembering take."""

_memories = table_of(Memory)


@lru_cache
def in_bank(bank_id: int) -> ColumnElement[bool]:
    """The memories of a bank that have not expired."""
    return and_(Memory.memory_bank_id == bank_id, alive(Memory))


@lru_cache
def remember() -> ReturningInsert[int, int]:
    """Store one memory, or count it if the bank has it; gives no row when there is no such bank.

    Run it with `bank`, `ttl`, which may be None, and the columns of GIVEN, each as `new_` and its name.
    """
    given = (bindparam(f"new_{name}", type_=_memories.c[name].type) for name in GIVEN)
    expires_at = func.now() + bindparam("ttl", type_=INTERVAL)
    chosen: Select[Any] = select(MemoryBank.id, *given, literal_column("1"), expires_at, func.now())
    chosen = chosen.where(MemoryBank.id == bindparam("bank")).with_for_update(read=True, key_share=True)
    names = ["memory_bank_id", *GIVEN, "seen_count", "expires_at", "updated_at"]
    statement = insert(_memories).from_select(names, chosen, include_defaults=False)
    return _counted(statement).returning(Memory.id, Memory.seen_count)


def remember_many() -> ReturningInsert[bytes | None, int, int]:
    """The same for several, whose hashes differ; run it with a mapping of columns for each."""
    return _counted(insert(_memories)).returning(Memory.content_hash, Memory.id, Memory.seen_count)


def _counted(statement: Insert) -> Insert:
    """The newest text counts and the greatest importance, and of two expiries the later."""
    old, new = _memories.c, statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[Memory.memory_bank_id, Memory.content_hash],
        set_={
            "content": new.content,
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
    """Which of these the bank holds."""
    return select(Memory.content_hash).where(
        Memory.memory_bank_id == bank_id, Memory.content_hash == any_of(hashes, LargeBinary())
    )


def hold(memory_ids: Sequence[int]) -> Select[Memory]:
    """The memories, locked in the one order that cannot end in a deadlock."""
    return select(Memory).where(_one_of(memory_ids)).order_by(Memory.id).with_for_update(key_share=True)


def count_in() -> Update:
    """Count near duplicates in the memory that they are merged into; run it with `into`, `more`, `weight` each."""
    return (
        update(_memories)
        .where(_memories.c.id == bindparam("into", type_=BigInteger))
        .values(
            seen_count=_memories.c.seen_count + bindparam("more", type_=Integer),
            importance=func.greatest(_memories.c.importance, bindparam("weight", type_=Integer)),
        )
    )


def get(memory_id: int) -> Select[Memory]:
    return select(Memory).where(Memory.id == memory_id, alive(Memory))


def change(memory_id: int, values: Mapping[str, Any]) -> ReturningUpdate[Memory]:
    return update(Memory).where(Memory.id == memory_id, alive(Memory)).values(**values).returning(Memory)


def remove(memory_ids: Sequence[int]) -> ReturningDelete[int]:
    return (
        delete(Memory).where(among(Memory.id, in_order(Memory.id, _one_of(memory_ids)))).returning(Memory.id)
    )


def list_(bank_id: int, *, after: str | None, limit: int) -> Select[Memory]:
    return page(select(Memory).where(in_bank(bank_id)), [Memory.id], after=after, limit=limit)


@lru_cache
def touch() -> Update:
    """Changes no indexed column and not the vector, so the new row versions stay on their pages; `ids` sorted."""
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


def nearest_each(
    bank_id: int, embeddings: Sequence[VectorLike], *, limit: int, exact: bool
) -> Select[int, int, float]:
    """The nearest memories of each of several vectors; `place` counts the vectors from 0."""
    vector = _memories.c.embedding.type
    given = values(column("place", Integer), column("embedding", vector), name="given").data(
        list(enumerate(embeddings))
    )
    near = _near(given.c.embedding, bank_id, limit, exact)
    return select(given.c.place, near.c.id, near.c.distance).join(near, true())


def neighbours(
    bank_id: int, *, after: int, rows: int, limit: int, exact: bool
) -> Select[int, int | None, float | None]:
    """The memories nearest to each of the bank's next `rows` memories; NULL for one that has none."""
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
    # The sum is an order that no index has.
    order = distance + literal_column("0::float8") if exact else distance
    return rows.order_by(order).limit(literal_limit(limit)).lateral("near")


def sweep(limit: int) -> ReturningDelete[int]:
    """Remove what has expired longest, passing over what others hold."""
    due = select(Memory.id).where(expired(Memory)).order_by(Memory.expires_at).limit(limit)
    gone = due.with_for_update(skip_locked=True).cte("gone")
    return delete(Memory).where(among(Memory.id, gone)).returning(Memory.id)


def prune(bank_id: int, *, half_life: float, keep: int | None, below: float | None) -> ReturningDelete[int]:
    """Remove the least alive: all but `keep`, or those whose life is less than `below`.

    log2(importance) + last use / half-life orders memories as importance * 2^(-age / half-life) does, at any time.
    """
    used = func.coalesce(Memory.last_accessed, Memory.created_at)
    life = _log2(func.greatest(Memory.importance, 1)) + _epoch(used) / literal(float(half_life), Double)
    doomed = select(Memory.id).where(in_bank(bank_id))
    if keep is not None:
        doomed = doomed.order_by(life.desc(), Memory.id.desc()).offset(keep)
    if below is not None:
        now = _epoch(func.statement_timestamp()) / literal(float(half_life), Double)
        doomed = doomed.where(life < _log2(literal(float(below), Double)) + now)
    # Locked in the order of the ids, as by all others, so that none waits for the other in a circle.
    chosen = doomed.cte("doomed").prefix_with("MATERIALIZED")
    held = select(Memory.id).where(among(Memory.id, chosen)).order_by(Memory.id).with_for_update()
    return delete(Memory).where(among(Memory.id, held.cte("gone"))).returning(Memory.id)


def _log2(number: Any) -> ColumnElement[float]:
    # With its type, as SQLAlchemy divides by a NUMERIC otherwise, and pg_catalog no double precision by one.
    return cast(
        func.ln(cast(number, Double), type_=Double) / func.ln(literal(2.0, Double), type_=Double), Double
    )


def _epoch(time: Any) -> ColumnElement[float]:
    return cast(extract("epoch", time), Double)
