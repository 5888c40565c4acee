"""What the parts of the memory repository share."""

from __future__ import annotations

from collections.abc import Sized
from datetime import timedelta

from ...execution._async.base import AsyncRepository
from ...execution.missing import not_found
from ...models import MemoryBank
from ...queries import memory_banks
from .memory_banks import id_of

HALF_LIFE = timedelta(days=30)
"""The time without use after which a memory counts half as recent."""

NEAR = 0.08
"""Cosine distance up to which two texts are taken to mean the same; calibrate it for the embedding model."""


class AsyncMemoryBase(AsyncRepository):
    """Checks banks for the parts of the memory repository."""

    async def _known(self, bank: MemoryBank | int, found: Sized) -> None:
        """Distinguish an empty bank from an unknown one, which raises NotFoundError."""
        if not len(found) and await self._first(memory_banks.get(id_of(bank))) is None:
            raise not_found("memory bank", id_of(bank))
