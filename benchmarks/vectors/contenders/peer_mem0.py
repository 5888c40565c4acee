"""mem0: its store for pgvector by itself, without the language model that the rest of it calls."""

from __future__ import annotations

import uuid
from typing import Any

from common import LIMIT, Data, run
from mem0.vector_stores.pgvector import PGVector


class Mem0:
    table, column = "rows", "vector"

    def __init__(self, url: str, data: Data) -> None:
        self.data = data
        self.store = PGVector(
            dbname=None,
            collection_name=self.table,
            embedding_model_dims=data.dimensions,
            user=None,
            password=None,
            host=None,
            port=None,
            diskann=False,
            hnsw=False,
            connection_string=url,
        )
        self.store.create_col()
        self.rows: Any = None

    def prepare(self) -> None:
        data = self.data
        payloads = [
            {**metadata, "data": text} for text, metadata in zip(data.texts, data.metadata, strict=True)
        ]
        self.rows = data.vectors.tolist(), payloads, [str(uuid.uuid4()) for _ in payloads]

    def load(self) -> None:
        self.store.insert(*self.rows)

    def search(self, query: Any) -> list[int]:
        found = self.store.search("", query.tolist(), top_k=LIMIT)
        return [one.payload["place"] for one in found]


if __name__ == "__main__":
    run(Mem0)
