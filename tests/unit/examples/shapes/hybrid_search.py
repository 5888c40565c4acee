"""Example calls of the statements of hybrid searches."""

from __future__ import annotations

from unit.examples import Call, call

from alfred_db import Document
from alfred_db.models.base import table_of
from alfred_db.queries.shapes.hybrid_search import Legs

COLUMNS = table_of(Document).c
TITLED = Document.title == "title-4711"
ALL = Legs(Document, COLUMNS.search, trigram=COLUMNS.title, match="all", fusion="ranks")
ANY = Legs(Document, COLUMNS.search)
WORDS = Legs(Document, COLUMNS.search, vector=False)

EXAMPLES: dict[str, list[Call]] = {
    "hybrid": [
        call(ANY, None, limit=471, candidates=472, whole=False),
        call(ALL, None, limit=471, candidates=472, whole=False, exact=True),
        call(WORDS, TITLED, limit=471, candidates=472, whole=True),
    ],
    "hybrid_where": [
        call(ANY, TITLED, limit=471, candidates=472, whole=True),
        call(ALL, TITLED, limit=471, candidates=472, whole=False),
    ],
}
