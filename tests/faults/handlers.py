"""The handlers of `alfred-db worker --app handlers:handlers`: they do what worker.py does by itself."""

from __future__ import annotations

import os
import signal
import threading
import time

from ledger import ATTEMPT, EFFECT  # type: ignore[import-not-found]

from alfred_db import ClaimedTask, Database
from alfred_db.worker import Lease, TaskFailed

db = Database(pool_size=4, application_name="handlers")


def poison(task: ClaimedTask, lease: Lease) -> None:
    _begin(task)
    os.kill(os.getpid(), signal.SIGKILL)


def work(task: ClaimedTask, lease: Lease) -> None:
    _begin(task)
    time.sleep(task.content.get("seconds", 0))
    if task.attempt <= task.content.get("failures", 0):
        raise TaskFailed("no", delay=0.1)
    with db.begin() as uow:
        uow.session.execute(EFFECT, _row(task))
        lease.complete(uow)


def _begin(task: ClaimedTask) -> None:
    with db.begin() as uow:
        uow.session.execute(ATTEMPT, _row(task))


def _row(task: ClaimedTask) -> dict[str, object]:
    return {"id": task.id, "claim_seq": task.claim_seq, "worker": str(os.getpid())}


def _say_when_it_can_be_stopped() -> None:
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.05)
    print("ready", flush=True)


threading.Thread(target=_say_when_it_can_be_stopped, daemon=True).start()
handlers = {"work": work, "poison": poison}
