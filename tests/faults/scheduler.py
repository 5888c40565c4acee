"""A scheduler as a process: ticks until it is killed.

    python scheduler.py '{"url": ..., "stops": "created"}'

It says when it is `ready`, when the executions of a tick are `created`, when their tasks have `moved on`, and when that is
`committed`; where it `stops` it goes no further.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from alfred_db import Database
from alfred_db.cron import Slot
from alfred_db.repositories._sync.scheduler import SchedulerRepository


def main(url: str, stops: str | None = None) -> None:
    def point(name: str) -> None:
        print(name, flush=True)
        if name == stops:
            time.sleep(600)

    class Telling(SchedulerRepository):
        def _create_executions(self, slots: Sequence[Slot]) -> tuple[Sequence[int], int]:
            created = super()._create_executions(slots)
            if created[0]:
                point("created")
            return created

    with Database(url) as db:
        while True:
            with db.begin() as uow:
                tick = Telling(uow.session).tick(limit=2)
                if tick.created:
                    point("moved on")
            point("committed" if tick.created else "ready")
            if not tick.created:
                time.sleep(0.02)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
