"""Statements about users, which only read: registering them is the work of the service that owns the table."""

from __future__ import annotations

import uuid

from sqlalchemy import Select, select

from ..models import User
from .shapes.paging import page

LIST_KEY = ("id",)


def get(user_id: uuid.UUID) -> Select[User]:
    return select(User).where(User.id == user_id)


def get_by_email(email: str) -> Select[User]:
    """The oldest of those who have it: Supabase lets users of single sign-on share an address."""
    return (
        select(User)
        .where(User.email == email, User.deleted_at.is_(None))
        .order_by(User.created_at, User.id)
        .limit(1)
    )


def list_(*, include_deleted: bool, after: str | None, limit: int) -> Select[User]:
    statement = select(User) if include_deleted else select(User).where(User.deleted_at.is_(None))
    return page(statement, [User.id], after=after, limit=limit)
