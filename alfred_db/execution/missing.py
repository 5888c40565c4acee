"""The errors for keys that no row has, each with what is wrong and what the caller can do about it."""

from __future__ import annotations

from typing import Literal

from ..errors import NotFoundError, shown

__all__ = ["MissingThing", "not_found"]

MissingThing = Literal[
    "RAG query",
    "RAG session",
    "agent",
    "alias",
    "bucket",
    "case",
    "collection",
    "consumer",
    "document",
    "edge",
    "event",
    "execution",
    "hosted model",
    "memory",
    "memory bank",
    "memory entry",
    "model",
    "node",
    "queue",
    "run",
    "scheduled task",
    "space",
    "suite",
    "task",
    "workflow",
    "workflow execution",
    "working memory",
]
"""What a key can name, as messages call it."""

_REASONS: dict[MissingThing, str] = {
    "RAG query": "does not exist; record it first",
    "RAG session": "does not exist; open it first",
    "agent": "not registered; register it first",
    "alias": "does not exist; `list_aliases` names those that do",
    "bucket": "not found; create it first",
    "case": "not found; check the id",
    "collection": "does not exist; create it with `create_collection`, or see `list_collections`",
    "consumer": "has not subscribed; call `subscribe` first",
    "document": "does not exist; check the id",
    "edge": "not found, or superseded; see the `history` of its relation",
    "event": "not in the log; seek a time, or 'beginning'",
    "execution": "not found; check the id",
    "hosted model": "not in the catalog; put it there first",
    "memory": "does not exist, or has expired; check the id",
    "memory bank": "does not exist; create it with `get_or_create`",
    "memory entry": "does not exist, or has expired; check the id",
    "model": "not in the registry; register it first",
    "node": "not found; it may have been deleted already",
    "queue": "has no settings; `queues.set` makes them, and `queues.list` shows those that exist",
    "run": "not found; check the id",
    "scheduled task": "not found; create it first",
    "space": "does not exist; create it with `spaces.create`, or see `spaces.list`",
    "suite": "not found; check the id",
    "task": "not found; pass the `id` of a task, not its `task_id`",
    "workflow": "not found; define it first",
    "workflow execution": "not found; check the id",
    "working memory": "does not exist, is deleted, or has expired; check the id",
}


def not_found(thing: MissingThing, key: object) -> NotFoundError:
    """Return the error for a key that no row has."""
    return NotFoundError(f"{thing} {shown(key) if isinstance(key, str) else key}: {_REASONS[thing]}")
