"""Memory banks: created by name, listed with the number of their memories."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ...checks import check_values, within
from ...errors import InvalidInputError
from ...execution._async.base import AsyncRepository
from ...execution._async.copy import table_name
from ...execution._async.driver import in_transaction, together
from ...execution.missing import not_found
from ...models import Memory, MemoryBank
from ...models.base import table_of
from ...queries import memory_banks as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.memories import MemoryBankSummary
from ...values.memory_banks import MemoryBankChanges


class AsyncMemoryBankRepository(AsyncRepository):
    """The banks in which memories are stored."""

    async def get_or_create(self, name: str, *, description: str | None = None) -> MemoryBank:
        """Return the bank with this name, and create it if it does not exist.

        The name is not unique in the table. Creating a bank locks the name until the transaction ends, so
        that concurrent calls wait and then find the bank. Of several banks that plain SQL has created, the
        oldest is returned.

        Args:
            name: Any text that is not empty.
            description: Replaces the description of an existing bank; None keeps it.

        Raises:
            NotFoundError: Another transaction has deleted the bank meanwhile.
        """
        if not name.strip():
            raise InvalidInputError("name: expected a text, got none; name the bank")

        async def create() -> MemoryBank | None:
            await self._rows(queries.lock(lock_key(self._session, f"bank {name}")))
            return await self.get_by_name(name) or await self._write(queries.add(name, description))

        bank: MemoryBank | None = await self.get_by_name(name)
        if bank is None:
            bank = await together(self._session, create, joins=True)
        assert bank is not None
        if description not in (None, bank.description):
            bank = await self.update(bank.id, {"description": description})
        return bank

    async def get(self, bank_id: int) -> MemoryBank | None:
        """Return the bank with this id."""
        return await self._first(queries.get(bank_id))

    async def get_by_name(self, name: str) -> MemoryBank | None:
        """Return the bank with this name; of several, the oldest."""
        return await self._first(queries.get_by_name(name))

    async def update(self, bank_id: int, values: MemoryBankChanges) -> MemoryBank:
        """Change attributes of a bank, by their names.

        Raises:
            NotFoundError: The bank does not exist.
        """
        bank = await self._write(queries.change(bank_id, check_values(MemoryBank, values)))
        if bank is None:
            raise not_found("memory bank", bank_id)
        return bank

    @in_transaction
    async def delete(self, bank: MemoryBank | int, *, limit: int | None = None) -> int:
        """Delete a bank and its memories.

        With a `limit`, call it and commit until it returns less: the last call deletes the bank, with what others
        have stored meanwhile.

        Args:
            bank: The bank or its id.
            limit: The maximum number of memories, 1 to 10,000. None deletes all in this transaction; for many, use
                `Database.in_chunks`.

        Returns:
            The number of memories deleted.

        Raises:
            NotFoundError: The bank does not exist.
        """
        bank_id = id_of(bank)
        # The row lock makes concurrent `remember` calls for this bank wait; they then raise NotFoundError.
        if await self._first(queries.hold(bank_id, for_removal=True)) is None:
            raise not_found("memory bank", bank_id)
        memories = await self._in_turns(limit, lambda left: queries.empty(bank_id, limit=left))
        if limit is None or len(memories) < limit:
            await self._write(queries.remove(bank_id))
        return len(memories)

    async def list(
        self, *, up_to: int | None = 1000, after: str | None = None, limit: int = 100
    ) -> Page[MemoryBankSummary]:
        """Return a page of the banks, by id, with the number of their memories.

        Args:
            up_to: Where the count of a bank stops, which `exact` of its summary reports; None counts all memories,
                which takes long for large banks.
            after: `next` of the previous page.
            limit: The maximum number of banks.
        """
        if up_to is not None:
            within("up_to", up_to, 1, 1_000_000)
        rows = await self._rows(queries.list_(up_to=up_to, after=after, limit=limit))
        return as_page([_summary(row, up_to) for row in rows], queries.LIST_KEY, limit)


def _summary(row: Any, up_to: int | None) -> MemoryBankSummary:
    stopped = up_to is not None and row.stored > up_to
    memories = up_to if up_to is not None and stopped else row.stored - row.expired
    return MemoryBankSummary(row.id, row.name, row.description, row.created_at, memories, not stopped)


def id_of(bank: MemoryBank | int) -> int:
    """Return the bank's id."""
    return bank if isinstance(bank, int) else bank.id


def lock_key(session: AsyncSession, name: str) -> int:
    """Return the key of an advisory lock, specific to this name and tenant."""
    table = table_name(session, table_of(Memory))
    digest = hashlib.sha256(f"alfred-db {table} {name}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], signed=True)
