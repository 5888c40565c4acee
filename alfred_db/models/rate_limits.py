"""Rate limits: what was used of them."""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from ..types import Text
from .base import Base

__all__ = ["RateLimitState"]


class RateLimitState(Base):
    """The state of a rate limit. UNLOGGED: a crash of the server resets all limits.

    Added: the platform keeps its rate limits in Redis. Times are microseconds since 1970.
    """

    __tablename__ = "rate_limits"
    __table_args__ = ({"prefixes": ["UNLOGGED"], "postgresql_with": {"fillfactor": 70}},)

    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    """The algorithm, a colon, and what is limited, such as `token-bucket:user:7`.

    Its collation is C, so that the index has a prefix as a range.
    """
    at_us: Mapped[int] = mapped_column(BigInteger)
    """When it last allowed something."""
    start_us: Mapped[int] = mapped_column(BigInteger)
    """Start of the window; of a token bucket, when it is full again."""
    hits: Mapped[int] = mapped_column(BigInteger)
    """What was allowed in the window; 0 in a token bucket."""
    previous: Mapped[int] = mapped_column(BigInteger)
    """What was allowed in the window before; 0 unless the window slides."""
    expires_us: Mapped[int] = mapped_column(BigInteger)
    """When the row no longer matters."""
    entries: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))
    """Of a moving window, when each unit was allowed, the oldest first; NULL for other algorithms."""
