"""Memory banks: found or made by name, listed with what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import check_values
from ...errors import InvalidInputError, NotFoundError
from ...execution._async.base import AsyncRepository
from ...execution._async.copy import table_name
from ...models import Memory, MemoryBank
from ...models.base import table_of
from ...queries import memory_banks as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.memories import MemoryBankSummary


class AsyncMemoryBankRepository(AsyncRepository):
    """The banks that memories are kept in."""

    async def get_or_create(self, name: str, *, description: str | None = None) -> MemoryBank:
        """Return the bank of that name, and create it if it does not exist.

        The name is not unique in the table. Who creates a bank holds the name's advisory lock until the end of
        the transaction, so that others wait and then find it; of several that plain SQL made, the oldest is returned.

        Args:
            name: Any text that is not empty.
            description: Replaces the description of an existing bank; None keeps it.
        """
        if not name.strip():
            raise InvalidInputError("name: expected a text, got none; name the bank")
        if (bank := await self.get_by_name(name)) is None:
            await self._rows(queries.lock(lock_key(self._session, f"bank {name}")))
            bank = await self.get_by_name(name) or await self._write(queries.add(name, description))
        assert bank is not None
        if description not in (None, bank.description):
            bank = await self.update(bank.id, {"description": description})
        return bank

    async def get(self, bank_id: int) -> MemoryBank | None:
        """The bank of that id."""
        return await self._first(queries.get(bank_id))

    async def get_by_name(self, name: str) -> MemoryBank | None:
        """The bank of that name; of several, the oldest."""
        return await self._first(queries.get_by_name(name))

    async def update(self, bank_id: int, values: Mapping[str, Any]) -> MemoryBank:
        """Change attributes of a bank, by their names; raises NotFoundError."""
        check_values(MemoryBank, values)
        bank = await self._write(queries.change(bank_id, values))
        if bank is None:
            raise unknown_bank(bank_id)
        return bank

    async def delete(self, bank: MemoryBank | int) -> int:
        """Remove a bank and its memories; gives the number of these. Raises NotFoundError."""
        bank_id = id_of(bank)
        # Whoever is about to remember something in it waits, and is told that it is gone.
        if await self._first(queries.hold(bank_id, for_removal=True)) is None:
            raise unknown_bank(bank_id)
        memories = await self._rows(queries.empty(bank_id))
        await self._write(queries.remove(bank_id))
        return len(memories)

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page[MemoryBankSummary]:
        """The banks by id with the number of their memories, a page at a time."""
        rows = await self._rows(queries.list_(after=after, limit=limit))
        return as_page(
            [
                MemoryBankSummary(row.id, row.name, row.description, row.created_at, row.memories)
                for row in rows
            ],
            queries.LIST_KEY,
            limit,
        )


def id_of(bank: MemoryBank | int) -> int:
    """The bank's id, however the caller names it."""
    return bank if isinstance(bank, int) else bank.id


def unknown_bank(bank_id: int) -> NotFoundError:
    """The error for a bank that is not there."""
    return NotFoundError(f"memory bank {bank_id}: does not exist; make it with get_or_create")


def lock_key(session: AsyncSession, name: str) -> int:
    """The number of an advisory lock: one for each name in each tenant."""
    table = table_name(session, table_of(Memory))
    digest = hashlib.sha256(f"alfred-db {table} {name}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], signed=True)
