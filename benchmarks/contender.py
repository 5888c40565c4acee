"""The other end of `harness.Contender`: in the process of a contender. Needs nothing but Python."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["CONNECT", "RUN", "TAKEN", "Laps", "serve", "wait_until"]

CONNECT, TAKEN, RUN = "connect", "take it over", "run it"
"""The parts of resuming a workflow."""


def serve(*functions: Callable[..., Any]) -> None:
    """Call what the benchmark asks for, by name, and answer with what it returns, until there is nothing more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    named = {function.__name__: function for function in functions}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"value": named[name](*arguments)}
        except Exception as error:
            traceback.print_exc()
            said = " ".join("".join(traceback.format_exception_only(error)).split())
            answer = {"error": said[:400]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Laps:
    """A clock that runs from now on, and the seconds of each part of what it measures."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.parts: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The part of this name ends now."""
        now = time.perf_counter()
        self.parts[name], self._last = now - self._last, now

    def result(self, ran: list[int]) -> dict[str, Any]:
        return {"seconds": self._last - self._began, "parts": self.parts, "ran": ran, "ended": self._last}


def polled(take: Callable[[], Any], poll: float) -> Any:
    """What `take` returns once that is something; it is called again after `poll` seconds, or once only if that is 0."""
    while not (found := take()):
        if not poll:
            raise LookupError("there is nothing to take over")
        time.sleep(poll)
    return found


def wait_until(at: float) -> None:
    """Sleep until this time of the machine's clock, so that processes begin together; 0 is now."""
    left = at - time.time()
    if at and left < 0:
        raise TimeoutError(f"ready {-left:.2f} s after the others began")
    time.sleep(max(0.0, left))
