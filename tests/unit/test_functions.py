"""Functions in statements are those of PostgreSQL, whatever another user has made with their names."""

from __future__ import annotations

from sqlalchemy import literal_column, select
from sqlalchemy.dialects.postgresql import ext
from unit.rules import DIALECT

from alfred_db.queries.shapes.functions import func


def test_functions_of_text_search_have_their_schema() -> None:
    """The dialect of SQLAlchemy knows them, and would leave the schema out."""
    known = [
        name for name, one in vars(ext).items() if isinstance(one, type) and ("_ts" in name or "ts_" in name)
    ]
    assert {"to_tsvector", "phraseto_tsquery", "plainto_tsquery", "to_tsquery"} <= set(known)
    for name in known:
        made = getattr(func, name)(literal_column("'english'::regconfig"), literal_column("'x'"))
        assert f"pg_catalog.{name}(" in str(select(made).compile(dialect=DIALECT)), name
