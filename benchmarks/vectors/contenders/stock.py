"""SQLAlchemy with pgvector's own type, as its documentation shows it, on the same table."""

from __future__ import annotations

from typing import Any

import numpy as np
from common import LIMIT, Data, run
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import BigInteger, Identity, Text, create_engine, insert, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, deferred, mapped_column


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "documents"
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    content: Mapped[str] = mapped_column(Text)
    notes: Mapped[Any] = mapped_column("metadata", JSONB)
    embedding: Mapped[Any] = deferred(mapped_column(VECTOR(384)))


class Point(Base):
    __tablename__ = "knowledge_points_general_knowledge"
    collection: Mapped[str] = mapped_column(Text)
    id: Mapped[str] = mapped_column(Text, primary_key=True)
    notes: Mapped[Any] = mapped_column("payload", JSONB)
    embedding: Mapped[Any] = deferred(mapped_column(VECTOR(1536)))


class Stock:
    column = "embedding"

    def __init__(self, url: str, data: Data) -> None:
        self.data = data
        self.model: Any = Row if data.dimensions == 384 else Point
        self.table = self.model.__tablename__
        address = url.replace("postgresql://", "postgresql+psycopg://")
        self.engine, self.asynchronous = create_engine(address), create_async_engine(address)
        self.rows: list[dict[str, Any]] = []

    def prepare(self) -> None:
        data = self.data
        for text, notes, vector in zip(data.texts, data.metadata, data.vectors, strict=True):
            row = {"notes": notes, "embedding": vector}
            named = (
                {"content": text}
                if self.model is Row
                else {"collection": "general-knowledge", "id": str(notes["place"])}
            )
            self.rows.append(row | named)

    def load(self) -> None:
        with Session(self.engine) as session:
            session.execute(insert(self.model), self.rows)
            session.commit()

    def _statement(self, query: Any) -> Any:
        distance = self.model.embedding.cosine_distance(query)
        return select(self.model, distance.label("distance")).order_by(distance).limit(LIMIT)

    def search(self, query: Any) -> list[int]:
        with Session(self.engine) as session:
            return [row[0].notes["place"] for row in session.execute(self._statement(query)).all()]

    async def search_async(self, query: Any) -> list[int]:
        async with AsyncSession(self.asynchronous) as session:
            return [row[0].notes["place"] for row in (await session.execute(self._statement(query))).all()]

    def read_vectors(self, count: int) -> Any:
        with Session(self.engine) as session:
            statement = select(self.model.embedding).order_by(self.model.id).limit(count)
            return np.array(session.scalars(statement).all(), dtype=np.float32)


if __name__ == "__main__":
    run(Stock)
