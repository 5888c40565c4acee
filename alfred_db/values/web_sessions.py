"""What calls of web sessions return."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

__all__ = ["ActiveWebSession", "NewWebSession"]


@dataclass(frozen=True, slots=True)
class ActiveWebSession:
    """A web session that has not ended."""

    user_id: str | None
    """The user; None before the login."""
    data: dict[str, Any]
    """Content, chosen by the application."""
    created_at: datetime
    """When it was created."""
    seen_at: datetime
    """When it was last touched, to about a minute."""
    expires_at: datetime
    """When it ends, unless it is touched before and its lifetime allows more."""


@dataclass(frozen=True, slots=True)
class NewWebSession:
    """A session and its token, which is shown only here: the database has its hash."""

    token: str = field(repr=False)
    """For the cookie of the client."""
    session: ActiveWebSession
    """The session."""
