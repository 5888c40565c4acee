"""agno: PgVector with an embedder that has the vectors at hand, set to the same ef_search as the others."""

from __future__ import annotations

import logging
from typing import Any

from agno.knowledge.document import Document
from agno.knowledge.embedder.base import Embedder
from agno.vectordb.pgvector import HNSW, PgVector
from common import LIMIT, Data, run

logging.disable(logging.INFO)  # else it writes a line for each search


class Given(Embedder):
    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions=dimensions)
        self.known: dict[str, list[float]] = {}

    def get_embedding(self, text: str) -> list[float]:
        return self.known[text]

    def get_embedding_and_usage(self, text: str) -> tuple[list[float], None]:
        return self.known[text], None


class Agno:
    table, column = "public.agno", "embedding"

    def __init__(self, url: str, data: Data) -> None:
        self.data = data
        self.embedder = Given(data.dimensions)
        self.store = PgVector(
            table_name="agno",
            schema="public",
            db_url=url.replace("postgresql://", "postgresql+psycopg://"),
            embedder=self.embedder,
            vector_index=HNSW(m=16, ef_construction=64, ef_search=40),
        )
        self.store.create()

    def prepare(self) -> None:
        for text, vector in zip(self.data.texts, self.data.vectors.tolist(), strict=True):
            self.embedder.known[text] = vector

    def load(self) -> None:
        documents = [
            Document(content=text, id=str(metadata["place"]), meta_data=dict(metadata))
            for text, metadata in zip(self.data.texts, self.data.metadata, strict=True)
        ]
        self.store.insert("rows", documents)

    def search(self, query: Any) -> list[int]:
        self.embedder.known["?"] = query.tolist()
        return [document.meta_data["place"] for document in self.store.vector_search("?", limit=LIMIT)]


if __name__ == "__main__":
    run(Agno)
