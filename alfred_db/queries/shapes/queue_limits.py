"""Building blocks of claims within the limits of queues: what runs, and what is due by the rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Double, FromClause, case, cast, literal_column, select

from ...models import Queue, Task, TaskStatus
from ...models.base import table_of
from .claims import hashed_names
from .clock import now_us
from .functions import func
from .literals import constant, number

_q = table_of(Queue).c
_one = literal_column("bigint '1'", BigInteger)
_zero = literal_column("bigint '0'", BigInteger)
_minute = literal_column("bigint '60000000'", BigInteger)
_million = literal_column("1000000.0::double precision", Double)


def running(
    queue: ColumnElement[str],
    key: ColumnElement[str] | None,
    most: ColumnElement[Any],
    *conditions: ColumnElement[bool],
    beside: Sequence[FromClause],
) -> Any:
    """The number of held tasks of a queue, or of a queue and a key, up to `most`.

    `beside` are the FROM clauses that the arguments refer to.
    """
    held = table_of(Task).alias("held")
    zero = literal_column("0", BigInteger)
    same = [
        held.c.status == constant(TaskStatus.PROCESSING),
        hashed_names(held.c.queue) == hashed_names(queue),
        held.c.queue == queue,
    ]
    if key is not None:
        hashes = [func.hashtextextended(one, zero, type_=BigInteger) for one in (held.c.concurrency_key, key)]
        same += [hashes[0] == hashes[1], held.c.concurrency_key == key]
    rows = select(_one.label("one")).select_from(held).where(*same, *conditions).limit(most)
    counted = rows.correlate(*beside).subquery("counted")
    return select(func.count().label("number")).select_from(counted).correlate(*beside).lateral("running")


def rate() -> tuple[ColumnElement[int], ColumnElement[int]]:
    """The microseconds for which one claim counts, and those that may be used at once; NULL without a rate.

    In a span of `rate_period` that begins with all of the burst, `rate_jobs - rate_burst` more become due.
    """
    tenth = func.greatest(_q.rate_jobs // number(10), number(1))
    burst = func.coalesce(_q.rate_burst, tenth)
    steps = cast(_q.rate_jobs - burst + number(1), Double)
    emission = cast(func.ceil(_q.rate_period * _million / steps), BigInteger)
    return emission, cast(burst, BigInteger) * emission


def arrival(capacity: ColumnElement[int]) -> ColumnElement[int]:
    """The theoretical arrival time of the rate.

    One that is far ahead is not of this rate or of this clock, which was set back: it is dropped, or nothing would be claimed
    until then. Claims that overlap read the clock at different times, but not by as much.
    """
    ahead = capacity + func.greatest(cast(_q.rate_period * _million, BigInteger), _minute)
    return case((_q.tat_us > now_us() + ahead, now_us()), else_=_q.tat_us)


def due(emission: ColumnElement[int], capacity: ColumnElement[int]) -> ColumnElement[int]:
    """How many tasks may be claimed now by the rate."""
    used = func.greatest(arrival(capacity) - now_us(), _zero)
    return (capacity - used) // emission
