"""Calls that grow with the rows, why, and what a caller can do."""

from __future__ import annotations

__all__ = ["EXCEPTIONS"]

_COUNTED = "counts up to 20,000 rows and then stops, as its result says; pass a smaller `up_to`"

_WAITING = "counts every row that a purge would delete; purge without counting, or with a limit"

EXCEPTIONS: dict[str, str] = {
    "broker_requests.usage": (
        "adds up every request of the period, here a year, so that late requests count too; pass a model, a provider or an"
        " agent, or keep the sums of days that have ended"
    ),
    "tasks.count": _COUNTED,
    "tasks.count, completed ones": _COUNTED,
    "tasks.list, before a time": "reads from the newest; pass the cursor of a page, or `created_after` too",
    "tasks.purgeable": _WAITING,
    "conversations.purgeable": _WAITING,
    "broker_requests.purgeable": _WAITING,
    "events.purgeable": _WAITING,
    "scheduler.purgeable": _WAITING,
    "workflows.purgeable": _WAITING,
    "workflows.purge": (
        "deletes a hundred executions with all their steps and events, of which one has a tenth of all steps; pass a smaller"
        " `limit`"
    ),
    "knowledge.facet": "reads every point of the collection; pass `where` to read fewer",
    "knowledge.count": "reads every point of the collection; pass `where` to read fewer",
    "conversations.search, of a common word": "ranks the newest thousand messages with the word; pass `session_id`, or a rarer word",
    "spaces.describe": "counts the rows that have a vector in the space; ask for it seldom",
    "memories.recall": "weighs the memories of a bank that the index finds; see the page of vectors",
    "memories.duplicates": "compares with what the index finds in the bank; see the page of vectors",
    "memories.search": "filters within a bank; see the page of vectors",
    "memories.hybrid_search": "ranks every memory of the bank that has one of the words",
    "documents.hybrid_search": "ranks every document that has one of the words",
    "validation.regression": "compares every result of two runs",
    "broker_requests.count_default": "counts the rows of the default partition, which is empty in a maintained log",
    "events.count_default": "counts the rows of the default partition, which is empty in a maintained log",
}
