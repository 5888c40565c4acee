"""Validation of the arguments of `enqueue` and `enqueue_many`, and their conversion to columns."""

from __future__ import annotations

import os
import time
import uuid
from array import array
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import NoneType
from typing import Any

from ..checks import MAX_SECONDS, aware, check_text, json_text, to_json, within
from ..errors import InvalidInputError, shown
from ..models.tasks import DEFAULT_QUEUE
from .tasks import NewTask

__all__ = [
    "MAX_JSON_BYTES",
    "MAX_KEY_BYTES",
    "MAX_QUEUE_BYTES",
    "as_text",
    "at",
    "columns_of",
    "firsts",
    "keys_at",
    "named",
    "new_ids",
]

MAX_JSON_BYTES = 64 << 20
MAX_KEY_BYTES = 2000
"""Maximum size of a key that always fits into an index entry."""
MAX_QUEUE_BYTES = 200
"""Maximum size of a queue name, by the index of claims by intent."""
MAX_INTEGER = 2**31 - 1

_DEFAULTS: Mapping[str, Any] = {
    "content": None,
    "priority": 1,
    "created_by": None,
    "assigned_to": None,
    "parent_task_id": None,
    "max_retries": 3,
    "timeout_seconds": 300,
    "metadata": None,
    "available_at": None,
    "delay": 0.0,
    "dedupe_key": None,
    "queue": DEFAULT_QUEUE,
    "concurrency_key": None,
}

_WAITS: Mapping[str, Any] = {"ordering_key": None, "after": (), "after_failure": "cancel"}
"""Keys of tasks that wait for others; their columns are sent only if a task has one."""


_KEYS = {"intent", "task_id", *_DEFAULTS, *_WAITS}
_OPTIONAL = {"task_id"} | {name for name, default in {**_DEFAULTS, **_WAITS}.items() if default is None}
"""Keys that may be None."""


def columns_of(tasks: Sequence[NewTask], *, every: bool) -> dict[str, list[Any]]:
    """Return the values of each attribute of tasks.

    Args:
        tasks: The tasks to enqueue.
        every: Whether all attributes are returned, or only those that a task has.

    Raises:
        InvalidInputError: A key is unknown, or a value is invalid.
    """
    names = set[str]().union(*tasks)
    unknown = names - _KEYS
    if unknown:
        expected = ", ".join(("intent", "task_id", *_DEFAULTS, *_WAITS))
        raise InvalidInputError(
            f"task: {', '.join(sorted(map(shown, unknown))[:5])}: no such key; expected some of {expected}"
        )
    ids = new_ids(len(tasks))
    given = (task.get("task_id") for task in tasks)
    keys = [None if isinstance(key, str) and not key else key for key in given]
    columns: dict[str, list[Any]] = {
        "id": ids,
        "task_id": [str(id) if key is None else key for key, id in zip(keys, ids, strict=True)],
        "intent": [task.get("intent", "") for task in tasks],
    }
    for name, default in _DEFAULTS.items():
        if every or name in names:
            columns[name] = [task.get(name, default) for task in tasks]
    if not names.isdisjoint(_WAITS):
        columns["ordering_key"] = [task.get("ordering_key") for task in tasks]
        _check_dependencies(tasks)
    _check({**columns, "task_id": [key for key in keys if key is not None]})
    # COPY checks JSON too, but its position of the row is wrong if the tasks were sorted by key.
    check = every or named(tasks)
    for name in ("content", "metadata"):
        if name in columns:
            columns[name] = [_json(name, place, value, check) for place, value in enumerate(columns[name])]
    if "metadata" in columns:
        columns["metadata_"] = columns.pop("metadata")
    if "delay" in columns:
        columns["delay"] = [timedelta(seconds=value) for value in columns["delay"]]
    return columns


def named(tasks: Sequence[NewTask]) -> bool:
    """Whether a task has a key that another task may have too."""
    return any("task_id" in task or "dedupe_key" in task for task in tasks)


