"""Maintenance of the vector indexes beside running work, and indexes of fields in JSON columns.

with db.engine.connect() as connection:
    for index in status(connection): ...      # reads the catalog only
rebuild(db.engine)                             # the invalid indexes, or the one that is named
recall(db.engine, Document, target=0.95).ef    # smallest hnsw.ef_search that is good enough
advise(db.engine, "documents").best            # the kind of index that meets a recall in the least time
add_field(db.engine, "documents.metadata.year")  # an index for the range filter of a field
"""

from __future__ import annotations

from .advising import advise
from .catalog import status
from .fields import add_field, drop_field, field_indexes
from .measuring import EF, recall
from .rebuilding import LOCK_TIMEOUT, rebuild
from .reembedding import Embedder, SpaceDatabase, build_space, reembed, space_recall, switch_space
from .results import (
    EfRecall,
    FieldIndex,
    IndexAdvice,
    IndexState,
    IndexStatus,
    MeasuredIndex,
    Progress,
    Rebuilt,
    RecallReport,
)
from .space_indexes import build_index

__all__ = [
    "EF",
    "LOCK_TIMEOUT",
    "EfRecall",
    "Embedder",
    "FieldIndex",
    "IndexAdvice",
    "IndexState",
    "IndexStatus",
    "MeasuredIndex",
    "Progress",
    "Rebuilt",
    "RecallReport",
    "SpaceDatabase",
    "add_field",
    "advise",
    "build_index",
    "build_space",
    "drop_field",
    "field_indexes",
    "rebuild",
    "recall",
    "reembed",
    "space_recall",
    "status",
    "switch_space",
]
