"""Marks on errors of the driver: what was known where they were raised, for their translation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

MARK = "alfred_db_mark"
_MOST_BYTES = (1 << 30) - (1 << 16)
COMMAND = "alfred_db_upgrade"

OUTDATED = frozenset({"42P01", "42703", "3F000"})
"""The SQLSTATEs of a missing table, column or schema."""


def note_upgrade(error: BaseException, command: Callable[[], str]) -> None:
    """Attach the command that upgrades the database to an error, for its message.

    Args:
        error: The error; only a missing table, column or schema is annotated.
        command: Returns the command; called only if needed.
    """
    if isinstance(error, psycopg.Error) and error.sqlstate in OUTDATED:
        setattr(error, COMMAND, command())


def mark_lost(error: BaseException, parameters: Any) -> None:
    """Mark an error of a lost connection as before any COMMIT, so that nothing of the transaction remains.

    A message of a gigabyte or more ends the connection too, at any time.
    """
    if isinstance(error, psycopg.Error):
        setattr(error, MARK, "too large" if _bytes_of(parameters) > _MOST_BYTES else "lost")


def _bytes_of(value: Any) -> int:
    """Return the approximate size of a value in a message in bytes."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode(errors="replace"))
    if value.__class__ in (bytes, bytearray):
        return len(value)
    if value.__class__ is dict:
        return sum(_bytes_of(one) for one in value.values())
    if value.__class__ in (list, tuple):
        return sum(_bytes_of(one) for one in value)
    return int(getattr(value, "nbytes", 8))
