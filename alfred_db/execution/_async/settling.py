"""What the end of tasks releases, and how workers and waiting callers learn of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession

from ...engine.session import state_of
from ...models import TaskStatus
from ...queries import task_releases, task_waits
from ...queries.shapes.driver_statement import Tenant
from .driver import bind_of, fetch, tenant_of

__all__ = [
    "complete",
    "is_awaited",
    "note_unawaited",
    "open_turns",
    "released",
    "requeued",
    "settle",
    "take_turns",
]

_awaited: WeakKeyDictionary[Engine, dict[Tenant, bool]] = WeakKeyDictionary()
"""Whose tasks have lately been waited for by others when they ended, and whether `complete_followed` suits the last."""


def is_awaited(session: AsyncSession) -> bool:
    """Return whether others waited for the task that ended last; the next one is then ended by `complete`."""
    return tenant_of(session) in _awaited.get(bind_of(session).engine, ())


def note_unawaited(session: AsyncSession) -> None:
    """Remember that nothing waited for the task that ended last."""
    _awaited.get(bind_of(session).engine, dict[Tenant, bool]()).pop(tenant_of(session), None)


async def complete(session: AsyncSession, id: uuid.UUID, token: uuid.UUID) -> bool:
    """Complete a task and release what waits for it, in one statement; return whether it was.

    It was not if the task is not held, or if something was made to wait for it since the statement began.
    It is right for any task. Where nothing waits, `AsyncLeases.complete` is faster; where something does, it needs two statements.
    """
    held, followed = {"id": id, "token": token}, _awaited.setdefault(bind_of(session).engine, {})
    rows: Sequence[Sequence[Any]] = ()
    if followed.get(tenant := tenant_of(session)):
        rows = await fetch(session, task_releases.complete_followed(), held)
    rows = rows or await fetch(session, task_releases.complete(), held)
    if not rows:
        return False
    _, awaited_by, is_released, followed[tenant] = rows[0][:4]
    if not awaited_by:
        note_unawaited(session)
    elif is_released:
        state_of(session).ended.add(id)
        if ids := await released(session, [row[4:] for row in rows if row[4] is not None]):
            await settle(session, ids)
    else:
        await settle(session, [id])
    return True


async def settle(session: AsyncSession, ended: Iterable[uuid.UUID], *, late: bool = False) -> None:
    """Release what waited for tasks that have just ended, in the transaction that has ended them.

    A task that is cancelled because a dependency failed ends too, so that this goes on until nothing more ends.

    Args:
        session: The session that has ended them.
        ended: The tasks, each once for each end.
        late: Whether they had ended before something was made to wait for them.
    """
    ids = sorted(ended)
    if ids:
        _awaited.setdefault(bind_of(session).engine, {}).setdefault(tenant_of(session), False)
    while ids:
        if not late:
            state_of(session).ended.update(ids)
        rows = await fetch(session, task_releases.settle(late=late), {"ids": ids})
        ids, late = sorted(await released(session, rows)), False


async def open_turns(session: AsyncSession, keys: Iterable[str]) -> None:
    """Open the next task of each ordering key whose turn nobody has."""
    left = sorted(set(keys))
    while left:
        rows = await fetch(session, task_releases.open_turns(), {"keys": left})
        left = sorted(_announced(session, rows)[1])


async def take_turns(session: AsyncSession, keys: Iterable[str]) -> set[str]:
    """Return which of these ordering keys have a task that has not ended; it cannot end in this transaction."""
    taken: set[str] = set()
    left = sorted(set(keys))
    while left:
        rows = await fetch(session, task_waits.mark_keys(), {"keys": left})
        taken |= {key for key, marked in rows if marked}
        left = [key for key, marked in rows if not marked]
    return taken


async def requeued(
    session: AsyncSession, tasks: Sequence[tuple[uuid.UUID, str | None, uuid.UUID | None]]
) -> None:
    """Have tasks that were requeued take their places again.

    Args:
        session: The session that has requeued them.
        tasks: The id, the ordering key and the batch of each.
    """
    if keys := {key for _, key, _ in tasks if key is not None}:
        await take_turns(session, keys)
        await open_turns(session, keys)
    if parts := [id for id, _, batch in tasks if batch is not None]:
        await fetch(session, task_waits.wait_again(), {"ids": parts})


async def released(session: AsyncSession, rows: Sequence[Sequence[Any]]) -> list[uuid.UUID]:
    """Announce the tasks that can be claimed now; return those that were cancelled and have to be settled."""
    doomed, keys = _announced(session, rows)
    await open_turns(session, keys)
    return doomed


def _announced(session: AsyncSession, rows: Sequence[Sequence[Any]]) -> tuple[list[uuid.UUID], set[str]]:
    doomed: list[uuid.UUID] = []
    keys: set[str] = set()
    state = state_of(session)
    for id, status, free, queue, intent, awaited_by, key in rows:
        if status is None:
            keys.add(key)
        elif free:
            state.enqueued.add((queue, intent))
        elif status == TaskStatus.CANCELLED and awaited_by:
            doomed.append(id)
    return doomed, keys
