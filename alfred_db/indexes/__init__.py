"""Maintenance of the vector indexes: their state, recall, and rebuilding beside running work.

with db.engine.connect() as connection:
    for index in status(connection): ...      # reads the catalog only
rebuild(db.engine)                             # the invalid indexes, or the one that is named
recall(db.engine, Document, target=0.95).ef    # smallest hnsw.ef_search that is good enough
"""

from __future__ import annotations

from .catalog import status
from .measuring import EF, recall
from .rebuilding import LOCK_TIMEOUT, rebuild
from .results import EfRecall, IndexState, IndexStatus, Progress, Rebuilt, RecallReport

__all__ = [
    "EF",
    "LOCK_TIMEOUT",
    "EfRecall",
    "IndexState",
    "IndexStatus",
    "Progress",
    "Rebuilt",
    "RecallReport",
    "rebuild",
    "recall",
    "status",
]
