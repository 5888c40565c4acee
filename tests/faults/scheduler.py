"""A scheduler as a process: ticks until it is killed.

    python scheduler.py '{"url": ..., "stops": "filed"}'

It says when it is `ready`, when the executions of a tick are `filed`, when their tasks have `moved on`, and when that is
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
        def _file(self, slots: Sequence[Slot]) -> tuple[Sequence[int], int]:
            filed = super()._file(slots)
            if filed[0]:
                point("filed")
            return filed

    with Database(url) as db:
        while True:
            with db.begin() as uow:
                tick = Telling(uow.session).tick(limit=2)
                if tick.filed:
                    point("moved on")
            point("committed" if tick.filed else "ready")
            if not tick.filed:
                time.sleep(0.02)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
