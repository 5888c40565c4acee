"""Example calls of the statements of vector searches."""

from __future__ import annotations

from unit.examples import Call, call

from alfred_db import Document

NEAR = [[0.4711] * 384, [0.4712] * 384]
TITLED = Document.title == "title-4711"

EXAMPLES: dict[str, list[Call]] = {
    "extension": [call("extension-4711")],
    "nearest": [call(Document, 471)],
    "nearest_each": [call(Document, NEAR, 471, None), call(Document, NEAR, 471, TITLED)],
    "rows_of": [call(Document, [4711, 4712], None), call(Document, [4711], TITLED)],
    "sample": [call(Document, TITLED, 4.711)],
    "table_size": [call("table-4711")],
}
