"""What the parts of the knowledge repository share: a collection and its partition, by name or alias."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from sqlalchemy import Engine

from ...execution._async.base import AsyncRepository
from ...execution._async.driver import bind_of, fetch_rows, tenant_of
from ...execution.missing import not_found
from ...models import KnowledgeCollection
from ...queries import knowledge_collections as queries
from ...queries.shapes.driver_statement import Tenant
from ...queries.shapes.knowledge import partition, partition_if
from ...queries.shapes.vector_search import Partition

_resolved: WeakKeyDictionary[Engine, dict[tuple[Tenant, str], Partition]] = WeakKeyDictionary()


class AsyncKnowledgeBase(AsyncRepository):
    """Finds collections for the parts of the knowledge repository."""

    async def _collection(self, name: str) -> KnowledgeCollection:
        found = await self._first(queries.find(name))
        if found is None:
            raise not_found("collection", name)
        return found

    async def _named(self, name: str) -> KnowledgeCollection | None:
        """Return the collection with this name, which is not an alias."""
        found = await self._first(queries.find(name))
        return found if found is not None and found.name == name else None

    async def _partition(self, name: str, *, hold: bool = False) -> Partition:
        """Return the partition of the collection; `hold` keeps it from being dropped."""
        rows = await fetch_rows(self._session, queries.resolve(hold=hold), {"name": name}, locks=hold)
        if not rows:
            raise not_found("collection", name)
        known = _resolved.setdefault(bind_of(self._session).engine, {})
        if len(known) > 1000:
            known.clear()
        known[tenant_of(self._session), name] = partition_if(name, *rows[0])
        return partition(*rows[0])

    def _known_partition(self, name: str) -> Partition | None:
        """Return what `_partition` last returned for the name; searching it finds nothing if that has changed."""
        return _resolved.get(bind_of(self._session).engine, {}).get((tenant_of(self._session), name))

    async def _name(self, name: str) -> str:
        """Return the name of the collection that has this name or alias."""
        return str((await self._partition(name)).parameters["collection"])
