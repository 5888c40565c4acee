"""Tasks that cannot be read: a claim that meets one fails as a whole, and would meet it again for ever."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import psycopg
from sqlalchemy import exc

from ..database import Database
from ..errors import InvalidInputError
from ..queries import task_maintenance as queries
from ._log import log
from ._outcome import described

__all__ = ["UNREADABLE", "set_aside"]

UNREADABLE = (
    ValueError,
    ArithmeticError,
    RecursionError,
    InvalidInputError,
    exc.DataError,
    psycopg.DataError,
)
"""What reading a row raises: JSON that is nested too deeply, or has a number of too many digits; a time before the
calendar of Python; text in no known encoding."""

CODE = "unreadable"

LOOKED_AT = 1000
"""Tasks that are looked at, in the order in which a claim comes to them; more than one claim takes."""


def set_aside(
    db: Database, queues: Sequence[str] | None, intents: Sequence[str], assigned_to: str | None
) -> int:
    """Have those fail that a claim comes to first and that cannot be read. Returns their number."""
    found = 0
    with db.begin() as uow:
        ids = uow.session.scalars(queries.waiting(queues, intents, assigned_to, limit=LOOKED_AT)).all()
    for id in ids:
        try:
            with db.begin() as uow:
                uow.tasks.get(id)
        except UNREADABLE as error:
            message = f"it cannot be read: {described(error)}"
            with db.begin() as uow:
                uow.session.execute(queries.set_aside(id, code=CODE, message=message))
            log(logging.WARNING, "task %s: failed, as %s", id, message)
            found += 1
    return found
