"""What the repository of events takes and gives when it is more than a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

__all__ = ["EventConsumerLag", "EventHorizon", "EventPosition", "NewEvent"]

EventPosition: TypeAlias = Literal["beginning", "now"] | datetime | int
"""Where to read from: the oldest event that is kept, what commits from now on, a time, or the `id` of an event."""


class NewEvent(TypedDict):
    """One event of `publish_many`; the keys are the arguments of `publish`."""

    topic: str
    payload: NotRequired[Mapping[str, Any]]
    type: NotRequired[str | None]
    key: NotRequired[str | None]


@dataclass(frozen=True, slots=True)
class EventConsumerLag:
    """A consumer, and how far behind it is."""

    name: str
    topics: Sequence[str]
    behind: int
    """Committed events that it has still to read, counted up to 10,000."""
    oldest_unread_age: float | None
    """Seconds since the first of them was written; None when there is none."""
    read_at: datetime | None
    """When it last got events."""


@dataclass(frozen=True, slots=True)
class EventHorizon:
    """The oldest open transaction that has written: events of it and of later ones are read when it has ended."""

    age: float | None
    """Seconds since it began; None when this role may not know (`GRANT pg_read_all_stats`)."""
    pid: int | None
    """Its process, for `pg_terminate_backend`; None for a prepared transaction."""
    application_name: str
    """Of its connection; for a prepared transaction, its name."""
    database: str
    """It may be any of the server's, not only this one."""
