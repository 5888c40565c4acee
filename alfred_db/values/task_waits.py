"""What the tasks of one call wait for: dependencies on each other, and turns of their ordering keys."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import InvalidInputError, NotFoundError, shown
from .tasks import NewTask

__all__ = ["Reference", "add_waits", "asked", "references", "set_turns", "waits"]

Reference = uuid.UUID | int
"""A task that exists, by its `id`, or one of the same call, by its position."""


def waits(tasks: Sequence[NewTask]) -> bool:
    """Whether a task has an ordering key or dependencies."""
    return any(task.get("ordering_key") is not None or task.get("after") for task in tasks)


def asked(tasks: Sequence[NewTask]) -> tuple[list[uuid.UUID], list[str]]:
    """Return the dependencies that are not tasks of the same call: ids and values of `task_id`."""
    here = {task.get("task_id") for task in tasks}
    every = {one for task in tasks for one in task.get("after", ())} - here
    ids = sorted(one for one in every if isinstance(one, uuid.UUID))
    return ids, sorted(one for one in every if isinstance(one, str))


def references(tasks: Sequence[NewTask], known: Mapping[uuid.UUID | str, uuid.UUID]) -> list[list[Reference]]:
    """Return the dependencies of each task.

    Args:
        tasks: The tasks of one call.
        known: The `id` of the tasks that exist, by `id` and by `task_id`.

    Raises:
        NotFoundError: A dependency does not exist.
        InvalidInputError: Tasks wait for each other in a circle.
    """
    places: dict[str, int] = {}
    for place, task in enumerate(tasks):
        if key := task.get("task_id"):
            places.setdefault(key, place)
    found: list[list[Reference]] = []
    for task in tasks:
        own: dict[Reference, None] = {}
        for one in task.get("after", ()):
            target: Reference | None = places.get(one) if isinstance(one, str) else None
            target = known.get(one) if target is None else target
            if target is None:
                name = shown(one) if isinstance(one, str) else str(one)
                raise NotFoundError(
                    f"after: task {name} not found; enqueue it before, or in the same call with this `task_id`"
                )
            own[target] = None
        found.append(list(own))
    _refuse_circles(tasks, found)
    return found


def add_waits(
    columns: dict[str, list[Any]],
    after: Sequence[Sequence[Reference]],
    *,
    batch: uuid.UUID | None = None,
    awaited: bool = False,
    held: int = 0,
) -> None:
    """Add the columns of tasks that wait for others.

    Args:
        columns: The columns of the tasks.
        after: The dependencies of each task.
        batch: The batch that the tasks are part of.
        awaited: Whether a task waits for the batch.
        held: How many tasks of its batch each task waits for.
    """
    count = len(after)
    dependents = Counter(one for own in after for one in own if isinstance(one, int))
    columns.setdefault("ordering_key", [None] * count)
    columns["awaits_turn"] = [False] * count
    columns["waits_for"] = [len(own) + held for own in after]
    columns["awaited_by"] = [dependents[place] + awaited for place in range(count)]
    columns["batch_id"] = [batch] * count


def set_turns(columns: dict[str, list[Any]], places: Sequence[int], taken: Collection[str]) -> dict[str, int]:
    """Set which of the tasks at these positions wait for their turn; return the one of each key that does not.

    Args:
        columns: The columns of the tasks.
        places: The positions, in the order of enqueue.
        taken: The keys that have a task which has not ended.
    """
    opened: dict[str, int] = {}
    followed: set[int] = set()
    for place in places:
        key = columns["ordering_key"][place]
        if key is None:
            continue
        columns["awaits_turn"][place] = waiting = key in taken or key in opened
        if not waiting:
            opened[key] = place
        elif key in opened and opened[key] not in followed:
            followed.add(opened[key])
            columns["awaited_by"][opened[key]] += 1
    return opened


def _refuse_circles(tasks: Sequence[NewTask], after: Sequence[Sequence[Reference]]) -> None:
    done: set[int] = set()
    for start in range(len(tasks)):
        path: dict[int, None] = {}
        stack = [(start, iter(after[start]))]
        while stack:
            place, rest = stack[-1]
            path[place] = None
            following = next((one for one in rest if isinstance(one, int) and one not in done), None)
            if following is None:
                stack.pop()
                done.add(place)
                del path[place]
            elif following in path:
                circle = [*path][[*path].index(following) :]
                names = " -> ".join(shown(tasks[one].get("task_id")) for one in [*circle, following][:6])
                raise InvalidInputError(
                    f"after: tasks wait for each other in a circle: {names}; remove one of these dependencies"
                )
            else:
                stack.append((following, iter(after[following])))
