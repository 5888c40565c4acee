"""The cache: values with a time to live, and who computes a missing one."""

from __future__ import annotations

import uuid

from sqlalchemy import BigInteger, CheckConstraint, LargeBinary, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from ..types import Text
from .base import Base

__all__ = ["CacheBound", "CacheClaim", "CacheEntry"]

UNLOGGED = {"prefixes": ["UNLOGGED"], "postgresql_with": {"fillfactor": 70}}
"""A crash of the server empties the table, and a standby has none of it; an update stays on its page."""


class CacheEntry(Base):
    """A cached value. UNLOGGED: a crash of the server empties the table.

    Added: the platform keeps its cache in Redis. No index has a time, so that each update stays on its page. No CHECK has
    `value` or `number`, of which one is NULL: the server would read and prepare its expression for each write.
    """

    __tablename__ = "cache"
    __table_args__ = (UNLOGGED,)

    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    """Key, up to 2,000 bytes. Its collation is C, so that the index has a prefix as a range."""
    value: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The value; NULL if it is a number."""
    number: Mapped[int | None] = mapped_column(BigInteger)
    """The value if its text is a whole number, so that it can be incremented."""
    set_us: Mapped[int] = mapped_column(BigInteger)
    """When it was last set, in microseconds since 1970; the oldest are evicted first."""
    expires_us: Mapped[int] = mapped_column(BigInteger)
    """When it expires, in microseconds since 1970; the largest number is never."""


class CacheClaim(Base):
    """The right to compute a missing value of the cache. UNLOGGED.

    Added: while one caller of `get_or_set` computes a value, the others wait for it.
    """

    __tablename__ = "cache_claims"
    __table_args__ = (UNLOGGED,)

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    """Key of the missing value."""
    token: Mapped[uuid.UUID]
    """Identifies the claim: only its holder releases it."""
    claimed_us: Mapped[int] = mapped_column(BigInteger)
    """When it was claimed, in microseconds since 1970."""
    expires_us: Mapped[int] = mapped_column(BigInteger)
    """When another caller may claim it, in microseconds since 1970."""


class CacheBound(Base):
    """How much the cache may hold; at most one row.

    Added: Redis has it in its configuration. All processes that write to the cache, and the workers, keep it.
    """

    __tablename__ = "cache_bounds"
    __table_args__ = (CheckConstraint("id = 1", name="id"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    """1."""
    entries: Mapped[int | None] = mapped_column(BigInteger)
    """The most entries; NULL is no bound."""
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    """The most bytes of keys and values; NULL is no bound."""
