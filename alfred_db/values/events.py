"""Arguments and results of the repository of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

__all__ = ["EventConsumerLag", "EventHorizon", "EventPosition", "NewEvent"]

EventPosition: TypeAlias = Literal["beginning", "now"] | datetime | int
"""Where a consumer starts to read.

The oldest stored event (`beginning`), the events that commit from now on (`now`), a time, or the `id` of an
event.
"""


class NewEvent(TypedDict):
    """One event of `publish_many`; the keys are the arguments of `publish`."""

    topic: str
    payload: NotRequired[Mapping[str, Any]]
    type: NotRequired[str | None]
    key: NotRequired[str | None]


@dataclass(frozen=True, slots=True)
class EventConsumerLag:
    """A consumer, and how far it lags behind."""

    name: str
    topics: Sequence[str]
    behind: int
    """Number of committed events that it has not read, counted up to 10,000."""
    oldest_unread_age: float | None
    """Seconds since the first of them was written; None if it has read all of them."""
    read_at: datetime | None
    """When it last received events."""


@dataclass(frozen=True, slots=True)
class EventHorizon:
    """The oldest open transaction that has written.

    Its events and those of later transactions are delivered once it has ended.
    """

    age: float | None
    """Seconds since it began; None if the role may not see it (`GRANT pg_read_all_stats`)."""
    pid: int | None
    """Its server process, for `pg_terminate_backend`; None for a prepared transaction."""
    application_name: str
    """Application name of its connection; for a prepared transaction, its name."""
    database: str
    """Its database, which can be any database of the server."""
