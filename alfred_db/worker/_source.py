"""The kinds of work that one loop runs side by side, and what each has to know of itself.

A worker has one loop (`_loop.py`), and the loop has a list of sources: `TaskSource` for tasks, and one for each other
kind, such as the executions of schedules. All of them share the `concurrency` of the worker, its few connections, its
heartbeats, its clock of timeouts (`_watch.py`) and its way to stop. The loop decides when a source is asked and for how
many; the source knows the statements.

    claim -> start -> (heartbeat ...) -> ended -> settled
                          keep_up, from time to time

To add a kind of work:

1. Derive from `Source`, and from `Held` for the lease that its handlers get: `label` and `key` name the work.
2. Write `claim`, `start`, `heartbeat` and `settled`. `Runner.run` in `_runner.py` starts functions and coroutine functions;
   `one_by_one` in `_settle.py` is the part of `settled` that all kinds share.
3. Add a column to the statement of `queries/task_upkeep.py`, so that an idle worker still runs one statement for its upkeep. In
   `_upkeep.py`, take work back from workers that vanished, and wake the source when there is some to claim.
4. Add the source to the list that `_loop_of` in `workers.py` makes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Generic

from ..database import Database
from ..repositories import UnitOfWork
from ._lease import ClaimedT, Held
from ._outcome import Ended

__all__ = ["End", "Source"]

End = Callable[[Ended], None]
"""Takes the end of a handler, once, from any thread."""


class Source(ABC, Generic[ClaimedT]):
    """A kind of work. The loop's thread calls everything but `heartbeat`, `wake` and `wanted`.

    A source keeps no list of what is held, and opens no connections: `claim` and `heartbeat` get a unit of work, `settled`
    the worker's own database. Handlers use neither.

    When a source is asked. A look that finds less than it asked for is followed by a pause. A source that `polls` looks
    again after growing pauses, up to the worker's `poll`; another one only after `wake`, which the upkeep calls when
    there is something to claim, and a notification when it is `wanted`. Nothing is sent in between, so a source that does
    not poll costs a worker no statement while nothing is due.
    """

    noun: ClassVar[str]
    """What one of them is, in the log: `task`."""
    polls: ClassVar[bool] = True
    """Whether to look without being woken."""
    eager: ClassVar[bool] = False
    """Whether to look each time when a slot becomes free, unless notifications arrive: for kinds of which many come."""
    again_at: float = 0.0
    """The local time of the next look. For the loop only."""
    looks: int = 0
    """How many looks were in vain since something was there. For the loop only."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        """What has ended and is not stored yet; `settled` takes from it what it has stored. For the loop's thread only."""
        self._woken = True

    @abstractmethod
    def claim(self, uow: UnitOfWork, limit: int) -> Sequence[ClaimedT]:
        """Claim at most `limit` in one statement; the unit of work is in AUTOCOMMIT.

        Each one that is returned is started, and kept by the loop until `settled` yields its lease.
        """

    @abstractmethod
    def start(self, claimed: ClaimedT, end: End) -> Held[ClaimedT]:
        """Start the handler and return its lease at once.

        `end` is called once with the same lease when the handler has ended, from any thread, perhaps before this returns.
        """

    @abstractmethod
    def heartbeat(self, uow: UnitOfWork, claimed: Sequence[ClaimedT]) -> Sequence[ClaimedT]:
        """Extend the leases and return the new states of those that are still held.

        The handler of what is missing is interrupted, and of what is to be cancelled too. Called in the thread of the
        heartbeats.
        """

    @abstractmethod
    def settled(self, db: Database) -> Iterator[Held[Any]]:
        """Store the ends in `self.ended`: take each out of the list when it is stored, and yield its lease.

        An error that passes by itself is raised, and the call repeated later with what is left in the list: with the
        same tokens, so that to store an end twice changes nothing. What cannot be stored for good, such as that of a
        lost lease, leaves the list too, with a line in the log.
        """

    def key_of(self, claimed: ClaimedT) -> object:
        """Return what identifies the work among those of its kind that the worker holds."""
        return claimed.id

    def wanted(self, payload: str) -> bool:
        """Return whether a notification with this payload is a reason to look. Called in the listener's thread."""
        return False

    def wake(self) -> None:
        """Have the loop look as soon as a slot is free; it has to be woken too. May be called from any thread."""
        self._woken = True

    def due(self, *, heard: bool) -> bool:
        """Return whether to look now.

        Args:
            heard: Whether a notification came a moment ago. Those who enqueue then notify, and a slot that becomes free is
                no reason to look.
        """
        return self._woken or time.monotonic() >= self.again_at or (self.eager and not heard)

    def look(self, uow: UnitOfWork, limit: int) -> Sequence[ClaimedT]:
        """Claim, and forget that it was woken: to be woken meanwhile counts for the next look."""
        woken, self._woken = self._woken, False
        if woken:
            self.looks = 0
        try:
            return self.claim(uow, limit)
        except BaseException:
            self._woken = True
            raise
