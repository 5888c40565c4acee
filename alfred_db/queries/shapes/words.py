"""Words of a full-text search: quoted phrases, `or`, and `-` before an excluded word.

`websearch_to_tsquery` of PostgreSQL reads `cats or -dogs` as "cats, or anything without dogs", and a dash
between spaces as a negation of the next word. Here an excluded word is a condition on the results of the
other words and finds nothing alone; a separate dash is ignored.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from sqlalchemy import ColumnElement, bindparam, case, cast, literal_column
from sqlalchemy.dialects.postgresql import REGCONFIG, TSQUERY

from ...types import Text
from .functions import func

Match = Literal["all", "any"]

LANGUAGE = "english"
"""The text search configuration of the stored text indexes."""

_UNIT = re.compile(r'(?P<before>[\s!&|()-]*)(?P<unit>"[^"]*"?|[^\s"!&|()]+)')
"""A phrase or a word, with the white space, operators and dashes before it."""


def parameters(text: str, match: Match) -> dict[str, Any]:
    """Return the parameters of `tsquery` and of the terms for a text.

    `words` are those outside of quotation marks, and `phrases` those inside.
    """
    every, wanted, unwanted = _read(text)
    units = [unit for unit in wanted if unit != "or"]
    given: dict[str, Any] = {
        "words": " ".join(unit for unit in units if not unit.startswith('"')),
        "phrases": [unit.strip('"') for unit in units if unit.startswith('"')],
        "unwanted": unwanted,
    }
    return given if match == "any" else {**given, "every": every, "wanted": " ".join(wanted)}


def tsquery(language: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the query for all words, without the excluded ones."""

    def read(name: str) -> Any:
        return func.websearch_to_tsquery(language, bindparam(name, type_=Text), type_=TSQUERY)

    wanted, excluded = read("wanted"), func.tsquery_not(read("unwanted"), type_=TSQUERY)
    both = func.tsquery_and(wanted, excluded, type_=TSQUERY)
    limited = case((func.numnode(wanted) == literal_column("0"), wanted), else_=both)
    # Empty or T: the query is true for rows without any of the words, and an index cannot serve it.
    every = read("every")
    return case((func.length(func.querytree(every)) < literal_column("2"), limited), else_=every)


def bound_language() -> ColumnElement[Any]:
    """Return the text search configuration of the parameter `language`."""
    return cast(bindparam("language", type_=Text), REGCONFIG)


def _read(text: str) -> tuple[str, list[str], str]:
    """Return all units, the wanted ones, and the excluded ones; `or` is kept only between two other units."""
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
    """Return the units without each `or` that is first, last or repeated."""
    kept: list[str] = []
    for unit in units:
        if unit != "or" or (kept and kept[-1] != "or"):
            kept.append(unit)
    return kept[:-1] if kept and kept[-1] == "or" else kept
