"""Working memory: records for the work in progress, with content in the row or in a blob store."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ...checks import check_text, check_values, one_of, within
from ...errors import InvalidInputError
from ...execution._async.paging import AsyncPagedRepository
from ...execution._async.space_search import candidates, search
from ...execution._async.spaces import take_vectors
from ...execution.missing import not_found
from ...models import WorkingMemory, WorkingMemoryStatus
from ...queries import working_memory as queries
from ...queries.shapes.filters import Where, scoped
from ...queries.shapes.memories import lasting
from ...queries.shapes.paging import as_page
from ...search.params import SearchParams
from ...search.results import SearchCandidates, SearchResult
from ...values import Page
from ...values.working_memory import SweptWorkingMemory, WorkingMemoryChanges, WorkingMemoryRow
from ...vectors.formats import VectorLike


class AsyncWorkingMemoryRepository(AsyncPagedRepository[WorkingMemoryRow, uuid.UUID]):
    """The records of sessions and agents.

    Vectors have the length of their embedding space: 1536 dimensions in `builtin`. Deleted and expired records are not returned.
    """

    _model = WorkingMemory

    async def store(
        self,
        name: str,
        memory_type: str,
        *,
        content: str | None = None,
        embedding: VectorLike | None = None,
        embedding_model: str | None = None,
        session_id: str | None = None,
        agent: str | None = None,
        provider: str | None = None,
        blob_key: str | None = None,
        status: WorkingMemoryStatus | str = WorkingMemoryStatus.ACTIVE,
        metadata: Mapping[str, Any] | None = None,
        ttl: timedelta | None = None,
        space: str | None = None,
    ) -> WorkingMemory:
        """Store a new record; names need not be unique.

        Content is text in the row, or a blob. If the blob is not written yet, store the record as `pending`
        and call `set_blob` later.

        Args:
            name: A name for people.
            memory_type: The kind of record.
            content: The text.
            embedding: The vector.
            embedding_model: The model of the vector.
            session_id: The session that it belongs to.
            agent: The agent that it belongs to.
            provider: The store that has the blob; required with `blob_key`.
            blob_key: The key of the blob in the store.
            status: The initial status.
            metadata: Any JSON.
            ttl: The time until it expires; None is never.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The space does not exist.
            ConflictError: The space is retired.
        """
        if blob_key is not None and provider is None:
            raise InvalidInputError("provider: name the store that has the blob")
        values: dict[str, Any] = {
            "name": name,
            "memory_type": memory_type,
            "content": content,
            "embedding": embedding,
            "embedding_model": embedding_model,
            "session_id": session_id,
            "agent": agent,
            "provider": provider,
            "blob_key": blob_key,
            "status": one_of(WorkingMemoryStatus, status),
            "metadata_": dict(metadata or {}),
        }
        vectors = await take_vectors(self._session, WorkingMemory, space, values)
        record = await self._write(queries.store(values, lasting(ttl)))
        assert record is not None
        if vectors is not None:
            await vectors.store(self._session, record.id)
        return record

    async def get(self, memory_id: uuid.UUID) -> WorkingMemory | None:
        """Return the record with this id, unless it is deleted or has expired."""
        return await self._first(queries.get(memory_id))

    async def update(
        self, memory_id: uuid.UUID, values: WorkingMemoryChanges, *, space: str | None = None
    ) -> WorkingMemory:
        """Change attributes of a record, by their names.

        Args:
            memory_id: The record.
            values: The new values; `embedding` is that of the space.
            space: The embedding space; None is the default one.

        Raises:
            NotFoundError: The record does not exist, is deleted, or has expired; or the space does not exist.
            ConflictError: The space is retired.
        """
        new: dict[str, Any] = {**values}
        vectors = await take_vectors(self._session, WorkingMemory, space, new, removes=True)
        record = await self._changed(memory_id, check_values(WorkingMemory, new))
        if vectors is not None:
            await vectors.store(self._session, memory_id)
        return record

    async def set_status(self, memory_id: uuid.UUID, status: WorkingMemoryStatus | str) -> WorkingMemory:
        """Change the status; `deleted` is final, and the next sweep removes the record.

        Raises:
            NotFoundError: The record does not exist, is deleted, or has expired.
        """
        return await self._changed(memory_id, {"status": one_of(WorkingMemoryStatus, status)})

    async def set_blob(self, memory_id: uuid.UUID, *, provider: str, blob_key: str) -> WorkingMemory:
        """Record where the blob was stored; a pending record becomes active.

        Raises:
            NotFoundError: The record does not exist, is deleted, or has expired.
        """
        check_text("provider", provider)
        check_text("blob_key", blob_key)
        record = await self._write(queries.set_blob(memory_id, provider, blob_key))
        if record is None:
            raise not_found("working memory", memory_id)
        return record

    async def search(
        self,
        embedding: VectorLike,
        *,
        session_id: str | None = None,
        agent: str | None = None,
        memory_type: str | None = None,
        limit: int = 10,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        explain: bool = False,
        space: str | None = None,
    ) -> SearchResult[WorkingMemoryRow]:
        """Return the active records nearest to a vector, by cosine distance; records without one are not found.

        Args:
            embedding: A vector of the space, of 1536 dimensions in `builtin`.
            session_id: Only records of this session.
            agent: Only records of this agent.
            memory_type: Only records of this kind.
            limit: The maximum number of hits.
            where: Only records that match this filter.
            params: Settings of the search.
            explain: Add the plan of the statement to the result.
            space: The embedding space; None is the default one.
        """
        condition = scoped(
            queries.offered(session_id=session_id, agent=agent, memory_type=memory_type), WorkingMemory, where
        )
        return await search(
            self._session,
            WorkingMemory,
            embedding,
            space=space,
            limit=limit,
            where=condition,
            params=params,
            explain=explain,
        )

    async def candidates(
        self,
        embedding: VectorLike,
        *,
        session_id: str | None = None,
        agent: str | None = None,
        memory_type: str | None = None,
        limit: int = 1000,
        where: Where | None = None,
        params: SearchParams = SearchParams(),
        space: str | None = None,
    ) -> SearchCandidates[WorkingMemoryRow, uuid.UUID]:
        """Return the ids and distances of up to 1000 active records nearest to a vector; `page` returns their rows.

        The arguments are those of `search`.
        """
        condition = scoped(
            queries.offered(session_id=session_id, agent=agent, memory_type=memory_type), WorkingMemory, where
        )
        return await candidates(
            self._session, WorkingMemory, embedding, space=space, limit=limit, where=condition, params=params
        )

    async def sweep(self, limit: int = 1000) -> Sequence[SweptWorkingMemory]:
        """Delete at most `limit` deleted or expired records; return them with the places of their blobs.

        Delete those blobs before you commit, if `uow.storage.list_references` finds no other record: if that
        fails, roll back, and the next sweep returns the records again. A record that plain SQL marks as
        deleted needs an `expires_at` to be swept.
        """
        within("limit", limit, 1, 100_000)
        return [SweptWorkingMemory(*row) for row in await self._rows(queries.sweep(limit))]

    async def purge(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` deleted or expired records without a blob; return their number.

        Those with a blob are left to `sweep`, whose caller deletes the blobs.
        """
        within("limit", limit, 1, 100_000)
        return len(await self._rows(queries.sweep(limit, blobs=False)))

    async def purgeable(self) -> int:
        """Return how many records calls of `purge` delete in the end."""
        return (await self._rows(queries.purgeable()))[0][0]

    async def list(
        self,
        *,
        session_id: str | None = None,
        agent: str | None = None,
        memory_type: str | None = None,
        status: WorkingMemoryStatus | str | None = None,
        with_blob: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[WorkingMemory]:
        """Return a page of the records that match, the newest first.

        Args:
            session_id: Only records of this session.
            agent: Only records of this agent.
            memory_type: Only records of this kind.
            status: Only records with this status; `deleted` returns those that await the sweep.
            with_blob: Only records whose content is a blob.
            after: `next` of the previous page.
            limit: The maximum number of records.
        """
        rows = await self._all(
            queries.list_(
                session_id=session_id,
                agent=agent,
                memory_type=memory_type,
                status=None if status is None else one_of(WorkingMemoryStatus, status),
                with_blob=with_blob,
                after=after,
                limit=limit,
            )
        )
        return as_page(rows, queries.LIST_KEY, limit)

    async def _changed(self, memory_id: uuid.UUID, values: Mapping[str, Any]) -> WorkingMemory:
        record = await self._write(queries.change(memory_id, values))
        if record is None:
            raise not_found("working memory", memory_id)
        return record
