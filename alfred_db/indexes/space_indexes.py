"""Another index for an embedding space, built while others read and write."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import text

from ..checks import one_of
from ..errors import ConflictError, InvalidInputError, shown, translated
from ..execution._sync.copy import table_name
from ..execution._sync.spaces import catalog_changes
from ..models import SpaceIndex, SpaceState
from ..models.spaces import BUILTIN
from ..queries import spaces as queries
from ..queries.shapes.spaces import Space, fitting_index, partition
from ..repositories import UnitOfWork
from . import reembedding
from .rebuilding import LOCK_TIMEOUT, memory_size, milliseconds, two_connections, watched
from .reembedding import SpaceDatabase, build_space, space_from
from .results import Progress

__all__ = ["build_index"]


def build_index(
    database: SpaceDatabase,
    space: str,
    index: SpaceIndex | str | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    maintenance_work_mem: str | None = None,
    lock_timeout: float = LOCK_TIMEOUT,
) -> SpaceIndex:
    """Build another index for a space while others read and write, and have searches use it.

    The new index is built beside the old one. Searches of other processes follow within five seconds; then the old one is
    dropped. A build that was broken off is begun again. An index that the space has already is not built; that of a space
    which is being filled is built for the first time.

    Args:
        database: The database, with the role that owns the tables and a direct connection.
        space: The space, not `builtin`.
        index: The kind of index; None keeps the kind of the space.
        progress: Called twice a second, in another thread.
        maintenance_work_mem: A size such as "2GB" that should hold the whole index.
        lock_timeout: Seconds to wait for other transactions.

    Returns:
        The kind of index that the space has.

    Raises:
        NotFoundError: The space does not exist.
        InvalidInputError: The space is `builtin`, or the index does not take vectors of its length.
        ConfigurationError: The role does not own the table, or the connection goes through a transaction pooler.
        ConflictError: The wait took longer than `lock_timeout`.
    """
    if space == BUILTIN:
        raise InvalidInputError(
            f"space {BUILTIN!r}: has the index of the models; create a space to choose another one"
        )
    settings = {"lock_timeout": f"{milliseconds(lock_timeout)}ms", "statement_timeout": "0"}
    if maintenance_work_mem is not None:
        settings["maintenance_work_mem"] = memory_size(maintenance_work_mem)
    with database.begin() as uow:
        found = uow.spaces.describe(space).space
        before, chosen = space_from(found), one_of(SpaceIndex, index or found.index)
        fitting_index(chosen, found.storage, found.dimensions)
        own = partition(before.kind, before.id)
        table = table_name(uow.session, own)
    if before.state is SpaceState.BUILDING:
        with database.begin() as uow:
            _set(uow, before, chosen)
        build_space(database, space)
        return chosen
    home, new = table.rpartition(".")[0], f"idx_{own.name}_new"
    named = {one: f"{home}.{one}" if home else one for one in (f"idx_{own.name}", new)}
    old = named[f"idx_{own.name}"]
    with translated(), two_connections(database.engine) as (worker, watcher):
        for name, value in settings.items():
            worker.execute(text(f"SET {name} = '{value}'"))
        built = bool(worker.scalar(reembedding.VALID, {"index": named[new]}))
        if before.index is not chosen:
            # What an attempt that was broken off has left may be of another kind.
            worker.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {named[new]}"))
            create = queries.create_index(table, new, replace(before, index=chosen), concurrently=True)
            built = create is not None
            if create is not None:
                with watched(worker, watcher, new, progress):
                    worker.execute(create)
            with database.begin() as uow:
                _set(uow, before, chosen)
            # Until then searches of other processes use the old one.
            time.sleep(reembedding.FOLLOWED)
        elif not built:
            worker.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {named[new]}"))
            if chosen is not SpaceIndex.NONE:
                return chosen
        worker.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {old}"))
        if built:
            worker.execute(text(f"ALTER INDEX {named[new]} RENAME TO idx_{own.name}"))
    return chosen


def _set(uow: UnitOfWork, space: Space, index: SpaceIndex) -> None:
    """Have searches use an index."""
    with translated():
        changed = uow.session.execute(queries.change(space.id, {"index": index})).first()
    if changed is None:
        raise ConflictError(f"space {shown(space.name)}: was dropped meanwhile; nothing is left to index")
    catalog_changes(uow.session)
