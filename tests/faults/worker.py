"""A worker as a process: claims, beats, does what the tasks say, and completes them together with their effects.

    python worker.py '{"url": ..., "worker": "w-1", "lease": 2.0, "limit": 3}'

It says on its standard output what it does, and goes on through every failure of the database.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

from ledger import ATTEMPT, EFFECT  # type: ignore[import-not-found]

from alfred_db import ClaimedTask, Database, LeaseLost, TaskBackoff
from alfred_db.errors import ConflictError, DatabaseUnavailable, translated
from alfred_db.repositories import UnitOfWork

T = TypeVar("T")
PARENT = os.getppid()
"""Without it nobody ends this process."""


def say(*words: object) -> None:
    print(*words, flush=True)


class Worker:
    def __init__(
        self, *, url: str, worker: str, lease: float = 2.0, limit: int = 1, reap: bool = True
    ) -> None:
        self._db = Database(url, pool_size=4, application_name=worker)
        self._name, self._lease, self._limit, self._reap = worker, lease, limit, reap
        self._backoff = TaskBackoff(0.05, 0.2, 0.5)
        self._held: dict[uuid.UUID, ClaimedTask] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self._over.set())
        threading.Thread(target=self._beat, daemon=True).start()
        say("ready")
        while not self._over.is_set() and os.getppid() == PARENT:
            if self._reap:
                self._until_it_answers(lambda uow: uow.tasks.reap(backoff=self._backoff))
            claimed = self._once(
                lambda uow: uow.tasks.claim(worker=self._name, limit=self._limit, lease=self._lease)
            )
            with self._lock:
                self._held.update({task.id: task for task in claimed or ()})
            for task in claimed or ():
                say("claimed", task.task_id)
            for task in claimed or ():
                self._do(task)
                with self._lock:
                    self._held.pop(task.id, None)
            if not claimed:
                self._over.wait(0.05)
        self._db.close()
        say("stopped")

    def _do(self, task: ClaimedTask) -> None:
        self._until_it_answers(lambda uow: uow.session.execute(ATTEMPT, self._row(task)))
        if task.intent == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(task.content.get("seconds", 0))
        if task.attempt <= task.content.get("failures", 0):
            self._end(task, "failed", lambda uow: uow.tasks.fail(task, "no", backoff=self._backoff))
            return
        self._end(task, "done", lambda uow: self._complete(uow, task))

    def _complete(self, uow: UnitOfWork, task: ClaimedTask) -> None:
        """A commit whose answer was lost is repeated: the effect is for the call that completes the task."""
        if uow.tasks.complete(task):
            uow.session.execute(EFFECT, self._row(task))
        if hold := task.content.get("before_commit"):
            say("uncommitted", task.task_id)
            time.sleep(hold)

    def _end(self, task: ClaimedTask, how: str, work: Callable[[UnitOfWork], object]) -> None:
        try:
            self._until_it_answers(work)
            say(how, task.task_id)
        except LeaseLost:
            say("lost", task.task_id)

    def _beat(self) -> None:
        while not self._over.wait(self._lease / 4):
            with self._lock:
                held = list(self._held.values())
            kept = self._once(lambda uow, held=held: uow.tasks.heartbeat_many(held)) if held else []
            for task in kept or ():
                if task.cancel_requested:
                    say("asked to cancel", task.task_id)
            if held and kept is not None and len(kept) < len(held):
                say("missing", len(held) - len(kept))

    def _once(self, work: Callable[[UnitOfWork], T]) -> T | None:
        """The result of one transaction; None when the database failed, in any way that it may."""
        try:
            with translated(), self._db.begin() as uow:
                return work(uow)
        except DatabaseUnavailable:
            return None
        except ConflictError as error:
            if not error.retryable:
                raise
            return None

    def _until_it_answers(self, work: Callable[[UnitOfWork], object]) -> None:
        def all_of(uow: UnitOfWork) -> bool:
            work(uow)
            return True

        while self._once(all_of) is None and os.getppid() == PARENT:
            time.sleep(0.05)

    def _row(self, task: ClaimedTask) -> dict[str, object]:
        return {"id": task.id, "claim_seq": task.claim_seq, "worker": self._name}


if __name__ == "__main__":
    Worker(**json.loads(sys.argv[1])).run()
