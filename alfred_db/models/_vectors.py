"""The one shape of vector index that every table with an embedding has."""

from __future__ import annotations

from sqlalchemy import Index

__all__ = ["hnsw"]


def hnsw(name: str | None, column: str) -> Index:
    """HNSW for cosine distance; None names it by the convention.

    The query must say `ORDER BY column <=> vector LIMIT n` for the planner to use it.
    """
    return Index(
        name,
        column,
        postgresql_using="hnsw",
        postgresql_with={"m": 16, "ef_construction": 64},
        postgresql_ops={column: "vector_cosine_ops"},
    )
