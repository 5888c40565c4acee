"""Example calls of the statistics of a text index."""

from __future__ import annotations

from unit.examples import Call, call

from alfred_db import Document
from alfred_db.models.base import table_of

SEARCH = table_of(Document).c.search

EXAMPLES: dict[str, list[Call]] = {
    "text_statistics": [
        call(Document, SEARCH, None, 4.711),
        call(Document, SEARCH, Document.title == "title-4711", 4.711),
    ],
}
