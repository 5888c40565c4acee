"""Statements about RAG sessions, their queries, and the documents that each query used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Double, Integer, Select, column, literal, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased, selectinload
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from ..models import Document, RagQuery, RagQueryDocument, RagSession
from ..models.base import table_of
from ..values.rag import RagSource
from .shapes.functions import func
from .shapes.literals import materialized
from .shapes.paging import page

LIST_KEY = ("id",)
RECORDED = ("query_text", "context_used", "response", "metadata")
"""The columns of a query that its record writes."""

_sessions, _queries = table_of(RagSession), table_of(RagQuery)
_used, _documents = table_of(RagQueryDocument), table_of(Document)


def get_session(session_id: str) -> Select[RagSession]:
    """Select a RAG session by its `session_id`."""
    return select(RagSession).where(RagSession.session_id == session_id)


def open_session(session_id: str, context: str | None) -> ReturningInsert[RagSession]:
    """Insert a session, or update the context of the existing one if a context is passed."""
    statement = insert(RagSession).values(session_id=session_id, context=context, updated_at=func.now())
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[RagSession.session_id],
        set_={
            "context": func.coalesce(new.context, _sessions.c.context),
            "updated_at": new.updated_at,
        },
    ).returning(RagSession)


def record(
    session_key: int,
    query_text: str,
    *,
    context_used: str | None,
    response: str | None,
    metadata: Mapping[str, Any] | None,
    sources: Sequence[RagSource],
) -> Select[RagQuery]:
    """Insert a query and the documents that it used; documents deleted since are skipped.

    Returns no row if the session does not exist.
    """
    types: Mapping[str, Any] = {name: _queries.c[name].type for name in RECORDED}
    values = [query_text, context_used, response, None if metadata is None else dict(metadata)]
    given = [literal(value, types[name]) for name, value in zip(RECORDED, values, strict=True)]
    asked = materialized(
        select(_sessions.c.id)
        .where(_sessions.c.id == session_key)
        .with_for_update(read=True, key_share=True),
        "asked",
    )
    query = (
        insert(_queries)
        .from_select(["session_id", *RECORDED], select(asked.c.id, *given), include_defaults=False)
        .returning(*_queries.c)
        .cte("query")
    )
    columns = (
        column("document_id", BigInteger),
        column("rank", Integer),
        column("distance", Double),
    )
    arrays = (
        literal([source.document_id for source in sources], ARRAY(BigInteger)),
        literal([source.rank for source in sources], ARRAY(Integer)),
        literal([source.distance for source in sources], ARRAY(Double)),
    )
    source = func.unnest(*arrays).table_valued(*columns, name="source").render_derived()
    # Locked in the order of their ids, as by a DELETE of several documents, so that the two cannot deadlock.
    known = materialized(
        select(_documents.c.id, source.c.rank, source.c.distance)
        .select_from(source)
        .join(_documents, _documents.c.id == source.c.document_id)
        .order_by(_documents.c.id)
        .with_for_update(read=True, key_share=True, of=_documents),
        "known",
    )
    names = ["query_id", "document_id", "rank", "distance"]
    rows = select(query.c.id, *known.c).select_from(query).join(known, true())
    used = insert(_used).from_select(names, rows, include_defaults=False).cte("used")
    return select(aliased(RagQuery, query)).add_cte(used)


def answer(query_id: int, response: str, metadata: Mapping[str, Any] | None) -> ReturningUpdate[RagQuery]:
    """Set the response of a query, and its metadata if they are passed."""
    values: dict[str, Any] = {"response": response}
    if metadata is not None:
        values["metadata_"] = dict(metadata)
    return update(RagQuery).where(RagQuery.id == query_id).values(**values).returning(RagQuery)


def history(session_key: int, *, after: str | None, limit: int) -> Select[RagQuery]:
    """Select a page of the queries of a session; their documents are loaded by a second statement."""
    statement = select(RagQuery).where(RagQuery.session_id == session_key)
    return page(statement.options(selectinload(RagQuery.documents)), [RagQuery.id], after=after, limit=limit)


def queries_using(document_id: int, *, after: str | None, limit: int) -> Select[RagQuery]:
    """Select a page of the queries that used a document, newest first, each with all its documents."""
    statement = (
        select(RagQuery)
        .join(RagQueryDocument, RagQueryDocument.query_id == RagQuery.id)
        .where(RagQueryDocument.document_id == document_id)
        .options(selectinload(RagQuery.documents))
    )
    return page(statement, [RagQueryDocument.query_id], after=after, limit=limit, newest_first=True)
