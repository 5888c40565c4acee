"""alfred-db, as its documentation shows it."""

from __future__ import annotations

from typing import Any

from common import LIMIT, Data, run
from sqlalchemy import select

from alfred_db import AsyncDatabase, Database, Document, KnowledgePoint

COLLECTION = "general-knowledge"


class Alfred:
    column = "embedding"

    def __init__(self, url: str, data: Data) -> None:
        self.data = data
        self.knowledge = data.dimensions != 384
        self.table = "knowledge_points_general_knowledge" if self.knowledge else "documents"
        self.database, self.asynchronous = Database(url), AsyncDatabase(url)
        self.rows: list[dict[str, Any]] = []
        self.open: Any = None
        self.open_async: Any = None

    def prepare(self) -> None:
        data = self.data
        if self.knowledge:
            self.rows = [
                {"id": str(metadata["place"]), "vector": vector, "payload": metadata}
                for metadata, vector in zip(data.metadata, data.vectors, strict=True)
            ]
        else:
            self.rows = [
                {"content": text, "metadata": metadata}
                for text, metadata in zip(data.texts, data.metadata, strict=True)
            ]

    def load(self) -> None:
        with self.database.begin() as uow:
            if self.knowledge:
                uow.knowledge.upsert(COLLECTION, self.rows)
            else:
                uow.documents.add_many(self.rows, embeddings=self.data.vectors)

    def search(self, query: Any) -> list[int]:
        """A unit of work for the one search."""
        with self.database.begin() as uow:
            return self._found(uow, query)

    def search_open(self, query: Any) -> list[int]:
        """In a unit of work that has begun."""
        return self._found(self._opened(), query)

    def _opened(self) -> Any:
        if self.open is None:
            self._context = self.database.begin()
            self.open = self._context.__enter__()
        return self.open

    def done(self) -> None:
        if self.open is not None:
            self._context.__exit__(None, None, None)
            self.open = None

    def _found(self, uow: Any, query: Any) -> list[int]:
        if self.knowledge:
            return [hit.row.payload["place"] for hit in uow.knowledge.query(COLLECTION, query, limit=LIMIT)]
        return [hit.row.metadata_["place"] for hit in uow.documents.search(query, limit=LIMIT)]

    async def search_async(self, query: Any) -> list[int]:
        async with self.asynchronous.begin() as uow:
            return await self._found_async(uow, query)

    async def search_open_async(self, query: Any) -> list[int]:
        if self.open_async is None:
            self._context_async = self.asynchronous.begin()
            self.open_async = await self._context_async.__aenter__()
        return await self._found_async(self.open_async, query)

    async def done_async(self) -> None:
        if self.open_async is not None:
            await self._context_async.__aexit__(None, None, None)
            self.open_async = None

    async def _found_async(self, uow: Any, query: Any) -> list[int]:
        if self.knowledge:
            hits = await uow.knowledge.query(COLLECTION, query, limit=LIMIT)
            return [hit.row.payload["place"] for hit in hits]
        return [hit.row.metadata_["place"] for hit in await uow.documents.search(query, limit=LIMIT)]

    def read_vectors(self, count: int) -> Any:
        model: Any = KnowledgePoint if self.knowledge else Document
        statement = select(model.id, model.embedding).order_by(model.id).limit(count)
        _, vectors = self._opened().fetch_matrix(statement)
        return vectors


if __name__ == "__main__":
    run(Alfred)
