"""Users, as managed by GoTrue of Supabase; the table is created only if no other service owns the schema."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import UniqueConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..sql import MADE_HERE
from .base import Base, updated_by_trigger

__all__ = ["User"]


@updated_by_trigger
class User(Base):
    """A user. Passwords and tokens are read only if a query selects them explicitly."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        UniqueConstraint("phone"),
        {"schema": "auth", "comment": MADE_HERE},
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    """Key of the row; assigned by the service that registers users, so that it has no default."""
    email: Mapped[str | None]
    """Email address; NULL for a user who signed up by phone."""
    phone: Mapped[str | None]
    """Phone number; NULL for a user who signed up by email."""
    encrypted_password: Mapped[str | None] = mapped_column(deferred=True)
    """Hash of the password."""
    email_confirmed_at: Mapped[datetime | None]
    """When the address was confirmed."""
    phone_confirmed_at: Mapped[datetime | None]
    """When the number was confirmed."""
    confirmation_token: Mapped[str | None] = mapped_column(deferred=True)
    """Secret of the sign-up message."""
    confirmation_sent_at: Mapped[datetime | None]
    """When the sign-up message was sent."""
    recovery_token: Mapped[str | None] = mapped_column(deferred=True)
    """Secret of the password recovery message."""
    recovery_sent_at: Mapped[datetime | None]
    """When the recovery message was sent."""
    email_change_token: Mapped[str | None] = mapped_column(deferred=True)
    """Secret of the message about a new address.

    Supabase has it as `email_change_token_new`, which is not mapped.
    """
    email_change: Mapped[str | None]
    """The new address, until it is confirmed."""
    email_change_sent_at: Mapped[datetime | None]
    """When the message about a new address was sent."""
    last_sign_in_at: Mapped[datetime | None]
    """When the user last signed in."""
    raw_app_meta_data: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Metadata of the platform, which the user may not change."""
    raw_user_meta_data: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Metadata of the user."""
    created_at: Mapped[datetime | None]
    """When the user was registered."""
    updated_at: Mapped[datetime | None] = mapped_column(onupdate=func.now())
    """When the row last changed."""
    deleted_at: Mapped[datetime | None]
    """When the user was deleted; the row remains."""
