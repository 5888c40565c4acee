"""Calls that grow with the rows, why, and what a caller can do."""

from __future__ import annotations

__all__ = ["EVERYTHING", "EXCEPTIONS"]

_WAITING = "counts every row that a purge would delete; purge without counting, or with a limit"
_RANKED = "ranks what has one of the words, here many; pass a rarer word, or search by vector"

_COUNTED = (
    "counts up to 20,000 rows and then stops, which `exact` of its result shows; pass a smaller `up_to`"
)

EVERYTHING: dict[str, str] = {
    "broker_requests.usage": (
        "adds up every request of the period, here a year, so that late requests count too; pass a model, a provider or an"
        " agent, or keep the sums of days that have ended"
    ),
    "tasks.purgeable": _WAITING,
    "conversations.purgeable": _WAITING,
    "broker_requests.purgeable": _WAITING,
    "events.purgeable": _WAITING,
    "messages.purgeable": _WAITING,
    "scheduler.purgeable": _WAITING,
    "workflows.purgeable": _WAITING,
    "knowledge.facet": "counts the points of each value in the collection; pass `where` to read fewer",
    "knowledge.count": "counts every point of the collection; pass `where` to read fewer",
    "knowledge.describe_collection": "counts every point of the collection; ask for it seldom",
    "spaces.describe": "counts the rows that have a vector in the space; ask for it seldom",
    "spaces.coverage": "counts the rows that have a vector in the space; ask for it seldom",
    "broker_requests.count_default": "counts the rows of the default partition, which is empty in a maintained log",
    "events.count_default": "counts the rows of the default partition, which is empty in a maintained log",
}
"""Calls that read everything by their meaning: sums and counts of all rows."""

EXCEPTIONS: dict[str, str] = {
    "tasks.count": _COUNTED,
    "tasks.count, completed ones": _COUNTED,
    "tasks.list, before a time": "reads from the newest; pass the cursor of a page, or `created_after` too",
    "conversations.search, of a common word": "ranks the newest thousand messages with the word; pass `session_id`, or a rarer word",
    "memories.recall": (
        "compares a bank of up to 100,000 memories whole, where what the index finds may not be the best; pass `exact=False`"
    ),
    "memories.duplicates": "compares with what the index finds in the bank; see the page of vectors",
    "memories.search": "filters within a bank; see the page of vectors",
    "memories.hybrid_search": _RANKED,
    "documents.hybrid_search": _RANKED,
    "knowledge.hybrid_search": _RANKED,
    "documents.search, by a range": "compares a field of every document; `alfred-db indexes add` makes an index of the field",
    "validation.regression": "compares every result of two runs",
    "workflows.cancel": "reads the whole family, here of 10,000 executions, as children of finished executions may still run",
    "workflows.purge": (
        "deletes a hundred executions with all their steps and events, of which one has a tenth of all steps; pass a smaller"
        " `limit`"
    ),
}
