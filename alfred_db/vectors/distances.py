"""Distances between vectors, as functions that type checkers know; the smaller, the nearer.

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
"""pgvector's operators, by what the names of its operator classes have after the type."""

Operand: TypeAlias = VectorLike | SparseLike | ColumnOperators
"""A vector, or an expression that gives one."""


def cosine_distance(column: ColumnOperators, other: Operand) -> ColumnElement[float]:
    """1 - the cosine of the angle: 0 for the same direction, 1 for a right angle, 2 for the opposite."""
    return _distance(column, "cosine", other)


def l2_distance(column: ColumnOperators, other: Operand) -> ColumnElement[float]:
    """The length of the difference (Euclid)."""
    return _distance(column, "l2", other)


def l1_distance(column: ColumnOperators, other: Operand) -> ColumnElement[float]:
    """The sum of the differences along each axis (Manhattan)."""
    return _distance(column, "l1", other)


def max_inner_product(column: ColumnOperators, other: Operand) -> ColumnElement[float]:
    """The inner product times -1, so that the largest comes first."""
    return _distance(column, "ip", other)


def hamming_distance(column: ColumnOperators, other: BitsLike | ColumnOperators) -> ColumnElement[float]:
    """How many bits differ."""
    return _distance(column, "hamming", other)


def jaccard_distance(column: ColumnOperators, other: BitsLike | ColumnOperators) -> ColumnElement[float]:
    """1 - the bits that both have, as a part of those that either has."""
    return _distance(column, "jaccard", other)


def _distance(column: ColumnOperators, name: str, other: Any) -> ColumnElement[float]:
    return cast("ColumnElement[float]", column.op(OPERATORS[name], return_type=Float())(other))


class Distances(UserDefinedType.Comparator[Any]):
    """The methods of a column of numbers."""

    cosine_distance = cosine_distance
    l2_distance = l2_distance
    l1_distance = l1_distance
    max_inner_product = max_inner_product


class BitDistances(UserDefinedType.Comparator[Any]):
    """The methods of a column of bits."""

    hamming_distance = hamming_distance
    jaccard_distance = jaccard_distance
