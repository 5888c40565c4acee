"""The other end of `harness.Contender`: in the process of a contender. Needs nothing but Python."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

__all__ = ["serve", "wait_until"]


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


def wait_until(at: float) -> None:
    """Sleep until this time of the machine's clock, so that processes begin together; 0 is now."""
    left = at - time.time()
    if at and left < 0:
        raise TimeoutError(f"ready {-left:.2f} s after the others began")
    time.sleep(max(0.0, left))
