"""A scheduler as a process: ticks until nothing is due.

    python scheduler.py '{"url": ..., "dies": true}'

One that `dies` is killed in its first tick, when the executions are filed and the tasks not yet moved on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence

from alfred_db import Database
from alfred_db.cron import Slot
from alfred_db.repositories._sync.scheduler import SchedulerRepository


class Dying(SchedulerRepository):
    def _file(self, slots: Sequence[Slot]) -> tuple[Sequence[int], int]:
        filed = super()._file(slots)
        if filed[0]:
            print("filed", len(filed[0]), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return filed


def main(url: str, dies: bool = False) -> None:
    with Database(url) as db:
        repository = Dying if dies else SchedulerRepository
        idle = 0
        while idle < 3:
            with db.begin() as uow:
                tick = repository(uow.session).tick(limit=7)
            idle = 0 if tick.filed else idle + 1
    print("idle", flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
