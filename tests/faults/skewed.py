"""A client whose clock is wrong: does a little of everything, and says what the database thinks of it.

python skewed.py 3600 postgresql://...
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from typing import Any

SHIFT = float(sys.argv[1])
_time, _time_ns, _real = time.time, time.time_ns, datetime.datetime


class _Meta(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _real)


class _Shifted(datetime.datetime, metaclass=_Meta):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return _real.now(tz) + datetime.timedelta(seconds=SHIFT)

    @classmethod
    def utcnow(cls) -> Any:
        raise AssertionError("nobody asks for that")


time.time = lambda: _time() + SHIFT
time.time_ns = lambda: _time_ns() + int(SHIFT * 1e9)
datetime.datetime = _Shifted

from sqlalchemy import text  # noqa: E402

from alfred_db import Database  # noqa: E402

ages = text(
    """
    SELECT extract(epoch FROM lease_expires_at - statement_timestamp()) AS lease,
        extract(epoch FROM attempt_deadline_at - statement_timestamp()) AS deadline,
        extract(epoch FROM created_at - statement_timestamp()) AS created
    FROM tasks WHERE status = 'processing'
    """
)


def main(url: str) -> dict[str, Any]:
    said: dict[str, Any] = {"clock": datetime.datetime.now().timestamp() - _time()}
    with Database(url) as db:
        with db.begin() as uow:
            uow.tasks.enqueue("soon", delay=100)
            uow.tasks.enqueue_many([{"intent": "later", "delay": 100.0}] * 1001)
            uow.tasks.enqueue("now", timeout_seconds=50)
            (held,) = uow.tasks.claim(worker="w", limit=500, lease=10)
            said["intent"] = held.intent
            said["over"] = held.is_over
        with db.begin() as uow:
            uow.tasks.heartbeat(held)
            said["reaped"] = len(uow.tasks.reap())
            said |= {name: float(value) for name, value in uow.session.execute(ages).one()._mapping.items()}
        with db.begin() as uow:
            said["retry"] = uow.tasks.fail(held, "no", delay=20).value
            said["claimed early"] = len(uow.tasks.claim(worker="w", limit=500))
            said["purged"] = uow.tasks.purge(older_than=0)
        with db.begin() as uow:
            said["first"] = uow.messages.first_time("m", ttl=1000)
        with db.begin() as uow:
            said["first again"] = uow.messages.first_time("m", ttl=1000)
            uow.scheduler.create("n", "c", "0 * * * *", schedule_key="k")
            said["enqueued"] = len(uow.scheduler.tick().created)
            next_run = text(
                "SELECT next_run_at = date_trunc('hour', statement_timestamp()) + interval '1 hour' FROM scheduler_tasks"
            )
            said["next slot is the next hour"] = uow.session.execute(next_run).scalar()
        with db.begin() as uow:
            uow.agents.register("a", type="llm", version="1")
            said["alive"] = len(uow.agents.list_alive(within=30))
            said["oldest"] = uow.tasks.queue_health().oldest_ready_age
    return said


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[2])), flush=True)
