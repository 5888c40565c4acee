"""Statements about conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Double,
    Integer,
    Select,
    bindparam,
    cast,
    column,
    delete,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from ..models import Conversation, ConversationSession
from ..models.base import table_of
from ..types import Text
from .shapes.functions import func
from .shapes.literals import among, any_of, in_order, materialized, number, seconds_ago
from .shapes.paging import page
from .shapes.text_terms import counted_in, float8, given_terms, matches, rated, text_score
from .shapes.vector_search import AnySelect, columns_of, literal_limit
from .shapes.words import parameters, tsquery

LIST_KEY = ("id",)

NEW = ("session_id", "role", "content", "metadata")
"""The columns of a message that the caller passes."""

CANDIDATES = 1_000
"""Maximum number of messages that a search ranks."""

_messages, _sessions = table_of(Conversation), table_of(ConversationSession)


@lru_cache
def append() -> Select[Conversation]:
    """Insert a message and count it in its session, in one statement.

    Parameters of the statement: the columns `NEW`, each prefixed with `new_`.
    """
    table = table_of(Conversation)
    message = (
        insert(table)
        .values({name: bindparam(f"new_{name}", type_=table.c[name].type) for name in NEW})
        .returning(*(column for column in table.c if column.name != "search"))
        .cte("message")
    )
    new = select(
        message.c.session_id,
        literal_column("1", BigInteger).label("messages"),
        message.c.created_at.label("first_at"),
        message.c.id.label("last_id"),
    )
    return select(aliased(Conversation, message)).add_cte(*_counted(bindparam("new_session_id"), new))


def append_many() -> ReturningInsert[int]:
    """Insert messages, returning their ids in the order of the parameters.

    Run it with a list of mappings of attributes.
    """
    return insert(Conversation).returning(Conversation.id, sort_by_parameter_order=True)


def count_in(session_id: str, messages: int, last_id: int) -> Select[int]:
    """Count new messages in their session; their time is that of the transaction."""
    name = literal(session_id, Text)
    new = select(
        name.label("session_id"),
        literal(messages, BigInteger).label("messages"),
        func.now().label("first_at"),
        literal(last_id, BigInteger).label("last_id"),
    )
    return select(literal_column("1", Integer)).add_cte(*_counted(name, new))


def _counted(session_id: ColumnElement[str], new: Select[Any, Any, Any, Any]) -> tuple[CTE, ...]:
    """Add messages to a row of their session that no other transaction has locked, or insert a row.

    So that nobody waits: transactions may append to one session at the same time.
    """
    given = materialized(new, "given")
    free = materialized(
        select(_sessions.c.id)
        .where(_sessions.c.session_id == session_id)
        .order_by(_sessions.c.id)
        .limit(literal_column("1", Integer))
        .with_for_update(skip_locked=True),
        "free",
    )
    counted = (
        update(_sessions)
        .where(among(_sessions.c.id, free), _sessions.c.session_id == given.c.session_id)
        .values(
            messages=_sessions.c.messages + given.c.messages,
            last_id=func.greatest(_sessions.c.last_id, given.c.last_id),
            last_at=func.greatest(_sessions.c.last_at, given.c.first_at),
        )
        .returning(_sessions.c.id)
        .cte("counted")
    )
    row: Any = select(
        given.c.session_id,
        given.c.messages,
        given.c.first_at,
        given.c.last_id,
        given.c.first_at.label("last_at"),
    ).where(~select(counted.c.id).exists())
    added = insert(_sessions).from_select(_COUNTED, row, include_defaults=False).cte("added")
    return counted, added


_COUNTED = ("session_id", "messages", "first_at", "last_id", "last_at")


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
    """Select a page of sessions, most recently active first."""
    row, later = aliased(ConversationSession, name="row"), aliased(ConversationSession, name="later")
    other = aliased(ConversationSession, name="other")
    followed = select(later.id).where(
        later.session_id == row.session_id,
        tuple_(later.last_id, later.id) > tuple_(row.last_id, row.id),
    )
    # A session whose last message was deleted while others had its rows locked keeps the rows.
    alive = select(Conversation.id).where(Conversation.session_id == row.session_id)
    newest: Any = select(row.id, row.last_id, row.session_id, row.last_at).where(
        ~followed.exists(), alive.exists()
    )
    shown = page(newest, [row.last_id], after=after, limit=limit, newest_first=True).subquery("shown")
    whole = (
        select(
            cast(func.sum(other.messages), BigInteger).label("messages"),
            func.min(other.first_at).label("first_at"),
        )
        .where(other.session_id == shown.c.session_id)
        .lateral("whole")
    )
    return (
        select(
            shown.c.id.label("row_id"),
            shown.c.last_id.label("id"),
            shown.c.session_id,
            whole.c.messages,
            shown.c.last_at,
            whole.c.first_at,
        )
        .join(whole, true())
        .order_by(shown.c.last_id.desc())
    )


def search(
    text: str,
    *,
    session_id: str | None,
    limit: int,
    rows: float = 0.0,
    average: float = 1.0,
    common: str = "{}",
) -> AnySelect:
    """Select the newest messages that match English words, the best first and then the newest.

    Of the messages that match, the newest `CANDIDATES` are ranked: for common words the server reads messages from the
    newest on until it has that number, and for rare words it looks them up. The column `ranked` is their number. The score is
    that of `text_terms`, with words counted among all messages, or those of the session.

    Args:
        text: The words.
        session_id: The session; None for all.
        limit: Maximum number of messages.
        rows: About how many messages there are in all; not needed for a session.
        average: The average length of a text.
        common: A JSON object of frequent words, which are not counted, with the part of the messages that has each; none
            for a session.
    """
    language: ColumnElement[Any] = literal_column("'english'::regconfig")
    matching: AnySelect = select(*columns_of(Conversation), _messages.c.search.label("search"))
    matching = matching.where(matches(_messages.c.search, tsquery(language)))
    size: ColumnElement[float] = bindparam("rows", type_=Double)
    within = None
    if session_id is not None:
        within = _messages.c.session_id == session_id
        matching = matching.where(within)
        messages = select(func.sum(_sessions.c.messages)).where(_sessions.c.session_id == session_id)
        size = cast(messages.scalar_subquery(), Double)
    newest = materialized(matching.order_by(Conversation.id.desc()).limit(number(CANDIDATES)), "newest")
    terms = rated(counted_in(given_terms(language), _messages.c.search, _messages, within), size)
    score = text_score(newest.c.search, newest, terms, bindparam("average", type_=Double))
    ranked = func.coalesce(score, float8(0.0), type_=Double).label("score")
    columns: list[ColumnElement[Any]] = [newest.c[column.name] for column in columns_of(Conversation)]
    found: AnySelect = select(*columns, ranked, func.count().over().label("ranked"))
    found = found.order_by(ranked.desc(), newest.c.id.desc()).limit(literal_limit(limit))
    return found.params({**parameters(text, "all"), "rows": rows, "average": average, "common": common})


def delete_session(session_id: str, *, limit: int | None) -> ReturningDelete[int]:
    """Delete the messages of a session, at most `limit`."""
    held = in_order(Conversation.id, Conversation.session_id == session_id, limit=limit)
    return delete(Conversation).where(among(Conversation.id, held)).returning(Conversation.id)


def purge(older_than: float, *, limit: int) -> ReturningDelete[str]:
    """Delete messages that are older than `older_than` seconds, the oldest first; return their sessions.

    Locked rows are skipped.
    """
    oldest = materialized(
        select(Conversation.id)
        .where(_older(older_than))
        .order_by(Conversation.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True),
        "oldest",
    )
    return delete(Conversation).where(among(Conversation.id, oldest)).returning(Conversation.session_id)


def purgeable(older_than: float) -> Select[int]:
    """Count the messages that calls of `purge` delete in the end."""
    return select(func.count()).select_from(Conversation).where(_older(older_than))


def _older(older_than: float) -> ColumnElement[bool]:
    return Conversation.created_at < seconds_ago(older_than)


def free_rows(session_ids: Sequence[str]) -> Select[int, str]:
    """Lock those rows of sessions that no other transaction has locked, in the order of their keys."""
    return (
        select(ConversationSession.id, ConversationSession.session_id)
        .where(ConversationSession.session_id == any_of(session_ids, Text()))
        .order_by(ConversationSession.id)
        .with_for_update(skip_locked=True)
    )


def count_out(counts: Mapping[int, int]) -> ReturningUpdate[int]:
    """Subtract deleted messages from rows, by their keys."""
    gone = _arrays(("id", BigInteger(), list(counts)), ("messages", BigInteger(), list(counts.values())))
    return (
        update(_sessions)
        .where(_sessions.c.id == gone.c.id)
        .values(messages=_sessions.c.messages - gone.c.messages)
        .returning(_sessions.c.id)
    )


def owe(counts: Mapping[str, int]) -> ReturningInsert[int]:
    """Insert rows with deleted messages of sessions whose rows are all locked."""
    gone = _arrays(("session_id", Text(), list(counts)), ("messages", BigInteger(), list(counts.values())))
    row: Any = select(
        gone.c.session_id,
        -gone.c.messages,
        func.now(),
        literal_column("0", BigInteger),
        func.now().label("last_at"),
    )
    return insert(_sessions).from_select(_COUNTED, row, include_defaults=False).returning(_sessions.c.id)


def _arrays(*columns: tuple[str, Any, Sequence[Any]]) -> Any:
    arrays = (literal(list(values), ARRAY(type_)) for _, type_, values in columns)
    named = (column(name, type_) for name, type_, _ in columns)
    return func.unnest(*arrays).table_valued(*named, name="gone").render_derived()


def remove_ended(row_ids: Sequence[int]) -> ReturningDelete[int]:
    """Delete locked rows of sessions that have no message, unless there are rows that are not locked.

    Each message is counted in a row that its own transaction inserted or locked.
    """
    ids, other = any_of(row_ids, BigInteger()), _sessions.alias("other")
    message = select(Conversation.id).where(Conversation.session_id == _sessions.c.session_id)
    others = select(other.c.id).where(other.c.session_id == _sessions.c.session_id, ~(other.c.id == ids))
    return (
        delete(_sessions)
        .where(
            _sessions.c.id == ids,
            ~message.correlate(_sessions).exists(),
            ~others.correlate(_sessions).exists(),
        )
        .returning(_sessions.c.id)
    )
