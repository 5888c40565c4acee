"""When a task is tried again, for each decorated function."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import within
from ..errors import InvalidInputError
from ..values.tasks import TaskBackoff

__all__ = ["Retry"]

MAX_RETRIES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed task is tried again, when, and after which errors.

    `TaskFailed` decides for itself by its `retry` and `delay`. After the first crash of its worker a task is tried again
    at once, and later with the back-off of the worker that takes it back.
    """

    max: int = 3
    """How many failed attempts and crashes are followed by another attempt."""
    backoff: TaskBackoff | float | None = None
    """The delays, or one number of seconds for all of them. None is the back-off of the worker."""
    on: type[BaseException] | tuple[type[BaseException], ...] = BaseException
    """The errors after which it is tried again; any other ends it at once."""
    give_up_on: type[BaseException] | tuple[type[BaseException], ...] = ()
    """The errors that end it at once, whatever `on` is."""

    def __post_init__(self) -> None:
        within("Retry.max", self.max, 0, MAX_RETRIES)
        if isinstance(self.backoff, int | float):
            within("Retry.backoff", self.backoff, 0, 1e8)
        for name, kinds in (("on", self.on), ("give_up_on", self.give_up_on)):
            for kind in kinds if isinstance(kinds, tuple) else (kinds,):
                if not (isinstance(kind, type) and issubclass(kind, BaseException)):  # pyright: ignore[reportUnnecessaryIsInstance]
                    raise InvalidInputError(
                        f"Retry.{name}: expected exception classes, got {type(kind).__name__}"
                    )

    def retries(self, error: BaseException) -> bool:
        """Return whether a task is tried again after this error, while attempts are left."""
        kind = type(error)
        return issubclass(kind, self.on) and not issubclass(kind, self.give_up_on)

    def delays(self, usual: TaskBackoff) -> TaskBackoff:
        """Return the back-off of a task, which is `usual` if the policy has none."""
        if self.backoff is None:
            return usual
        if isinstance(self.backoff, TaskBackoff):
            return self.backoff
        return TaskBackoff(self.backoff, self.backoff, 0.1)
