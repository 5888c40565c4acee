"""The database's clock as a number.

`timestamptz + interval` is STABLE, so that a statement that runs on Citus may not apply it to columns. The sum of two
numbers is IMMUTABLE.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ColumnElement, Float, bindparam, cast, literal_column

from ...types import Text
from .functions import func

__all__ = ["NEVER", "bigint", "microseconds", "now_us"]

NEVER = (1 << 63) - 1
"""A time that never comes."""

_MAX = 1 << 62


def now_us() -> ColumnElement[int]:
    """Return the start of the statement in microseconds since 1970. In a write only VALUES may have it.

    `date_part` returns a float8, which holds microseconds until the year 2255 and takes a quarter of the time of the
    numeric that `extract` returns.
    """
    epoch = func.date_part(literal_column("'epoch'", Text), func.statement_timestamp(), type_=Float(53))
    return cast(epoch * literal_column("1000000.0::double precision", Float(53)), BigInteger)


def bigint(name: str) -> ColumnElement[int]:
    """Return a parameter of the type of the columns."""
    return bindparam(name, type_=BigInteger)


def microseconds(seconds: float) -> int:
    """Return a duration in microseconds, at least one."""
    return max(1, min(round(seconds * 1_000_000), _MAX))
