"""What calls of the cache take and return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

__all__ = ["AsyncCacheCompute", "CacheCompute", "CacheSize"]

CacheCompute = Callable[[], bytes]
"""Computes a value of the cache."""

AsyncCacheCompute = Callable[[], Awaitable[bytes]]
"""Computes a value of the cache, to be awaited."""


@dataclass(frozen=True, slots=True)
class CacheSize:
    """What the cache holds, with what has expired and is not yet purged."""

    entries: int
    """The number of entries."""
    bytes: int
    """The bytes of their keys and values."""
