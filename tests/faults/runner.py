"""A runner of workflows as a process: claims an execution, and runs its steps with one effect each.

    python runner.py '{"url": ..., "workflow_id": 1, "steps": [...], "seq": 2, "at": "before commit"}'

It is killed in the step numbered `seq`: `begun`, when it has done what cannot be undone, `before commit` of its
checkpoint, or `after commit`.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from ledger import ATTEMPT, EFFECT  # type: ignore[import-not-found]

from alfred_db import Database


def main(url: str, workflow_id: int, steps: list[str], seq: int | None = None, at: str | None = None) -> None:
    def point(number: int, name: str) -> None:
        if (number, name) == (seq, at):
            os.kill(os.getpid(), signal.SIGKILL)

    with Database(url) as db:
        with db.begin() as uow:
            claims = uow.workflows.claim("runner", [workflow_id], lease=60)
        for held in claims:
            for number, step in enumerate(steps):
                row = {
                    "id": f"00000000-0000-0000-0000-{number:012}",
                    "claim_seq": held.claim_seq,
                    "worker": step,
                }
                with db.begin() as uow:
                    if uow.workflows.replay(held, step, seq=number) is not None:
                        continue
                    uow.session.execute(ATTEMPT, row)
                point(number, "begun")
                with db.begin() as uow:
                    uow.session.execute(EFFECT, row)
                    uow.workflows.checkpoint(held, step, f"{step} done", seq=number)
                    uow.session.flush()
                    point(number, "before commit")
                point(number, "after commit")
            with db.begin() as uow:
                uow.workflows.complete(held, "all done")
    print("completed", len(claims), flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
