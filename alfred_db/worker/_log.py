"""The worker's log, of which no filter, handler or text can end the worker."""

from __future__ import annotations

import logging
from contextlib import suppress

from ..execution.error_texts import described

__all__ = ["is_logged", "log"]

_log = logging.getLogger("alfred_db.worker")


def is_logged(level: int) -> bool:
    """Return whether a line of this level is logged; without, its text need not be made for each task."""
    return _log.isEnabledFor(level)


def log(level: int, message: str, *values: object, error: BaseException | None = None) -> None:
    """Log a line, with the traceback of `error`.

    What a filter or a handler of the application raises is dropped: `logging` lets it through to the caller, and
    the caller is what keeps the leases. The truth value of an exception is its own method too, so that it is not asked.
    """
    try:
        trace = None if error is None else (type(error), error, error.__traceback__)
        _log.log(level, message, *values, exc_info=trace)
    except KeyboardInterrupt:
        raise
    except BaseException:
        if error is not None:
            with suppress(Exception, SystemExit, GeneratorExit):
                _log.log(level, f"{message}: %s", *values, described(error))
