"""What memories and memory entries have in common: when texts are the same, and how long they last."""

from __future__ import annotations

import hashlib
import unicodedata
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case, null, or_

from ...checks import encodable, within
from ...errors import InvalidInputError
from ...models import Memory, MemoryEntry
from .functions import func

DAY = 86_400.0
MAX_TTL = 365_000 * DAY
MAX_IMPORTANCE = 2**31 - 1


def content_hash(content: str) -> bytes:
    """sha256 of the normalised content, by which texts are the same.

    Normalised: case folded, Unicode form NFC, no white space around, and each run of white space one blank.
    Raises InvalidInputError for a text that is empty or holds half of a surrogate pair.
    """
    normalised = " ".join(unicodedata.normalize("NFC", content.casefold()).split())
    if not normalised:
        raise InvalidInputError("content: expected a text, got none; there is nothing to remember")
    if not encodable(normalised):
        raise InvalidInputError(
            "content: holds half of a surrogate pair, which is no character; decode the text with the right codec"
        )
    return hashlib.sha256(normalised.encode()).digest()


def seconds(name: str, duration: timedelta) -> float:
    """A duration in seconds; raises InvalidInputError unless it is positive and at most 1,000 years."""
    value = duration.total_seconds()
    within(f"{name} in seconds", value, 0.001, MAX_TTL)
    return value


def lasting(ttl: timedelta | None) -> timedelta | None:
    """A time to live that is checked; None is for ever."""
    return None if ttl is None else timedelta(seconds=seconds("ttl", ttl))


def alive(model: type[Memory | MemoryEntry]) -> ColumnElement[bool]:
    """Whether a row has not expired."""
    return or_(model.expires_at.is_(None), model.expires_at > func.statement_timestamp())


def later(old: Any, new: Any) -> ColumnElement[datetime | None]:
    """The later of two expiries; NULL is never, and so the latest."""
    return case((or_(old.is_(None), new.is_(None)), null()), else_=func.greatest(old, new))


def expired(model: type[Memory | MemoryEntry]) -> ColumnElement[bool]:
    """The opposite of `alive`, as the index on `expires_at` serves it."""
    return model.expires_at <= func.statement_timestamp()
