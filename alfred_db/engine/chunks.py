"""Long work in parts: one short transaction for each, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence, Sized
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Generic, TypeVar

from ..checks import kind, within
from ..errors import InvalidInputError

__all__ = ["AsyncInChunks", "Chunks", "InChunks", "Progress", "parts"]

T = TypeVar("T")
U = TypeVar("U")

Progress = Callable[[int], None]
"""Called after each commit with the number of rows so far."""

FIRST = 100
"""The rows of the first chunk, whose duration is not known yet."""

SHORT, LONG = 0.05, 0.1
"""Seconds: the next chunk is twice as large after one that took less, and half as large after one that took more."""

SAME = 0.9
"""A chunk that takes this part of the time of a larger one shows that its time is not that of its rows."""

MAX_ROWS = 10_000


class Chunks:
    """The size of the next chunk, and the number of rows so far.

    Args:
        limit: The maximum number of rows of a chunk.
        progress: Called after each chunk.
    """

    def __init__(self, limit: int, progress: Progress | None) -> None:
        within("limit", limit, 1, MAX_ROWS)
        self.limit = limit
        self._progress = progress
        self.size = min(FIRST, limit)
        self.rows = 0
        self._least = 1
        self._last: tuple[int, float] | None = None

    @contextmanager
    def timed(self) -> Generator[None]:
        """Choose the size of the next chunk by the time that this one takes."""
        start = time.monotonic()
        yield
        self.took(time.monotonic() - start)

    def took(self, seconds: float) -> None:
        """Choose the size of the next chunk, after one that took `seconds`.

        Some methods read much to find what they write: to weigh a bank of memories takes as long for ten rows as for a hundred.
        Smaller chunks would take no less time, and there would be more of them.
        """
        if seconds > LONG:
            if self._last is not None:
                size, before = self._last
                if self.size < size and seconds > SAME * before:
                    self._least = min(size, FIRST, self.limit)
            self._last = self.size, seconds
            self.size = max(self._least, self.size // 2)
        else:
            self._last = None
            if seconds < SHORT:
                self.size = min(self.limit, self.size * 2)

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


class InChunks(Generic[U]):
    """Long work in short transactions, for what begins a transaction with `begin`."""

    def begin(self) -> AbstractContextManager[U]:
        """Return a context manager for one transaction: commit at the end, roll back on an exception."""
        raise NotImplementedError

    def in_chunks(
        self,
        call: Callable[[U, int], int | Sized],
        *,
        limit: int = 1000,
        progress: Progress | None = None,
    ) -> int:
        """Call a method that takes a `limit` until nothing is left, and commit each time.

        Each call has its own transaction, so that long work holds back nobody: the size of a chunk is chosen so that
        it takes about a tenth of a second. What is committed stays when a later chunk fails.

            db.in_chunks(lambda uow, limit: uow.memory_banks.delete(bank, limit=limit), progress=print)

        Args:
            call: Called with a unit of work and the `limit` to pass on. It returns what the method returns: the number
                of rows, or the rows. Fewer than `limit` mean that nothing is left.
            limit: The maximum number of rows of a chunk, 1 to 10,000.
            progress: Called after each chunk with the number of rows so far.

        Returns:
            The number of rows.
        """
        chunks = Chunks(limit, progress)
        while True:
            size = chunks.size
            with chunks.timed(), self.begin() as uow:
                done = call(uow, size)
            if chunks.add(done) < size:
                return chunks.rows

    def in_chunks_of(
        self,
        items: Sequence[T],
        call: Callable[[U, Sequence[T]], int | Sized],
        *,
        limit: int = 1000,
        progress: Progress | None = None,
    ) -> int:
        """Call a method with part after part of a sequence, and commit each time.

        Each call has its own transaction; see `in_chunks`.

            db.in_chunks_of(points, lambda uow, part: uow.knowledge.upsert("facts", part), progress=print)

        Args:
            items: What the method takes many of.
            call: Called with a unit of work and a part of `items`. It returns the number of rows, or the rows.
            limit: The maximum number of items of a part, 1 to 10,000.
            progress: Called after each part with the number of rows so far.

        Returns:
            The number of rows.
        """
        chunks = Chunks(limit, progress)
        for part in parts(items, chunks):
            with chunks.timed(), self.begin() as uow:
                done = call(uow, part)
            chunks.add(done)
        return chunks.rows


class AsyncInChunks(Generic[U]):
    """The same for asyncio."""

    def begin(self) -> AbstractAsyncContextManager[U]:
        """Return a context manager for one transaction: commit at the end, roll back on an exception."""
        raise NotImplementedError

    async def in_chunks(
        self,
        call: Callable[[U, int], Awaitable[int | Sized]],
        *,
        limit: int = 1000,
        progress: Progress | None = None,
    ) -> int:
        """Call a method that takes a `limit` until nothing is left, and commit each time.

        Each call has its own transaction, so that long work holds back nobody: the size of a chunk is chosen so that
        it takes about a tenth of a second. What is committed stays when a later chunk fails.

            await db.in_chunks(lambda uow, limit: uow.memory_banks.delete(bank, limit=limit), progress=print)

        Args:
            call: Called with a unit of work and the `limit` to pass on. It returns what the method returns: the number
                of rows, or the rows. Fewer than `limit` mean that nothing is left.
            limit: The maximum number of rows of a chunk, 1 to 10,000.
            progress: Called after each chunk with the number of rows so far.

        Returns:
            The number of rows.
        """
        chunks = Chunks(limit, progress)
        while True:
            size = chunks.size
            with chunks.timed():
                async with self.begin() as uow:
                    done = await call(uow, size)
            if chunks.add(done) < size:
                return chunks.rows

    async def in_chunks_of(
        self,
        items: Sequence[T],
        call: Callable[[U, Sequence[T]], Awaitable[int | Sized]],
        *,
        limit: int = 1000,
        progress: Progress | None = None,
    ) -> int:
        """Call a method with part after part of a sequence, and commit each time.

        Each call has its own transaction; see `in_chunks`.

            await db.in_chunks_of(points, lambda uow, part: uow.knowledge.upsert("facts", part), progress=print)

        Args:
            items: What the method takes many of.
            call: Called with a unit of work and a part of `items`. It returns the number of rows, or the rows.
            limit: The maximum number of items of a part, 1 to 10,000.
            progress: Called after each part with the number of rows so far.

        Returns:
            The number of rows.
        """
        chunks = Chunks(limit, progress)
        for part in parts(items, chunks):
            with chunks.timed():
                async with self.begin() as uow:
                    done = await call(uow, part)
            chunks.add(done)
        return chunks.rows
