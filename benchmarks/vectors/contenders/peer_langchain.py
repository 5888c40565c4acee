"""langchain-postgres: PGVectorStore, the one that is not deprecated."""

from __future__ import annotations

from typing import Any

from common import LIMIT, Data, run
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGEngine, PGVectorStore


class Given(Embeddings):
    """Vectors are at hand; it is never asked."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError


class Langchain:
    table, column = "langchain", "embedding"

    def __init__(self, url: str, data: Data) -> None:
        self.data = data
        self.address = url.replace("postgresql://", "postgresql+psycopg://")
        engine = PGEngine.from_connection_string(self.address)
        engine.init_vectorstore_table(self.table, vector_size=data.dimensions, overwrite_existing=True)
        self.store = PGVectorStore.create_sync(engine, Given(), self.table)
        self.vectors: list[list[float]] = []
        self.asynchronous: Any = None

    def prepare(self) -> None:
        self.vectors = self.data.vectors.tolist()

    def load(self) -> None:
        # It adds to the metadata that it is given.
        self.store.add_embeddings(self.data.texts, self.vectors, [dict(one) for one in self.data.metadata])

    def search(self, query: Any) -> list[int]:
        found = self.store.similarity_search_with_score_by_vector(query.tolist(), k=LIMIT)
        return [document.metadata["place"] for document, _ in found]

    async def search_async(self, query: Any) -> list[int]:
        if self.asynchronous is None:
            from sqlalchemy.ext.asyncio import create_async_engine

            engine = PGEngine.from_engine(create_async_engine(self.address))
            self.asynchronous = await PGVectorStore.create(engine, Given(), self.table)
        found = await self.asynchronous.asimilarity_search_with_score_by_vector(query.tolist(), k=LIMIT)
        return [document.metadata["place"] for document, _ in found]


if __name__ == "__main__":
    run(Langchain)
