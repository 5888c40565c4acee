"""Example calls of the statements of bulk writes."""

from __future__ import annotations

from unit.examples import Call, Name, call

from alfred_db import Document, Memory
from alfred_db.models.base import table_of

DOCUMENTS, MEMORIES = table_of(Document), table_of(Memory)
STAGE = Name("stage_4711")
WRITTEN = [DOCUMENTS.c[name] for name in ("id", "external_id", "title", "content", "embedding", "metadata")]
REMEMBERED = [MEMORIES.c[name] for name in ("memory_bank_id", "content", "embedding")]

EXAMPLES: dict[str, list[Call]] = {
    "create_stage": [call(STAGE, Name("documents"), WRITTEN)],
    "merge": [
        call(DOCUMENTS, STAGE, WRITTEN, [DOCUMENTS.c.external_id], Name("update")),
        call(DOCUMENTS, STAGE, WRITTEN, [DOCUMENTS.c.external_id], Name("ignore")),
        call(MEMORIES, STAGE, REMEMBERED, [MEMORIES.c.id], Name("update")),
    ],
    "upsert": [
        call(DOCUMENTS, WRITTEN, [DOCUMENTS.c.external_id], Name("update")),
        call(DOCUMENTS, WRITTEN, [DOCUMENTS.c.external_id], Name("ignore")),
    ],
    "ids_of": [call(DOCUMENTS, DOCUMENTS.c.external_id, ["key-4711", None])],
    "merged_ids": [call(DOCUMENTS, STAGE, WRITTEN, DOCUMENTS.c.external_id)],
    "analyze": [call(Name("documents"))],
}
