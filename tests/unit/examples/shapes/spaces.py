"""Example calls of the statements that search in embedding spaces."""

from __future__ import annotations

from unit.examples import Call, call
from unit.examples.spaces import SPACES, VECTOR

from alfred_db import Document, Memory

TITLED = Document.title == "title-4711"
SHORT = Memory.content == "content-4711"
OF_DOCUMENTS = [SPACES[0], *SPACES[2:]]

EXAMPLES: dict[str, list[Call]] = {
    "nearest": [call(Document, one, 471, 472) for one in OF_DOCUMENTS],
    "nearest_within": [
        *(call(Document, one, 471, 472, TITLED, max_distance=None, exact=False) for one in OF_DOCUMENTS),
        call(Memory, SPACES[1], 471, 472, SHORT, max_distance=None, exact=False, only_keys=True),
        call(Memory, SPACES[1], 471, 472, SHORT, max_distance=0.4711, exact=True),
        call(Document, SPACES[0], 471, 472, None, max_distance=None, exact=True),
    ],
    "nearest_each": [
        call(Document, SPACES[0], [VECTOR, VECTOR], 471, 472, None),
        call(Document, SPACES[3], [VECTOR], 471, 472, TITLED),
        call(Document, SPACES[4], [VECTOR], 471, 472, TITLED),
    ],
}
