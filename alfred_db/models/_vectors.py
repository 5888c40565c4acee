"""The vector index that all tables with an embedding share."""

from __future__ import annotations

from sqlalchemy import Index

__all__ = ["hnsw"]


def hnsw(name: str | None, column: str) -> Index:
    """Return an HNSW index for cosine distance; None as the name applies the naming convention.

    The planner uses it only for a query with `ORDER BY column <=> vector LIMIT n`.
    """
    return Index(
        name,
        column,
        postgresql_using="hnsw",
        postgresql_with={"m": 16, "ef_construction": 64},
        postgresql_ops={column: "vector_cosine_ops"},
    )
