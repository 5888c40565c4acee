"""Arguments of the repository of memory banks."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

__all__ = ["MemoryBankChanges"]


class MemoryBankChanges(TypedDict, total=False):
    """The attributes of a memory bank that `update` can set; the others stay."""

    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime
