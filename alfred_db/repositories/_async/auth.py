"""Users: read from the library's table, or from that of Supabase."""

from __future__ import annotations

import uuid

from ...execution._async.base import AsyncRepository
from ...models import User
from ...queries import auth as queries
from ...queries.shapes.paging import as_page
from ...values import Page


class AsyncUserRepository(AsyncRepository):
    """The users, which another service registers.

    The repository writes nothing, and never reads passwords or tokens.
    """

    async def get(self, user_id: uuid.UUID) -> User | None:
        """Return the user with this id, also a deleted one."""
        return await self._first(queries.get(user_id))

    async def get_by_email(self, email: str) -> User | None:
        """Return the user with this address who is not deleted.

        The address is compared with the stored one, which is usually in lower case.
        """
        return await self._first(queries.get_by_email(email))

    async def list(
        self, *, include_deleted: bool = False, after: str | None = None, limit: int = 100
    ) -> Page[User]:
        """Return a page of the users, by id."""
        rows = await self._all(queries.list_(include_deleted=include_deleted, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)
