"""Tasks that have failed for good, reported once to the hooks of their application."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..database import Database
from ..queries.task_figures import dead
from ._log import log

__all__ = ["DeadLetterHook", "DeadLetters", "DeadTask"]

PAGE = 100
OVERLAP = timedelta(seconds=60)
"""How far back each look begins before the last one that it has seen: transactions commit later than they failed."""

KEPT = 2 * 86_400.0
"""Seconds for which it is recorded that a hook was called: twice as long as the first look goes back."""


@dataclass(frozen=True, slots=True)
class DeadTask:
    """A task that has failed for good."""

    id: uuid.UUID
    task_id: str
    intent: str
    queue: str
    error_code: str | None
    error_message: str | None
    attempts: int
    """How many attempts failed or crashed, the last one included."""
    failed_at: datetime


DeadLetterHook = Callable[[DeadTask], None] | Callable[[DeadTask], Awaitable[None]]
"""Called with each task that has failed for good."""


class DeadLetters:
    """Finds failed tasks, however they failed, and calls the hooks. Of any number of workers one calls."""

    def __init__(
        self, db: Database, name: str, intents: Sequence[str], hooks: Sequence[DeadLetterHook]
    ) -> None:
        self._db = db
        self._name = name
        self._intents = intents
        self._hooks = hooks
        self._since: datetime | None = None

    def look(self) -> None:
        """Call the hooks for what has failed since the last look; the first one goes a day back."""
        since, full = self._since, True
        while full:
            with self._db.begin() as uow:
                rows = uow.session.execute(dead(self._intents, since, PAGE)).all()
                failed = [DeadTask(*row) for row in rows]
                keys = {
                    f"dead-letter:{self._name}:{one.id}:{one.failed_at.timestamp()}": one for one in failed
                }
                new = uow.messages.first_time_many(list(keys), ttl=KEPT) if keys else []
            for key in new:
                self._call(keys[key])
            full = len(failed) == PAGE and since != failed[-1].failed_at
            if failed:
                since = failed[-1].failed_at
                self._since = since - OVERLAP

    def _call(self, task: DeadTask) -> None:
        for hook in self._hooks:
            try:
                called = hook(task)
                if called is not None:
                    asyncio.run(_awaited(called))
            except Exception as error:
                log(logging.ERROR, "dead letter %s: the hook raised", task.task_id, error=error)


async def _awaited(called: Awaitable[None]) -> None:
    await called
