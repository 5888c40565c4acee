"""The values that Python cannot read from the server's rows, or cannot send as JSON."""

from __future__ import annotations

import traceback

import psycopg
from sqlalchemy import exc

__all__ = ["in_reading", "of_json", "why_unreadable"]

_FETCHING = {"fetchone", "fetchmany", "fetchall", "process_result_value"}


def in_reading(error: BaseException | None, own: type[Exception]) -> bool:
    """Return whether an error comes from reading a value that the server has sent.

    Args:
        error: The error.
        own: What the types of this library raise for a value that they do not know.
    """
    found = error.orig if isinstance(error, exc.DataError) else error
    if not isinstance(found, ValueError | ArithmeticError | RecursionError | psycopg.DataError | own):
        return False
    if isinstance(found, psycopg.Error) and found.sqlstate is not None:
        return False
    return any(frame.f_code.co_name in _FETCHING for frame, _ in traceback.walk_tb(found.__traceback__))


def why_unreadable(error: BaseException | None) -> str:
    """Return the reason why a value cannot be read, without the value."""
    found = error.orig if isinstance(error, exc.DataError) else error
    if isinstance(found, RecursionError):
        return "its JSON is nested more deeply than Python can read"
    if isinstance(found, psycopg.DataError | ArithmeticError):
        return "it is outside of the years 1 to 9999, or of what Python can hold"
    if type(found).__module__ == "alfred_db.errors":  # these have no values in their messages
        return str(found)
    return "its JSON has a number of more digits than Python reads (sys.set_int_max_str_digits)"


def of_json(error: Exception) -> bool:
    """Return whether an error was raised while the driver serialised a value as JSON."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "json.encoder" for frame, _ in frames)
