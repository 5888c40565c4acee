"""SQL functions by name, always PostgreSQL's own.

    from ._functions import func
    func.lower(column)  # pg_catalog.lower(column)

PostgreSQL takes the function whose parameters fit best, from any schema of the search_path: `public.unnest(text[])`
of somebody who may create there would win over `pg_catalog.unnest(anyarray)`, and run with the caller's rights. A name
with its schema is looked up nowhere else.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Function
from sqlalchemy import func as _any
from sqlalchemy.sql import quoted_name

if TYPE_CHECKING:
    from sqlalchemy.sql.functions import _FunctionGenerator  # pyright: ignore[reportPrivateUsage]

__all__ = ["func"]

SYNTAX = frozenset({"all", "any", "array", "bernoulli", "coalesce", "greatest", "least", "nullif", "system"})
"""What is no function, though it is written as one."""

TEXT_SEARCH = frozenset({"to_tsvector", "ts_headline", "websearch_to_tsquery"})
"""Functions that SQLAlchemy's dialect renders by their names alone."""

OF_EXTENSIONS = frozenset({"similarity", "vector_dims"})
"""Functions of extensions, in the schemas of these."""


class _Catalog:
    """`sqlalchemy.func`, with the schema of the functions that PostgreSQL itself has."""

    def __getattr__(self, name: str) -> Any:
        return partial(_made, name)


def _made(name: str, *arguments: Any, **options: Any) -> Any:
    if name in TEXT_SEARCH:
        return Function(quoted_name(f"pg_catalog.{name}", False), *arguments, **options)
    made: Any = getattr(_any, name)(*arguments, **options)
    several = name == "unnest" and len(arguments) > 1  # which is syntax, too: the parser names the schema
    if not several and name.removesuffix("_") not in SYNTAX | OF_EXTENSIONS:
        made.packagenames = ("pg_catalog",)
    return made


func: _FunctionGenerator = _Catalog()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
