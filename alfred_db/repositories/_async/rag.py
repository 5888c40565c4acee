"""RAG: questions, the context each was answered from, and the documents in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...checks import check_text, within
from ...errors import NotFoundError
from ...execution._async.base import AsyncRepository
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
    """Sessions of questions to the platform's documents."""

    async def open(self, session_id: str, *, context: str | None = None) -> RagSession:
        """The session of that key, begun if there is none; a `context` replaces the one it has."""
        check_text("session_id", session_id)
        found = await self._first(queries.get_session(session_id))
        if found is None or context not in (None, found.context):
            found = await self._write(queries.open_session(session_id, context))
        assert found is not None
        return found

    async def build_context(
        self,
        embedding: VectorLike,
        text: str | None = None,
        *,
        limit: int = 5,
        max_chars: int = 4000,
        where: Where | None = None,
    ) -> RagContext:
        """The documents nearest to a vector of 384 dimensions, as one text of at most `max_chars` characters.

        With `text` they are also looked for by word, those of its first 10,000 characters. The best come first,
        as `[rank] title`, a line break and the content, parted by empty lines; the first that does not fit is
        cut after a word and is the last.
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
        """Store a question, the context it was given with its sources, and the answer if there is one already.

        A source that was deleted in the meantime is left out; the context keeps its text. `session` is one
        that `open` gave, or its `id`. Raises NotFoundError for an unknown one.
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
            raise NotFoundError(f"RAG session {_id_of(session)}: does not exist; open it first")
        return query

    async def answer(
        self, query_id: int, response: str, *, metadata: Mapping[str, Any] | None = None
    ) -> RagQuery:
        """Store the answer to a recorded question; `metadata` replaces what it has. Raises NotFoundError."""
        query = await self._write(queries.answer(query_id, response, metadata))
        if query is None:
            raise NotFoundError(f"RAG query {query_id}: does not exist; record it first")
        return query

    async def history(
        self, session: RagSession | int, *, after: str | None = None, limit: int = 100
    ) -> Page[RagQuery]:
        """The questions of a session, the oldest first, each with its `documents`, a page at a time."""
        rows = await self._all(queries.history(_id_of(session), after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def queries_using(
        self, document_id: int, *, after: str | None = None, limit: int = 100
    ) -> Page[RagQuery]:
        """The questions whose context held a document, the newest first, each with its `documents`."""
        rows = await self._all(queries.queries_using(document_id, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)


def _id_of(session: RagSession | int) -> int:
    return session if isinstance(session, int) else session.id
