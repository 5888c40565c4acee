"""Tasks as a kind of work of the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from ..database import Database
from ..engine.notifications import wakes
from ..repositories import UnitOfWork
from ..values.tasks import ClaimedTask
from ._lease import AnyLease, AsyncLease, Held, Lease
from ._outcome import returned
from ._runner import Runner, is_asynchronous
from ._settle import settled
from ._source import End, Source
from .settings import Settings

__all__ = ["TaskSource"]


class TaskSource(Source[ClaimedTask]):
    """The tasks of some intents."""

    noun = "task"
    eager = True

    def __init__(
        self,
        worker: str,
        handlers: Mapping[str, Callable[..., Any]],
        runner: Runner,
        settings: Settings,
    ) -> None:
        super().__init__()
        self._worker = worker
        self._handlers = handlers
        self._intents = list(handlers)
        self._asynchronous = {intent: is_asynchronous(handler) for intent, handler in handlers.items()}
        self._runner = runner
        self._settings = settings
        self.report: Callable[[AnyLease, float, str | None], Future[bool]] | None = None
        """Has the progress of a task stored. Set by the loop, before it claims."""

    def claim(self, uow: UnitOfWork, limit: int) -> Sequence[ClaimedTask]:
        """Claim tasks of the intents that have handlers."""
        return uow.tasks.claim(
            worker=self._worker,
            limit=limit,
            queues=self._settings.queues,
            intents=self._intents,
            assigned_to=self._settings.assigned_to,
            lease=self._settings.lease,
        )

    def start(self, claimed: ClaimedTask, end: End) -> AnyLease:
        """Start the handler of the task's intent."""
        handler = self._handlers[claimed.intent]
        asynchronous = self._asynchronous[claimed.intent]
        lease = AsyncLease(claimed) if asynchronous else Lease(claimed)
        lease.report = self.report
        self._runner.run(handler, (claimed, lease), lease, end, returned, asynchronous=asynchronous)
        return lease

    def heartbeat(self, uow: UnitOfWork, claimed: Sequence[ClaimedTask]) -> Sequence[ClaimedTask]:
        """Extend the leases."""
        return uow.tasks.heartbeat_many(claimed, lease=self._settings.lease)

    def settled(self, db: Database) -> Iterator[Held[Any]]:
        """Complete, fail or release the tasks that have ended."""
        return settled(db, self.ended, self._settings.backoff)

    def wanted(self, payload: str) -> bool:
        """Return whether the notification names a queue and an intent of this worker."""
        return wakes(payload, self._settings.queues, self._intents)
