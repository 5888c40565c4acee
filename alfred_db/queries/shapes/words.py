"""The words of a search in full text: quoted phrases, `or`, and `-` before a word that must not be there.

PostgreSQL's `websearch_to_tsquery` reads `cats or -dogs` as "cats, or anything without dogs", and a dash between spaces
as a negation of what follows. Here a negated word is a condition on what the other words find, it finds nothing alone,
and a dash that stands alone is none.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from sqlalchemy import ColumnElement, bindparam, case, cast, literal_column
from sqlalchemy.dialects.postgresql import REGCONFIG, TSQUERY

from ...types import Text
from .functions import func

Match = Literal["all", "any"]

_UNIT = re.compile(r'(?P<before>[\s!&|()-]*)(?P<unit>"[^"]*"?|[^\s"!&|()]+)')
"""A phrase or a word, and the white space, operators and dashes before it."""


def parameters(text: str, match: Match) -> dict[str, str]:
    """The parameters of `tsquery` for a text."""
    every, wanted, unwanted = _read(text)
    if match == "any":
        return {"wanted": " or ".join(one for one in wanted if one != "or"), "unwanted": unwanted}
    return {"every": every, "wanted": " ".join(wanted), "unwanted": unwanted}


def tsquery(language: ColumnElement[Any], match: Match) -> ColumnElement[Any]:
    """The rows with all the words, or with any of them, and without the negated ones."""

    def read(name: str) -> Any:
        return func.websearch_to_tsquery(language, bindparam(name, type_=Text), type_=TSQUERY)

    wanted, excluded = read("wanted"), func.tsquery_not(read("unwanted"), type_=TSQUERY)
    both = func.tsquery_and(wanted, excluded, type_=TSQUERY)
    limited = case((func.numnode(wanted) == literal_column("0"), wanted), else_=both)
    if match == "any":
        return limited
    # Empty or T: what is true of rows without a single one of the words, and an index has nothing to look up.
    every = read("every")
    return case((func.length(func.querytree(every)) < literal_column("2"), limited), else_=every)


def bound_language() -> ColumnElement[Any]:
    """The text search configuration of the parameter `language`."""
    return cast(bindparam("language", type_=Text), REGCONFIG)


def _read(text: str) -> tuple[str, list[str], str]:
    """All units, those that are wanted, and those that are not; `or` only between two others."""
    every: list[str] = []
    wanted: list[str] = []
    unwanted: list[str] = []
    for found in _UNIT.finditer(text):
        unit, signs = found["unit"], re.split(r"\s", found["before"])[-1]
        negated = signs.count("-") % 2 == 1
        if unit.lower() == "or" and not negated:
            every.append("or")
            wanted.append("or")
            continue
        if unit.startswith('"'):
            unit = f'"{unit.strip(chr(34))}"'
        every.append(f"-{unit}" if negated else unit)
        (unwanted if negated else wanted).append(unit)
    return " ".join(_between(every)), _between(wanted), " or ".join(unwanted)


def _between(units: list[str]) -> list[str]:
    """The units without an `or` that has nothing on one of its sides."""
    kept: list[str] = []
    for unit in units:
        if unit != "or" or (kept and kept[-1] != "or"):
            kept.append(unit)
    return kept[:-1] if kept and kept[-1] == "or" else kept
