"""Documents: stored with their vectors, found by meaning, by word, or by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...checks import check_values
from ...execution._async.bulk import Progress, add_many
from ...execution._async.hybrid_search import hybrid_search
from ...execution._async.paging import AsyncPagedRepository
from ...execution._async.space_search import candidates, search, search_many
from ...execution._async.spaces import add_many_in_space, space_for_writing, take_vectors
from ...execution.missing import not_found
from ...models import Document
from ...models.base import table_of
from ...queries import documents as queries
from ...queries.shapes.bulk import OnConflict
from ...queries.shapes.filters import Where, expression
from ...queries.shapes.hybrid_search import Legs
from ...queries.shapes.paging import as_page
from ...queries.shapes.words import Match
from ...search.params import SearchParams, SearchWeights
from ...search.results import Hit, SearchCandidates, SearchResult
from ...values import Page
from ...values.documents import DocumentChanges, DocumentRow, NewDocument
from ...vectors.formats import MatrixLike, VectorLike

_columns = table_of(Document).c


class AsyncDocumentRepository(AsyncPagedRepository[DocumentRow, int]):
    """The documents of the platform."""

    _model = Document

    async def add(
        self,
        content: str,
        *,
        title: str | None = None,
        embedding: VectorLike | None = None,
        metadata: Mapping[str, Any] | None = None,
        external_id: str | None = None,
        embedding_model: str | None = None,
        space: str | None = None,
    ) -> Document:
        """Store a document, or replace the content of the one with this `external_id`.

        Args:
            content: The text.
            title: The title.
            embedding: A vector of the space, of 384 dimensions in `builtin`; several as an array with one a row, except in `builtin`.
            metadata: Any JSON.
            external_id: The caller's unique key.
            embedding_model: The model of the vector.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The space does not exist.
            ConflictError: The space is retired.
        """
        values = {
            "content": content,
            "title": title,
            "embedding": embedding,
            "metadata_": dict(metadata or {}),
            "external_id": external_id,
            "embedding_model": embedding_model,
        }
        vectors = await take_vectors(self._session, Document, space, values)
        document = await self._write(queries.add(values))
        assert document is not None
        if vectors is not None:
            await vectors.store(self._session, document.id)
        return document

    async def add_many(
        self,
        rows: Sequence[NewDocument | Document],
        *,
        embeddings: MatrixLike | None = None,
        on_conflict: OnConflict = "error",
        progress: Progress | None = None,
        space: str | None = None,
    ) -> list[int]:
        """Store documents by COPY.

        Args:
            rows: Mappings by attribute, or documents.
            embeddings: Their vectors, in the same order.
            on_conflict: What happens to a document whose `external_id` exists: an error, ignored, or updated.
            progress: Called with the number of rows sent so far and of all rows.
            space: The embedding space of the vectors; None is the default one.

        Returns:
            The id of each document, in order.

        Raises:
            ConflictError: An `external_id` exists and `on_conflict` is `error`; or the space is retired.
            NotFoundError: The space does not exist.
        """
        target = await space_for_writing(self._session, Document, space, None)
        if target is not None:
            return await add_many_in_space(
                self._session,
                Document,
                target,
                rows,
                embeddings=embeddings,
                key="external_id",
                on_conflict=on_conflict,
                progress=progress,
            )
        vectors = {} if embeddings is None else {"embedding": embeddings}
        return await add_many(
            self._session,
            Document,
            rows,
            vectors=vectors,
            key="external_id",
            on_conflict=on_conflict,
            progress=progress,
        )

    async def get(self, document_id: int) -> Document | None:
        """Return the document with this id."""
        return await self._first(queries.get(document_id))

    async def get_by_external_id(self, external_id: str) -> Document | None:
        """Return the document with this external id."""
        return await self._first(queries.get_by_external_id(external_id))

    async def update(
        self, document_id: int, values: DocumentChanges, *, space: str | None = None
    ) -> Document:
        """Change attributes of a document, by their names.

        Args:
            document_id: The document.
            values: The new values; `embedding` is that of the space.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The document does not exist, or the space.
            ConflictError: The space is retired.
        """
        new: dict[str, Any] = {**values}
        vectors = await take_vectors(self._session, Document, space, new, removes=True)
        document = await self._write(queries.change(document_id, check_values(Document, new)))
        if document is None:
            raise not_found("document", document_id)
        if vectors is not None:
            await vectors.store(self._session, document_id)
        return document

    async def delete(self, document_id: int) -> None:
        """Delete a document and its references in RAG queries.

        Raises:
            NotFoundError: The document does not exist.
        """
        if await self._write(queries.remove(document_id)) is None:
            raise not_found("document", document_id)

    async def search(
        self,
        embedding: VectorLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        explain: bool = False,
        space: str | None = None,
    ) -> SearchResult[DocumentRow]:
        """Return the documents nearest to a vector, by cosine distance.

        Args:
            embedding: A vector of the space, of 384 dimensions in `builtin`.
            limit: The maximum number of hits.
            where: Only documents that match this filter.
            params: Settings of the search.
            explain: Add the plan of the statement to the result.
            space: The embedding space; None is the default one.
        """
        return await search(
            self._session,
            Document,
            embedding,
            space=space,
            limit=limit,
            where=where,
            params=params,
            explain=explain,
        )

    async def candidates(
        self,
        embedding: VectorLike,
        *,
        limit: int = 1000,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        space: str | None = None,
    ) -> SearchCandidates[DocumentRow, int]:
        """Return the ids and distances of up to 1000 documents nearest to a vector; `page` returns their rows."""
        return await candidates(
            self._session, Document, embedding, space=space, limit=limit, where=where, params=params
        )

    async def search_many(
        self,
        embeddings: MatrixLike,
        *,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        space: str | None = None,
    ) -> Sequence[Sequence[Hit[DocumentRow]]]:
        """Return the documents nearest to each of several vectors, by the index, in one round trip."""
        return await search_many(
            self._session, Document, embeddings, space=space, limit=limit, where=where, params=params
        )

    async def hybrid_search(
        self,
        text: str,
        embedding: VectorLike | None,
        *,
        limit: int = 10,
        where: Where | None = None,
        weights: SearchWeights = SearchWeights(),
        language: str = "english",
        match: Match = "any",
        by_spelling: bool = False,
        space: str | None = None,
    ) -> SearchResult[DocumentRow]:
        """Return the best documents by meaning and by word, ranked together.

        Args:
            text: The words to search for.
            embedding: The vector to search for; None ranks by words alone.
            limit: The maximum number of hits.
            where: Only documents that match this filter.
            weights: The weight of each leg, and how they are ranked together.
            language: The language of `text`. The stored text index is English: another language finds words
                that have the same stem in both.
            match: Whether any or all of the words must occur.
            by_spelling: Also rank titles by similar spelling; needs pg_trgm.
            space: The embedding space; None is the default one.
        """
        legs = Legs(
            Document,
            _columns.search,
            trigram=_columns.title if by_spelling else None,
            vector=embedding is not None,
            match=match,
            fusion=weights.fusion,
        )
        return await hybrid_search(
            self._session,
            legs,
            text,
            embedding,
            limit=limit,
            where=expression(Document, where),
            space=space,
            weights=weights,
            language=language,
        )

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page[Document]:
        """Return a page of the documents, by id."""
        rows = await self._all(queries.list_(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)
