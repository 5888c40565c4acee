"""Web sessions: who is logged in, known by the hash of a token."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from .base import Base, Json

__all__ = ["WebSession"]


class WebSession(Base):
    """A session of a web application. Only the SHA-256 hash of its token is stored.

    Added: the platform keeps its sessions in Redis. Times are microseconds since 1970.
    """

    __tablename__ = "web_sessions"
    __table_args__ = (Index(None, "user_id"), {"postgresql_with": {"fillfactor": 70}})

    id: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    """SHA-256 hash of the token; `rotate` changes it."""
    user_id: Mapped[str | None]
    """The user; NULL before the login."""
    data: Mapped[Json]
    """Content, chosen by the application."""
    created_us: Mapped[int] = mapped_column(BigInteger)
    """When it was created."""
    seen_us: Mapped[int] = mapped_column(BigInteger)
    """When it was last touched, to about a minute."""
    idle_us: Mapped[int] = mapped_column(BigInteger)
    """How long it lasts without being touched."""
    expires_us: Mapped[int] = mapped_column(BigInteger)
    """When it ends even if it is touched."""
