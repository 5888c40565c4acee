"""The messages of the server and the driver without the values that they quote."""

from __future__ import annotations

import re

import psycopg
from sqlalchemy import exc

__all__ = ["conceal", "constraint_name", "driver_error", "harmless", "without_values"]


def constraint_name(error: psycopg.Error) -> str | None:
    """Return the name of the violated constraint.

    It is parsed from the message if a proxy such as Citus does not fill the diagnostics.
    """
    if error.diag.constraint_name:
        return error.diag.constraint_name
    found = re.search(r'constraint "([^"]+)"', error.diag.message_primary or "")
    return re.sub(r"_\d{6,}$", "", found.group(1)) if found else None


def driver_error(error: exc.SQLAlchemyError | psycopg.Error) -> psycopg.Error | None:
    """Return the error of the driver that SQLAlchemy has wrapped, or None."""
    found = error.orig if isinstance(error, exc.StatementError) else error
    return found if isinstance(found, psycopg.Error) else None


def without_values(error: psycopg.Error) -> str:
    """Return the message of the server on one line.

    Where it quotes the refused value (class 22), the value is left out.
    """
    text = error.diag.message_primary or type(error).__name__
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    quotes = (error.sqlstate or "")[:2] == "22" or re.search(r"\b(tsquery|jsonpath)\b", text)
    return _UNQUOTED.sub(r'\1"..."', text) if quotes else text


_UNQUOTED = re.compile(
    r"""()".*"|(?<!\w)()'.*'(?!\w)|(?<=byte sequence )(for encoding ".*": )0x.*|[„“”«»「].*[“”«»」]"""
)
"""Quoted values, in the languages of the server.

It matches from the first quote to the last, because the value may contain quotes.
"""


def harmless(error: psycopg.Error) -> str:
    """Return the message of an error of the driver without values of the server."""
    if error.sqlstate is not None:
        return without_values(error)
    text = " ".join(str(error).split())
    return _UNQUOTED.sub(r'\1"..."', text) if isinstance(error, psycopg.DataError) else text


def conceal(error: BaseException | None, *, statements: bool = True) -> None:
    """Remove values, parameters and `statements` from the messages of an error and of its causes.

    A traceback prints the whole chain, and DETAIL and CONTEXT of the server quote rows. The types of the
    errors do not change, and the `diag` of an error of the driver keeps all details of the server.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, exc.StatementError):
            waiting.append(one.orig)
            kind = type(one.orig)
            text = harmless(one.orig) if isinstance(one.orig, psycopg.Error) else "a value cannot be sent"
            one.args = (f"({kind.__module__}.{kind.__qualname__}) {text}",)
            one.params, one.hide_parameters = None, True
            if statements:
                one.statement = None
        elif isinstance(one, psycopg.Error):
            one.args = (harmless(one),)
        elif isinstance(one, UnicodeEncodeError):
            one.args, one.object, one.start, one.end = (), "", 0, 0
