"""Statements about conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, delete, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert

from ..models import Conversation, MessageRole
from .shapes.functions import func
from .shapes.hybrid_search import DIVIDED_BY_LENGTH
from .shapes.literals import among, in_order, materialized, seconds_ago
from .shapes.paging import page
from .shapes.vector_search import AnySelect, columns_of, literal_limit
from .shapes.words import parameters, tsquery

LIST_KEY = ("id",)


def append(
    session_id: str, role: MessageRole, content: str, metadata: Mapping[str, Any] | None
) -> ReturningInsert[Conversation]:
    """Insert a message."""
    return (
        insert(Conversation)
        .values(
            session_id=session_id,
            role=role,
            content=content,
            metadata_=None if metadata is None else dict(metadata),
        )
        .returning(Conversation)
    )


def append_many() -> ReturningInsert[int]:
    """Insert messages, returning their ids in the order of the parameters.

    Run it with a list of mappings of attributes.
    """
    return insert(Conversation).returning(Conversation.id, sort_by_parameter_order=True)


def history(session_id: str, *, after: str | None, limit: int) -> Select[Conversation]:
    """Select a page of the messages of a session, oldest first."""
    statement = select(Conversation).where(Conversation.session_id == session_id)
    return page(statement, [Conversation.id], after=after, limit=limit)


def last(session_id: str, count: int) -> Select[Conversation]:
    """Select the newest messages of a session, newest first, which is the order of the index."""
    return (
        select(Conversation)
        .where(Conversation.session_id == session_id)
        .order_by(Conversation.id.desc())
        .limit(count)
    )


def sessions(*, after: str | None, limit: int) -> AnySelect:
    """Select a page of sessions with their newest message, most recently active first.

    The scan walks back from the newest message of the table. A page costs as many rows as were written since
    the last message of the last session on it.
    """
    later = aliased(Conversation, name="later")
    followed = (
        select(later.id)
        .where(later.session_id == Conversation.session_id, later.id > Conversation.id)
        .exists()
    )
    newest: Any = select(Conversation.id, Conversation.session_id, Conversation.created_at).where(~followed)
    shown = page(newest, [Conversation.id], after=after, limit=limit, newest_first=True).subquery("shown")
    messages = (
        select(func.count())
        .where(Conversation.session_id == shown.c.session_id)
        .correlate(shown)
        .scalar_subquery()
        .label("messages")
    )
    return select(shown.c.id, shown.c.session_id, messages, shown.c.created_at).order_by(shown.c.id.desc())


def search(text: str, *, session_id: str | None, limit: int) -> AnySelect:
    """Select the messages that match English words, by rank and then newest first."""
    asked = tsquery(literal_column("'english'::regconfig"), "all")
    rank = func.ts_rank(Conversation.search, asked, literal_column(str(DIVIDED_BY_LENGTH))).label("score")
    found: AnySelect = select(*columns_of(Conversation), rank)
    found = found.where(Conversation.search.op("@@", is_comparison=True)(asked))
    if session_id is not None:
        found = found.where(Conversation.session_id == session_id)
    found = found.order_by(rank.desc(), Conversation.id.desc()).limit(literal_limit(limit))
    return found.params(parameters(text, "all"))


def delete_session(session_id: str) -> ReturningDelete[int]:
    """Delete the messages of a session."""
    held = in_order(Conversation.id, Conversation.session_id == session_id)
    return delete(Conversation).where(among(Conversation.id, held)).returning(Conversation.id)


def purge(older_than: float, *, limit: int) -> ReturningDelete[int]:
    """Delete messages that are older than `older_than` seconds, the oldest first.

    Locked rows are skipped.
    """
    oldest = materialized(
        select(Conversation.id)
        .where(Conversation.created_at < seconds_ago(older_than))
        .order_by(Conversation.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True),
        "oldest",
    )
    return delete(Conversation).where(among(Conversation.id, oldest)).returning(Conversation.id)
