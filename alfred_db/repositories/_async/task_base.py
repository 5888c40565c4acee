"""How tasks are inserted, one by one, in one statement or by COPY, and made to wait for each other."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ...engine.session import state_of
from ...errors import ConfigurationError, ConflictError, InvalidTransition
from ...execution._async.base import AsyncRepository
from ...execution._async.copy import copy_rows
from ...execution._async.driver import affected, commits_alone, fetch
from ...execution._async.settling import open_turns, settle, take_turns
from ...models import Task, TaskStatus
from ...models.base import table_of
from ...models.tasks import WAITING
from ...queries import task_waits
from ...queries import tasks as queries
from ...values.task_columns import as_text, at, columns_of, firsts, keys_at, named
from ...values.task_waits import Reference, add_waits, asked, references, set_turns, waits
from ...values.tasks import NewTask

COPIED = 1000
"""More tasks than this are enqueued by COPY."""

ATTEMPTS = 5
ORDERED_ATTEMPTS = 50
"""The same with an ordering key: each task of the key that ends meanwhile is a reason for another attempt."""

_columns = table_of(Task).c

Filed = list[tuple[uuid.UUID, bool]]


class AsyncTaskBase(AsyncRepository):
    """What the parts of the task repository that enqueue tasks share."""

    async def _file(
        self,
        tasks: Sequence[NewTask],
        *,
        batch: uuid.UUID | None = None,
        awaited: bool = False,
        held: int = 0,
    ) -> Filed:
        """Insert tasks; return for each, in order, its `id` and whether this call created it.

        Args:
            tasks: The tasks.
            batch: The batch that they are part of.
            awaited: Whether a task waits for the batch.
            held: How many tasks of its batch each of them waits for.
        """
        if not tasks:
            return []
        alone = await commits_alone(self._session)
        copied = len(tasks) > COPIED and not alone
        columns = columns_of(tasks, every=not copied)
        if batch is None and not held and not waits(tasks):
            return (await self._inserted(columns, tasks, copied=copied))[0]
        if alone:
            raise ConfigurationError(
                "enqueue: tasks that wait for others need several statements, and the connection is in AUTOCOMMIT; use a"
                " session without that isolation level, such as that of `db.begin()`"
            )
        after = await self._references(tasks)
        add_waits(columns, after, batch=batch, awaited=awaited, held=held)
        filed, opened = await self._inserted(columns, tasks, copied=copied)
        if existing := [key for key, place in opened.items() if not filed[place][1]]:
            await open_turns(self._session, existing)  # others of the call wait for a turn that nobody has
        await self._wait_after(tasks, after, filed)
        return filed

    async def _inserted(
        self, columns: dict[str, list[Any]], tasks: Sequence[NewTask], *, copied: bool
    ) -> tuple[Filed, Mapping[str, int]]:
        """Insert the rows of tasks; also return the first task of each ordering key that had none."""
        ids: list[uuid.UUID] = columns["id"]
        parents: Sequence[uuid.UUID | None] = columns.get("parent_task_id", [None] * len(ids))
        left: Sequence[int] = range(len(ids))
        created: set[int] = set()
        standing: dict[int, uuid.UUID] = {}
        opened: dict[str, int] = {}
        ordered = "awaits_turn" in columns and any(columns["ordering_key"])
        # Of more than that the kinds are not collected, and every worker is woken.
        kinds = [None] if copied else zip(columns["queue"], columns["intent"], strict=True)
        state_of(self._session).enqueued.update(kinds)
        for _ in range(ORDERED_ATTEMPTS if ordered else ATTEMPTS):
            conflict: ConflictError | None = None
            if ordered:
                keys = {columns["ordering_key"][place] for place in left} - {None}
                opened |= set_turns(columns, left, await take_turns(self._session, keys))
            try:
                places = firsts(columns, left) if named(tasks) else left
                created |= await (self._copy if copied else self._insert)(columns, places)
            except ConflictError as error:
                # A refused COPY leaves the transaction unchanged. The next attempt omits the tasks that exist.
                if not copied or error.retryable:
                    raise
                conflict = error
            if len(created) == len(ids):
                return [(own, True) for own in ids], opened
            left = [place for place in left if place not in created]
            found = await self._standing(keys_at(columns, left))
            standing |= {place: known for place, known in zip(left, found, strict=True) if known}
            left = [place for place in left if place not in standing]
            if not left:
                return [(standing.get(place, own), place in created) for place, own in enumerate(ids)], opened
            if refusing := await self._refusing([parents[place] for place in left]):
                raise takes_no_children(next(iter(refusing)))
            if conflict is not None and not any(found) and not ordered:
                raise conflict
        raise changing()

    async def _references(self, tasks: Sequence[NewTask]) -> list[list[Reference]]:
        """Return the dependencies of each task."""
        ids, keys = asked(tasks)
        known: dict[uuid.UUID | str, uuid.UUID] = {}
        if ids or keys:
            for id, task_id in await fetch(self._session, task_waits.known(), {"ids": ids, "keys": keys}):
                known |= {id: id, task_id: id}
        return references(tasks, known)

    async def _wait_after(
        self, tasks: Sequence[NewTask], after: Sequence[Sequence[Reference]], filed: Filed
    ) -> None:
        """Insert the dependencies of the tasks that were created."""
        created = {id for id, new in filed if new}
        edges = [
            (
                filed[place][0],
                filed[one][0] if isinstance(one, int) else one,
                task.get("after_failure") == "run",
            )
            for place, (task, own) in enumerate(zip(tasks, after, strict=True))
            if filed[place][1]
            for one in own
        ]
        await self._depend(edges, created)

    async def _depend(
        self,
        edges: Sequence[tuple[uuid.UUID, uuid.UUID, bool]],
        marked: set[uuid.UUID] | frozenset[uuid.UUID],
    ) -> None:
        """Insert dependencies, and settle those on tasks that have ended.

        Args:
            edges: Which task waits for which, and whether it runs anyway.
            marked: Tasks whose `awaited_by` has these dependencies already.
        """
        if not edges:
            return
        others = sorted({after for _, after, _ in edges} - marked)
        rows = await fetch(self._session, task_waits.mark_tasks(), {"ids": others})
        tasks, afters, anyway = (list(column) for column in zip(*edges, strict=True))
        parameters = {"tasks": tasks, "afters": afters, "anyway": anyway}
        await affected(self._session, task_waits.wait_after(), parameters)
        live = (TaskStatus.PENDING, TaskStatus.PROCESSING)
        if over := [id for id, status in rows if status not in live]:
            await settle(self._session, over, late=True)

    async def _refusing(self, parents: Sequence[uuid.UUID | None]) -> set[uuid.UUID]:
        """Return the parents that take no more children.

        The others are locked: until this transaction ends they cannot be cancelled.
        """
        ids = sorted({parent for parent in parents if parent})
        return {row[0] for row in await self._rows(queries.lock_parents(ids)) if row[1]} if ids else set()

    async def _insert(self, columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> set[int]:
        """Insert the tasks at these places; return the places of the new ones."""
        given = at(columns, places)
        statement = queries.enqueue_many(
            children=any(given["parent_task_id"]), waits="awaits_turn" in columns
        )
        rows = await fetch(self._session, statement, as_text(given))
        new = {row[0] for row in rows}
        return {place for place, id in zip(places, given["id"], strict=True) if id in new}

    async def _copy(self, columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> set[int]:
        """Insert the tasks at these places by COPY; return all places, or none if a parent takes no more children."""
        values = at(columns, places)
        if await self._refusing(values.get("parent_task_id", ())):
            return set()
        delays = values.pop("delay", None)
        waiting = [
            turn or count > 0
            for turn, count in zip(values.get("awaits_turn", ()), values.get("waits_for", ()), strict=True)
        ]
        if delays is not None or "available_at" in values or any(waiting):
            now = await self._first(queries.now())
            assert now is not None
            given = values.get("available_at") or [None] * len(places)
            times = [
                max(at or now, now + delay)
                for at, delay in zip(given, delays or [timedelta(0)] * len(given), strict=True)
            ]
            values["available_at"] = times
            if any(waiting):
                values["not_before"] = [
                    time if waits else None for time, waits in zip(times, waiting, strict=True)
                ]
                values["available_at"] = [
                    WAITING if waits else time for time, waits in zip(times, waiting, strict=True)
                ]
        targets = [_columns[name.rstrip("_")] for name in values]
        await copy_rows(self._session, table_of(Task), targets, zip(*values.values(), strict=True))
        return set(places)

    async def _standing(self, keys: Sequence[tuple[str, str | None]]) -> Sequence[uuid.UUID | None]:
        """Return the id of the existing task for each pair of `task_id` and `dedupe_key`."""
        if not keys:
            return []
        by_task_id = {row[1]: row[0] for row in await self._rows(queries.known([key[0] for key in keys]))}
        live = [key for _, key in keys if key is not None]
        by_key = {row[1]: row[0] for row in await self._rows(queries.deduplicated(live))} if live else {}
        return [by_task_id.get(task_id) or by_key.get(key) for task_id, key in keys]


def takes_no_children(parent: uuid.UUID | None) -> InvalidTransition:
    """Return the error for a parent that takes no more children."""
    return InvalidTransition(
        f"task {parent}: is cancelled or being cancelled, and takes no more children; enqueue them without"
        " `parent_task_id`, or requeue the parent first"
    )


def changing() -> ConflictError:
    """Return the error for keys whose tasks keep changing."""
    return ConflictError(
        "concurrent transactions keep creating and deleting tasks with these keys; retry the transaction",
        retryable=True,
    )
