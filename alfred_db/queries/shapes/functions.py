"""SQL functions by name, qualified with pg_catalog.

    from .functions import func

    func.lower(column)  # pg_catalog.lower(column)

For an unqualified name PostgreSQL selects the function whose parameters fit best, from any schema of the
search_path. A function `public.unnest(text[])` of another user would be preferred to
`pg_catalog.unnest(anyarray)`, and would run with the rights of the caller. A qualified name is looked up only
in its schema.
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
"""Names that are syntax instead of functions, although they are written alike."""

TEXT_SEARCH = frozenset(
    {
        "phraseto_tsquery",
        "plainto_tsquery",
        "to_tsquery",
        "to_tsvector",
        "ts_headline",
        "websearch_to_tsquery",
    }
)
"""Functions that the dialect of SQLAlchemy renders without their schema."""

OF_EXTENSIONS = frozenset({"binary_quantize", "similarity", "vector_dims"})
"""Functions of extensions, which are in the schemas of the extensions."""


class _Catalog:
    """`sqlalchemy.func`, with pg_catalog as the schema of built-in functions."""

    def __getattr__(self, name: str) -> Any:
        return partial(_made, name)


def _made(name: str, *arguments: Any, **options: Any) -> Any:
    if name in TEXT_SEARCH:
        return Function(quoted_name(f"pg_catalog.{name}", False), *arguments, **options)
    made: Any = getattr(_any, name)(*arguments, **options)
    several = name == "unnest" and len(arguments) > 1  # syntax too: the parser adds the schema
    if not several and name.removesuffix("_") not in SYNTAX | OF_EXTENSIONS:
        made.packagenames = ("pg_catalog",)
    return made


func: _FunctionGenerator = _Catalog()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
