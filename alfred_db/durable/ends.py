"""How a call of a context ends a run, past the code of the workflow."""

from __future__ import annotations

__all__ = ["RunEnded", "StepRetried", "Suspended"]


class RunEnded(BaseException):
    """Ends a run from within a call of its context. Not an `Exception`, so that the code of a workflow does not catch it."""


class Suspended(RunEnded):
    """The execution is suspended."""


class StepRetried(RunEnded):
    """The function of a step raised, and another attempt will call it again."""

    def __init__(self, message: str, delay: float | None, error: BaseException) -> None:
        super().__init__(message)
        self.message = message
        self.delay = delay
        self.error = error
