"""Exceptions of the caller's code as text that can be stored, whatever their methods do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from ..checks import plain_text
from ..errors import conceal

__all__ = ["MAX_CODE", "MAX_MESSAGE", "described", "plain", "text_of"]

MAX_MESSAGE = 10_000
"""Characters of an error that are stored."""

MAX_CODE = 200
MAX_PARTS = 5
"""Exceptions of a group that its description names."""


def described(error: BaseException) -> str:
    """Return the type and the text of an exception as text that can be stored, even if its methods raise."""
    kind, text = text_of(error)
    try:
        if issubclass(type(error), BaseExceptionGroup):
            parts: Sequence[BaseException] = cast("BaseExceptionGroup[Any]", error).exceptions[:MAX_PARTS]
            text = "; ".join([text, *(": ".join(text_of(part)) for part in parts)])
    except BaseException:
        pass  # the group's own text has their number
    return plain(f"{kind}: {text}", MAX_MESSAGE)


def plain(text: str, most: int) -> str:
    """Return at most `most` characters, without those that PostgreSQL cannot store."""
    # Cut first: what is long may be very long. No method of a subclass of str is called.
    exact = str.__str__(text)[:most]
    return plain_text(exact)


def _conceal(error: BaseException) -> None:
    """Remove a row's values, which belong neither into what is stored nor into the log."""
    with suppress(Exception, SystemExit, GeneratorExit):
        conceal(error, statements=False)


def text_of(error: BaseException) -> tuple[str, str]:
    """Return the type and the text of an exception."""
    _conceal(error)
    try:
        kind = plain(type(error).__name__, MAX_CODE)
    except BaseException:
        kind = "an exception"
    try:
        text = plain(str(error), MAX_MESSAGE)
    except BaseException as failure:
        text = f"its text cannot be read, str() raised {_name(failure)}"
    return kind, text


def _name(error: BaseException) -> str:
    try:
        return plain(type(error).__name__, MAX_CODE)
    except BaseException:
        return "an exception"
