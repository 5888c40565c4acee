"""Calls that grow with the rows, why, and what a caller can do."""

from __future__ import annotations

__all__ = ["EXCEPTIONS"]

_COUNTED = "counts up to 20,000 rows and then stops, as its result says; pass a smaller `up_to`"

EXCEPTIONS: dict[str, str] = {
    "broker_requests.usage": "adds up every request of the period, here a year; ask for the days that are new and keep the sums",
    "broker_requests.recent, pending ones": (
        "an index of the status would make the end of each request write all indexes; pass `since`, as the pending ones that matter are recent"
    ),
    "tasks.count": _COUNTED,
    "tasks.count, completed ones": _COUNTED,
    "tasks.list, before a time": "reads from the newest; pass the cursor of a page, or `created_after` too",
    "knowledge.facet": "reads every point of the collection; pass `where` to read fewer",
    "knowledge.count": "reads every point of the collection; pass `where` to read fewer",
    "conversations.search, of a common word": "ranks the messages that match; pass `session_id`, or a rarer word",
    "entities.shortest_path": "searches the surroundings of a hub; pass `edge_types` or a smaller depth",
    "entities.subgraph": "reads the edges of a hub; pass `edge_types`",
    "memory_banks.list": "counts the memories of each bank on the page; pass a smaller `limit`",
    "memories.recall": "weighs the memories of a bank that the index finds; see the page of vectors",
    "memories.duplicates": "compares with what the index finds in the bank; see the page of vectors",
    "memories.search": "filters within a bank; see the page of vectors",
    "memories.hybrid_search": "ranks every memory of the bank that has one of the words",
    "documents.hybrid_search": "ranks every document that has one of the words",
    "validation.regression": "compares every result of two runs",
    "broker_requests.count_default": "counts the rows of the default partition, which is empty in a maintained log",
    "events.count_default": "counts the rows of the default partition, which is empty in a maintained log",
}
