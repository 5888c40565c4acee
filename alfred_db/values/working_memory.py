"""What working memory gives back when it is not a row."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

__all__ = ["SweptWorkingMemory"]


@dataclass(frozen=True, slots=True)
class SweptWorkingMemory:
    """A record that was removed, and where its blob is, if it had one."""

    id: uuid.UUID
    provider: str | None
    blob_key: str | None
