"""Statements about users.

They only read: the service that owns the table creates its rows.
"""

from __future__ import annotations

import uuid

from sqlalchemy import Select, select

from ..models import User
from .shapes.paging import page

LIST_KEY = ("id",)


def get(user_id: uuid.UUID) -> Select[User]:
    """Select a user by id."""
    return select(User).where(User.id == user_id)


def get_by_email(email: str) -> Select[User]:
    """Select the oldest user with this address that is not deleted.

    Supabase allows several single sign-on users to share an address.
    """
    return (
        select(User)
        .where(User.email == email, User.deleted_at.is_(None))
        .order_by(User.created_at, User.id)
        .limit(1)
    )


def list_(*, include_deleted: bool, after: str | None, limit: int) -> Select[User]:
    """Select a page of users, ordered by id."""
    statement = select(User) if include_deleted else select(User).where(User.deleted_at.is_(None))
    return page(statement, [User.id], after=after, limit=limit)
