"""The terms of a question, how rare each is among the searched rows, and the score of a text (BM25).

A term is a lexeme of an unquoted word, or a quoted phrase. The score of a text is the sum over its terms of

    rarity * (K1 + 1) * f / (f + K1 * (1 - B + B * length / average length))

where rarity = ln((rows + 1) / (rows with the term + 0.5)), f is how often the text has the term, and the length of a text
is its number of different lexemes (Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    ScalarSelect,
    bindparam,
    case,
    cast,
    column,
    literal_column,
    null,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSQUERY

from ...types import Text
from .functions import func
from .literals import materialized, number
from .words import Match, tsquery

K1, B = 0.8, 0.75
"""Saturation, and influence of the length; lengths count different lexemes, so that K1 is less than the usual 1.2."""

MOST_TERMS = 100
"""The terms of a question that are counted; of more the longest, since long words are rare."""

SCORED_TERMS = 32
"""The terms of a question that count in the score; of more the rarest."""

COUNTED = 3_000
"""How many rows with a term are counted in a table; if there are more, the term is taken to have as many."""

LEAST_SCORED, ENOUGH = 50, 500
"""Rows of a table that are scored: those with the rarest terms, until there are `LEAST_SCORED`, and with more terms up to `ENOUGH`."""

MOST_SCORED = 5_000
"""The most rows of a table that are scored, where even the rarest term has more."""

_TITLE = 1.25
"""The weight of an occurrence in a title (weight A of a tsvector); one alone counts as two of the content."""

_ALL = 1.64493406685
"""The sum of 1/i^2 for all i, by which ts_rank divides the same sum over the occurrences."""


def float8(value: float) -> ColumnElement[float]:
    """Return a number as a literal of type double precision."""
    return literal_column(f"{value!r}::float8", Double)


def matches(search: ColumnElement[Any], query: Any) -> ColumnElement[bool]:
    """Return the condition that a text matches a query."""
    return search.op("@@", is_comparison=True)(query)


def given_terms(language: ColumnElement[Any]) -> CTE:
    """Select the terms of the parameters `words` and `phrases`; the lexeme of a phrase is NULL."""
    lexemes = func.tsvector_to_array(func.to_tsvector(language, bindparam("words", type_=Text)))
    each = func.unnest(lexemes).table_valued(column("lexeme", Text), name="each").render_derived()
    longest = (
        select(each.c.lexeme, _query_of(each.c.lexeme).label("query"))
        .order_by(func.char_length(each.c.lexeme).desc(), each.c.lexeme)
        .limit(number(MOST_TERMS))
        .subquery("longest")
    )
    phrases = bindparam("phrases", type_=ARRAY(Text))
    quoted = func.unnest(phrases).table_valued(column("phrase", Text), name="quoted").render_derived()
    query = func.phraseto_tsquery(language, quoted.c.phrase, type_=TSQUERY)
    whole = select(cast(null(), Text), query).where(func.numnode(query) > number(0))
    return materialized(union_all(select(longest.c.lexeme, longest.c.query), whole), "given")


def counted_in(
    given: CTE, search: ColumnElement[Any], rows: FromClause, where: ColumnElement[bool] | None
) -> CTE:
    """Select the terms, each with the number of rows that have it.

    A term that the parameter `common` names has the share that it states of the parameter `rows`. The rows of all others are
    counted with the index. `common` is a JSON object as text, which is read once: the driver would write an array of words,
    and another of numbers, element by element in each call.
    """
    one: ColumnElement[int] = literal_column("1", Integer)
    found = select(one).select_from(rows).where(matches(search, given.c.query))
    found = found if where is None else found.where(where)
    some = found.correlate(given).limit(number(COUNTED)).subquery("some")
    common = select(cast(bindparam("common", type_=Text), JSONB)).scalar_subquery()
    frequency = cast(func.jsonb_object_field_text(common, given.c.lexeme, type_=Text), Double)
    counted = select(func.count()).select_from(some).correlate(given).scalar_subquery()
    expected = frequency * bindparam("rows", type_=Double)
    n = func.coalesce(expected, cast(counted, Double), type_=Double).label("n")
    return materialized(select(given.c.query, n), "counted")


def counted_among(given: CTE, search: ColumnElement[Any], rows: CTE) -> CTE:
    """Select the terms, each with the number of rows of a CTE that have it."""
    n = select(func.count()).select_from(rows).where(matches(search, given.c.query)).correlate(given)
    return materialized(select(given.c.query, cast(n.scalar_subquery(), Double).label("n")), "counted")


def rated(counted: CTE, rows: ColumnElement[float]) -> CTE:
    """Select the terms, the rarest first: how rare each is, and whether its rows are scored.

    Terms that no row has are the last.
    """
    order = (counted.c.n == float8(0.0), counted.c.n, counted.c.query)
    so_far = func.sum(counted.c.n).over(order_by=order, rows=(None, 0))
    # At least as many rows as have the commonest term: `rows` may be an estimate of a time with fewer.
    all_rows = func.greatest(rows, func.max(counted.c.n).over(), type_=Double)
    terms = select(
        counted.c.query,
        (func.numnode(counted.c.query) == number(1)).label("single"),
        func.ln((all_rows + float8(1.0)) / (counted.c.n + float8(0.5)), type_=Double).label("rarity"),
        (so_far - counted.c.n).label("before"),
        so_far.label("so_far"),
        func.row_number().over(order_by=order).label("place"),
    )
    return materialized(terms, "terms")


def best_score(terms: CTE) -> ScalarSelect[float]:
    """Return about the score of a text of average length that has each term once."""
    return select(func.sum(terms.c.rarity, type_=Double)).scalar_subquery()


def asked(terms: CTE, language: ColumnElement[Any], match: Match, *, some: bool) -> CTE:
    """Select the query of the rows that are scored, `found`, and that of the excluded words, `unwanted`.

    Without a term, `found` is NULL, which no row matches.

    Args:
        terms: What `rated` returns.
        language: The text search configuration.
        match: Whether any or all of the words must occur.
        some: Whether rows with any of the words are left out that have common ones only.
    """
    unwanted = func.websearch_to_tsquery(language, bindparam("unwanted", type_=Text), type_=TSQUERY)
    if match == "all":
        return materialized(select(tsquery(language).label("found"), unwanted.label("unwanted")), "asked")
    each: Any = func.string_agg(cast(terms.c.query, Text), literal_column("' | '", Text))
    if some:
        each = each.filter(
            or_(terms.c.before < float8(LEAST_SCORED), terms.c.so_far <= float8(ENOUGH)),
        )
    # Without an excluded word its query is empty, and the other one stays unchanged.
    found = func.tsquery_and(cast(each, TSQUERY), func.tsquery_not(unwanted), type_=TSQUERY)
    return materialized(select(found.label("found"), unwanted.label("unwanted")).select_from(terms), "asked")


def wanted(search: ColumnElement[Any], asked: CTE) -> ColumnElement[bool]:
    """Return the condition that a text has none of the excluded words."""
    unwanted = select(asked.c.unwanted).scalar_subquery()
    return or_(func.numnode(unwanted) == number(0), ~matches(search, unwanted))


def text_score(
    search: ColumnElement[Any], of: FromClause, terms: CTE, average: ColumnElement[float]
) -> ScalarSelect[float]:
    """Return the score of a text of `of`; NULL if it has none of the terms.

    ts_rank returns sum(1/i^2) / (pi^2/6) for i up to the number of occurrences, from which the number is computed: the
    rest of the sum is about 1 / (number + 0.5). That is faster than taking a tsvector apart.
    """
    least, full = 1 / _TITLE, float8(0.996)
    weights: ColumnElement[Any] = literal_column(f"'{{{least},{least},{least},1}}'::real[]")
    rank = cast(func.ts_rank(weights, search, terms.c.query), Double) * float8(_TITLE)
    occurring = (
        select(terms.c.rarity, terms.c.single, rank.label("rank"))
        .where(terms.c.place <= number(SCORED_TERMS))
        .correlate(of)
        .offset(number(0))
        .subquery("occurring")
    )
    rest = float8(_ALL) * (float8(1.0) - func.least(occurring.c.rank, full, type_=Double))
    f = case((occurring.c.single, float8(1.0) / rest - float8(0.5)), else_=float8(1.0))
    length = float8(1 - B) + float8(B) * cast(func.length(search), Double) / average
    score = occurring.c.rarity * float8(K1 + 1) * f / (f + float8(K1) * length)
    return select(func.sum(score)).where(occurring.c.rank > float8(0.0)).correlate(of).scalar_subquery()


def _query_of(lexeme: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the query for a lexeme, which is data and may hold any character."""
    quote, slash = literal_column("''''", Text), func.chr(number(92), type_=Text)
    twice = func.replace(lexeme, slash, func.repeat(slash, number(2)))
    text = func.replace(twice, quote, func.repeat(quote, number(2)))
    return cast(func.textcat(func.textcat(quote, text, type_=Text), quote, type_=Text), TSQUERY)
