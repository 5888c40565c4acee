"""Long work in parts: one short transaction for each, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import TypeVar

from ..checks import kind, within
from ..errors import InvalidInputError

__all__ = ["Chunks", "Progress", "parts"]

T = TypeVar("T")

Progress = Callable[[int], None]
"""Called after each commit with the number of rows so far."""

FIRST = 100
"""The rows of the first chunk, whose duration is not known yet."""

SHORT, LONG = 0.05, 0.1
"""Seconds: the next chunk is twice as large after one that took less, and half as large after one that took more."""

MAX_ROWS = 10_000


class Chunks:
    """The size of the next chunk, and the number of rows so far.

    Args:
        limit: The maximum number of rows of a chunk.
        progress: Called after each chunk.
    """

    def __init__(self, limit: int, progress: Progress | None) -> None:
        within("limit", limit, 1, MAX_ROWS)
        self._limit = limit
        self._progress = progress
        self.size = min(FIRST, limit)
        self.rows = 0

    @contextmanager
    def timed(self) -> Generator[None]:
        """Choose the size of the next chunk by the time that this one takes."""
        start = time.monotonic()
        yield
        taken = time.monotonic() - start
        if taken > LONG:
            self.size = max(1, self.size // 2)
        elif taken < SHORT:
            self.size = min(self._limit, self.size * 2)

    def add(self, done: object) -> int:
        """Count the rows of a call that has committed, by what it has returned; return their number."""
        rows = number_of(done)
        self.rows += rows
        if self._progress is not None:
            self._progress(self.rows)
        return rows


def number_of(done: object) -> int:
    """Return the number of rows that a call returned, or that are in what it returned."""
    if isinstance(done, int) and not isinstance(done, bool):
        return done
    if isinstance(done, Sized):
        return len(done)
    raise InvalidInputError(
        f"in_chunks: the call returned {kind(done)}, not the number of its rows; have it return what the method"
        " returns"
    )


def parts(items: Sequence[T], chunks: Chunks) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts of the size that is due."""
    place = 0
    while place < len(items):
        part = items[place : place + chunks.size]
        place += len(part)
        yield part
