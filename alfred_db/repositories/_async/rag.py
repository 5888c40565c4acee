"""RAG: questions, the context of each answer, and the documents in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checks import check_text, within
from ...execution._async.base import AsyncRepository
from ...execution.missing import not_found
from ...models import RagQuery, RagSession
from ...queries import rag as queries
from ...queries.shapes.filters import Where
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.rag import RagContext, packed
from ...vectors.formats import VectorLike
from .documents import AsyncDocumentRepository

MAX_CHARS = 10_000_000
MAX_TEXT = 10_000


class AsyncRagRepository(AsyncRepository):
    """Sessions of questions about the platform's documents."""

    async def open(self, session_id: str, *, context: str | None = None) -> RagSession:
        """Return the session with this key, created if it does not exist; a `context` replaces the stored one."""
        check_text("session_id", session_id)
        found = await self._first(queries.get_session(session_id))
        if found is None or context not in (None, found.context):
            found = await self._write(queries.open_session(session_id, context))
        assert found is not None
        return found

    async def get(self, session_id: str) -> RagSession | None:
        """Return the session with this key."""
        check_text("session_id", session_id)
        return await self._first(queries.get_session(session_id))

    async def build_context(
        self,
        embedding: VectorLike,
        text: str | None = None,
        *,
        limit: int = 5,
        max_chars: int = 4000,
        where: Where | None = None,
    ) -> RagContext:
        """Return the documents nearest to a vector as one text.

        The best documents come first, each as `[rank] title`, a line break and the content, separated by
        empty lines. The first document that does not fit is cut after a word, and ends the text.

        Args:
            embedding: A vector of 384 dimensions.
            text: Also rank documents by the words in the first 10,000 characters of this text.
            limit: The maximum number of documents.
            max_chars: The maximum length of the text in characters.
            where: Only documents that match this filter.
        """
        within("max_chars", max_chars, 1, MAX_CHARS)
        documents = AsyncDocumentRepository(self._session)
        if text is None or not text.strip():
            found = await documents.search(embedding, limit=limit, where=where)
        else:
            found = await documents.hybrid_search(text[:MAX_TEXT], embedding, limit=limit, where=where)
        return packed(found.hits, max_chars)

    async def record(
        self,
        session: RagSession | int,
        query_text: str,
        *,
        context: RagContext | None = None,
        response: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> RagQuery:
        """Store a question with its context and, if known, its answer.

        A source that was deleted meanwhile is omitted; the context keeps its text.

        Args:
            session: The session, or its `id`.
            query_text: The question.
            context: The context, from `build_context`.
            response: The answer.
            metadata: Any JSON.

        Raises:
            NotFoundError: The session does not exist.
        """
        query = await self._first(
            queries.record(
                _id_of(session),
                query_text,
                context_used=None if context is None else context.text,
                response=response,
                metadata=metadata,
                sources=() if context is None else context.sources,
            )
        )
        if query is None:
            raise not_found("RAG session", _id_of(session))
        return query

    async def answer(
        self, query_id: int, response: str, *, metadata: Mapping[str, Any] | None = None
    ) -> RagQuery:
        """Store the answer to a recorded question; `metadata` replaces the stored one.

        Raises:
            NotFoundError: The question does not exist.
        """
        query = await self._write(queries.answer(query_id, response, metadata))
        if query is None:
            raise not_found("RAG query", query_id)
        return query

    async def history(
        self, session: RagSession | int, *, after: str | None = None, limit: int = 100
    ) -> Page[RagQuery]:
        """Return a page of the questions of a session, the oldest first, each with its `documents`."""
        rows = await self._all(queries.history(_id_of(session), after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def queries_using(
        self, document_id: int, *, after: str | None = None, limit: int = 100
    ) -> Page[RagQuery]:
        """Return a page of the questions whose context contained a document, the newest first.

        Each has its `documents`.
        """
        rows = await self._all(queries.queries_using(document_id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)


def _id_of(session: RagSession | int) -> int:
    return session if isinstance(session, int) else session.id
