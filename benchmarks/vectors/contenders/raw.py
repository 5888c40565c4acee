"""psycopg, written by hand and in binary: what no library can be faster than by much."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import psycopg
from common import LIMIT, Data, run
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

DOCUMENTS = (
    "documents",
    "id, title, content, metadata, created_at, updated_at, external_id, embedding_model, content_hash",
    "metadata",
)
KNOWLEDGE = (
    "knowledge_points_general_knowledge",
    "collection, id, payload, created_at, updated_at",
    "payload",
)


class Packed(bytes):
    """A vector in pgvector's binary format."""


class PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


class BytesLoader(Loader):
    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)


psycopg.adapters.register_dumper(Packed, PackedDumper)


def pack(vector: Any) -> Packed:
    return Packed(struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes())


class Raw:
    column = "embedding"

    def __init__(self, url: str, data: Data) -> None:
        self.data, self.url = data, url
        self.table, columns, self.metadata = DOCUMENTS if data.dimensions == 384 else KNOWLEDGE
        self.statement = (
            f"SELECT {columns}, embedding <=> $1::vector AS distance FROM {self.table}"
            f" WHERE embedding IS NOT NULL ORDER BY distance LIMIT {LIMIT}"
        )
        names = [name.strip() for name in columns.split(",")]
        self.place = names.index(self.metadata)
        self.connection = psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor)
        self.asynchronous: Any = None
        self.begun: Any = None
        self.begun_async: Any = None
        type_ = psycopg.types.TypeInfo.fetch(self.connection, "vector")
        if type_ is not None:
            self.connection.adapters.register_loader(type_.oid, BytesLoader)

    def prepare(self) -> None:
        pass

    def load(self) -> None:
        data, length = self.data, struct.Struct(">i").pack
        knowledge = self.metadata == "payload"
        start = struct.pack(">h", 4 if knowledge else 3)
        collection = length(17) + b"general-knowledge"
        columns = "collection, id, embedding, payload" if knowledge else "content, embedding, metadata"
        head = struct.pack(">HH", data.dimensions, 0)
        wide = data.vectors.astype(">f4")
        block = bytearray(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        with (
            self.connection.cursor() as cursor,
            cursor.copy(f"COPY {self.table} ({columns}) FROM STDIN (FORMAT binary)") as copy,
        ):
            for text, metadata, vector in zip(data.texts, data.metadata, wide, strict=True):
                packed = head + vector.tobytes()
                described = b"\x01" + json.dumps(metadata).encode()
                if knowledge:
                    first = str(metadata["place"]).encode()
                    block += start + collection + length(len(first)) + first
                else:
                    first = text.encode()
                    block += start + length(len(first)) + first
                block += length(len(packed)) + packed
                block += length(len(described)) + described
                if len(block) > 1 << 18:
                    copy.write(bytes(block))
                    block.clear()
            copy.write(bytes(block) + b"\xff\xff")

    def search(self, query: Any) -> list[int]:
        rows = self.connection.execute(self.statement, (pack(query),), binary=True).fetchall()
        return [row[self.place]["place"] for row in rows]

    def search_begun(self, query: Any) -> list[int]:
        """In a transaction of its own."""
        if self.begun is None:
            self.begun = psycopg.connect(self.url, cursor_factory=psycopg.RawCursor)
        rows = self.begun.execute(self.statement, (pack(query),), binary=True).fetchall()
        self.begun.commit()
        return [row[self.place]["place"] for row in rows]

    async def search_async(self, query: Any) -> list[int]:
        if self.asynchronous is None:
            self.asynchronous = await psycopg.AsyncConnection.connect(
                self.url, autocommit=True, cursor_factory=psycopg.AsyncRawCursor
            )
        cursor = await self.asynchronous.execute(self.statement, (pack(query),), binary=True)
        return [row[self.place]["place"] for row in await cursor.fetchall()]

    async def search_begun_async(self, query: Any) -> list[int]:
        if self.begun_async is None:
            self.begun_async = await psycopg.AsyncConnection.connect(
                self.url, cursor_factory=psycopg.AsyncRawCursor
            )
        cursor = await self.begun_async.execute(self.statement, (pack(query),), binary=True)
        rows = await cursor.fetchall()
        await self.begun_async.commit()
        return [row[self.place]["place"] for row in rows]

    def read_vectors(self, count: int) -> Any:
        statement = f"SELECT id, embedding FROM {self.table} ORDER BY id LIMIT $1"
        rows = self.connection.execute(statement, (count,), binary=True).fetchall()
        joined = np.frombuffer(b"".join(row[1] for row in rows), dtype=np.uint8)
        return joined.reshape(len(rows), -1)[:, 4:].copy().view(">f4").astype(np.float32)


if __name__ == "__main__":
    run(Raw)
