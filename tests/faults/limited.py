"""A worker that claims from limited queues as a process; ends when nothing is left. It is killed at any time.

python limited.py '{"url": ..., "seed": 1}'
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

from alfred_db import Database, LeaseLost, TaskBackoff, TaskStatus

AT_ONCE = TaskBackoff(0, 0, 0)
LEASE = 0.5


def main(url: str, seed: int) -> None:
    dice = random.Random(seed)
    with Database(url, pool_size=1) as db:
        while True:
            shape: dict[str, Any] = dice.choice(
                [{}, {"intents": ["x"]}, {"queues": ["a", "b", "c"], "intents": ["x"]}]
            )
            with db.autocommit() as uow:
                uow.tasks.reap(backoff=AT_ONCE)
                claimed = uow.tasks.claim(f"w-{seed}", limit=dice.choice([1, 3]), lease=LEASE, **shape)
            if not claimed:
                with db.begin() as uow:
                    live = (TaskStatus.PENDING, TaskStatus.PROCESSING)
                    if not sum(uow.tasks.count(status=status) for status in live):
                        return
            time.sleep(dice.random() * 0.02)
            for task in claimed:
                with db.autocommit() as uow:
                    try:
                        end = dice.random()
                        if end < 0.7:
                            uow.tasks.complete(task)
                        elif end < 0.9:
                            uow.tasks.fail(task, "no", backoff=AT_ONCE, retry=True)
                        else:
                            uow.tasks.release(task)
                    except LeaseLost:
                        pass


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
