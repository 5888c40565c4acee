"""Distances between vectors as typed functions; a smaller distance is nearer.

Each takes a column or another expression of a vector type, and a vector or another such expression:

    select(Document.id).order_by(cosine_distance(Document.embedding, vector)).limit(10)

The columns have them as methods too: `Document.embedding.cosine_distance(vector)` is the same.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from sqlalchemy import ColumnElement, ColumnOperators, Float
from sqlalchemy.types import UserDefinedType

from .formats import BitsLike, SparseLike, VectorLike

__all__ = [
    "OPERATORS",
    "cosine_distance",
    "hamming_distance",
    "jaccard_distance",
    "l1_distance",
    "l2_distance",
    "max_inner_product",
]

OPERATORS = {
    "cosine": "<=>",
    "l2": "<->",
    "ip": "<#>",
    "l1": "<+>",
    "hamming": "<~>",
    "jaccard": "<%>",
}
"""Operators of pgvector, by the part of the names of its operator classes after the type."""

Operand: TypeAlias = VectorLike | SparseLike | ColumnOperators
"""A vector, or an expression of a vector type."""


def cosine_distance(column: ColumnOperators, other: Operand) -> ColumnElement[float]:
    """Return 1 - the cosine of the angle.

    It is 0 for the same direction, 1 for a right angle, and 2 for the opposite direction.
    """
    return _distance(column, "cosine", other)


def l2_distance(column: ColumnOperators, other: Operand) -> ColumnElement[float]:
    """Return the Euclidean distance."""
    return _distance(column, "l2", other)


def l1_distance(column: ColumnOperators, other: Operand) -> ColumnElement[float]:
    """Return the Manhattan distance."""
    return _distance(column, "l1", other)


def max_inner_product(column: ColumnOperators, other: Operand) -> ColumnElement[float]:
    """Return the negative inner product, so that the largest product sorts first."""
    return _distance(column, "ip", other)


def hamming_distance(column: ColumnOperators, other: BitsLike | ColumnOperators) -> ColumnElement[float]:
    """Return the number of different bits."""
    return _distance(column, "hamming", other)


def jaccard_distance(column: ColumnOperators, other: BitsLike | ColumnOperators) -> ColumnElement[float]:
    """Return 1 - the number of bits set in both, divided by the number of bits set in either."""
    return _distance(column, "jaccard", other)


def _distance(column: ColumnOperators, name: str, other: Any) -> ColumnElement[float]:
    return cast("ColumnElement[float]", column.op(OPERATORS[name], return_type=Float())(other))


class Distances(UserDefinedType.Comparator[Any]):
    """Methods of columns of numbers."""

    cosine_distance = cosine_distance
    l2_distance = l2_distance
    l1_distance = l1_distance
    max_inner_product = max_inner_product


class BitDistances(UserDefinedType.Comparator[Any]):
    """Methods of columns of bits."""

    hamming_distance = hamming_distance
    jaccard_distance = jaccard_distance