def at(columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> dict[str, list[Any]]:
    """Return the values at these positions of each column, in order."""
    return {name: [column[place] for place in places] for name, column in columns.items()}


def keys_at(columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> list[tuple[str, str | None]]:
    """Return the `task_id` and the `dedupe_key` of the tasks at these positions."""
    deduplicated = columns.get("dedupe_key")
    return [(columns["task_id"][place], deduplicated[place] if deduplicated else None) for place in places]


def firsts(columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> Sequence[int]:
    """Return the positions without those whose `task_id` or `dedupe_key` an earlier one has.

    They are in the order of the keys: two calls with the same keys wait for each other instead of
    deadlocking.
    """
    seen: set[tuple[str, str]] = set()
    kept: list[tuple[str, str, int]] = []
    for place, (task_id, key) in zip(places, keys_at(columns, places), strict=True):
        own = {("task_id", task_id)} if key is None else {("task_id", task_id), ("dedupe_key", key)}
        if seen.isdisjoint(own):
            kept.append((key or "", task_id, place))
            seen |= own
    return [place for _, _, place in sorted(kept)]


def as_text(columns: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    """Return the columns with JSON as text, which an array can hold."""
    return {
        name: [to_json(value) for value in column] if name in {"content", "metadata_"} else column
        for name, column in columns.items()
    }


def new_ids(count: int) -> list[uuid.UUID]:
    """Return ids of version 7: tasks that are enqueued together are claimed in the order of their ids."""
    # Milliseconds and 12 bits of a fraction, counted on from the clock; the other 62 bits are random.
    first = time.time_ns() * 4096 // 1_000_000
    noise = array("Q", os.urandom(8 * count))
    return [
        uuid.UUID(int=(tick >> 12) << 80 | 7 << 76 | (tick & 0xFFF) << 64 | 2 << 62 | random >> 2)
        for tick, random in enumerate(noise, first)
    ]


_WORDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(
        (
            "intent",
            "task_id",
            "created_by",
            "assigned_to",
            "dedupe_key",
            "queue",
            "concurrency_key",
            "ordering_key",
        ),
        (str, "text"),
    ),
    **dict.fromkeys(("priority", "max_retries", "timeout_seconds"), (int, "a whole number")),
    "delay": ((int, float), "a number"),
    "available_at": (datetime, "a datetime"),
    "parent_task_id": (uuid.UUID, "the `id` of a task, a UUID"),
}


def _check(columns: Mapping[str, Sequence[Any]]) -> None:
    for name, (kinds, word) in _WORDS.items():
        # A value of another type may not be hashable.
        found: set[type] = set(map(type, columns.get(name, ())))
        for one in found:
            if one is bool or not (issubclass(one, kinds) or (one is NoneType and name in _OPTIONAL)):
                got = "None" if one is NoneType else one.__name__
                raise InvalidInputError(f"{name}: expected {word}, got {got}")
    for name, most in (("intent", 1 << 20), ("created_by", 1 << 20), ("assigned_to", 1 << 20)):
        for text in set(columns.get(name, ())) - {None}:
            check_text(name, text, most)
    for queue in set(columns.get("queue", ())):
        check_text("queue", queue, MAX_QUEUE_BYTES)
    for name in ("task_id", "dedupe_key", "ordering_key"):
        for text in columns.get(name, ()):
            if text is not None:
                check_text(name, text, MAX_KEY_BYTES)
    for key in set(columns.get("concurrency_key", ())) - {None}:
        check_text("concurrency_key", key, MAX_KEY_BYTES)
    for name, low, high in (
        ("priority", 1, 5),
        ("max_retries", 0, MAX_INTEGER),
        ("timeout_seconds", 1, MAX_INTEGER),
    ):
        for number in set(columns.get(name, ())):
            within(name, number, low, high)
    for delay in set(columns.get("delay", ())):
        within("delay", delay, 0, MAX_SECONDS)
    for at in set(columns.get("available_at", ())) - {None}:
        aware("available_at", at)


def _is_several(value: object) -> bool:
    return isinstance(value, Sequence | set | frozenset) and not isinstance(value, str)


def _check_dependencies(tasks: Sequence[NewTask]) -> None:
    for task in tasks:
        failure = task.get("after_failure", "cancel")
        if failure not in ("cancel", "run"):
            raise InvalidInputError(f"after_failure: {shown(failure)}: expected 'cancel' or 'run'")
        after: Any = task.get("after", ())
        if not _is_several(after):
            raise InvalidInputError(
                "after: expected a sequence of tasks; put the id or task_id of one in a list"
            )
        for one in after:
            if isinstance(one, str):
                check_text("after", one, MAX_KEY_BYTES)
            elif not isinstance(one, uuid.UUID):
                raise InvalidInputError(
                    f"after: expected the `id` of a task, a UUID, or its `task_id`, got {type(one).__name__}"
                )


def _json(name: str, place: int, value: Mapping[str, Any] | None, check: bool) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        if not isinstance(value, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"task {place}: {name}: expected a mapping, got {type(value).__name__}")
        value = dict(value)
    if check:
        json_text(f"task {place}: {name}", value, MAX_JSON_BYTES)
    return value
