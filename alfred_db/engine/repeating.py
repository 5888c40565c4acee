"""A call that is repeated in a thread while something else runs, such as a report of its progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

__all__ = ["repeating"]


@contextmanager
def repeating(call: Callable[[], None], seconds: float) -> Generator[None]:
    """Repeat a call until the block ends, with a pause before each.

    What the call raises ends its repetition, and is raised at the end of the block, unless the block itself raises.

    Args:
        call: Runs in another thread.
        seconds: The pause.
    """
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            call()

    with ThreadPoolExecutor(1) as thread:
        repeated = thread.submit(repeat)
        try:
            yield
        finally:
            ended.set()
    repeated.result()
