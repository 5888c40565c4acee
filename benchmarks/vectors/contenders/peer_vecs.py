"""vecs: a collection, with the text in the metadata, as it has no other place for it."""

from __future__ import annotations

from typing import Any

import vecs
from common import LIMIT, Data, run


class Vecs:
    table, column = 'vecs."rows"', "vec"

    def __init__(self, url: str, data: Data) -> None:
        self.data = data
        # SQLAlchemy 2.1 would take psycopg, which vecs does not install.
        self.client = vecs.create_client(url.replace("postgresql://", "postgresql+psycopg2://"))
        self.collection = self.client.get_or_create_collection("rows", dimension=data.dimensions)
        self.records: list[Any] = []

    def prepare(self) -> None:
        data = self.data
        self.records = [
            (str(metadata["place"]), vector, {**metadata, "text": text})
            for text, metadata, vector in zip(data.texts, data.metadata, data.vectors, strict=True)
        ]

    def load(self) -> None:
        self.collection.upsert(self.records)

    def search(self, query: Any) -> list[int]:
        found = self.collection.query(query, limit=LIMIT, include_value=True, include_metadata=True)
        return [int(one[0]) for one in found]


if __name__ == "__main__":
    run(Vecs)
