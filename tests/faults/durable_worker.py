"""A worker of a durable function as a process, killed at a moment that the argument chooses.

    python durable_worker.py '{"url": ..., "flow": ..., "after": 0.12}'

It is killed `after` so many seconds, or in the step of the number `seq`, before its result is stored. Each call of a
step leaves a row.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import partial

from sqlalchemy import text

from alfred_db import Database, Worker, WorkflowContext, workflow

STEPS = 12


def main(url: str, flow: str, after: float | None = None, seq: int | None = None) -> None:
    if after is not None:

        def kill() -> None:
            time.sleep(after)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
    db = Database(url)

    def work(execution: int, number: int) -> int:
        with db.begin() as uow:
            uow.session.execute(
                text("INSERT INTO calls (execution, step) VALUES (:execution, :step)"),
                {"execution": execution, "step": number},
            )
        if number == seq:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    @workflow(flow)
    def killed(ctx: WorkflowContext) -> list[int]:
        first = [ctx.step(work, ctx.id, number) for number in range(6)]
        ctx.sleep(0.01)
        rest = ctx.gather(*[partial(work, ctx.id, number) for number in range(6, STEPS)], limit=3)
        return [*first, *rest]

    Worker(db, {}, workflows=[killed], lease=60, upkeep=0.2, poll=0.1).run(drain=True)
    print("ended", flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
