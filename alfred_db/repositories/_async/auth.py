"""Users: read from the library's own table, or from that of Supabase."""

from __future__ import annotations

import uuid

from ...execution._async.base import AsyncRepository
from ...models import User
from ...queries import auth as queries
from ...queries.shapes.paging import as_page
from ...values import Page


class AsyncUserRepository(AsyncRepository):
    """The users, which another service registers: nothing here writes. Passwords and tokens are never fetched."""

    async def get(self, user_id: uuid.UUID) -> User | None:
        """The user of that id, a deleted one too."""
        return await self._first(queries.get(user_id))

    async def get_by_email(self, email: str) -> User | None:
        """The user of that address who is not deleted; compared as it is stored, which is mostly in lower case."""
        return await self._first(queries.get_by_email(email))

    async def list(
        self, *, include_deleted: bool = False, after: str | None = None, limit: int = 100
    ) -> Page[User]:
        """The users by id, a page at a time."""
        rows = await self._all(queries.list_(include_deleted=include_deleted, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)
