"""All specimens, and what is known of some parameters."""

from __future__ import annotations

from alfred_db.execution.arguments import FROM_OUTSIDE

from . import Specimens, catalogs, memory, work

SPECIMENS: Specimens = {**work.SPECIMENS, **memory.SPECIMENS, **catalogs.SPECIMENS}

FORMATS = {
    "broker_catalog.put_price": ("currency",),
    "broker_requests.usage": ("timezone",),
    "documents.add, in a space": ("embedding_model",),
    "documents.hybrid_search": ("language",),
    "knowledge.facet": ("key",),
    "knowledge.import_qdrant": ("source", "vector_name"),
    "knowledge.query_groups": ("group_by",),
    "memories.hybrid_search": ("language",),
    "memory_entries.hybrid_search": ("language",),
    "queues.pause": ("name",),
    "queues.set": ("name",),
    "scheduler.create": ("schedule", "timezone"),
    "scheduler.create, with an intent": ("queue",),
    "scheduler.declare": ("schedules",),
    "scheduler.update, with an intent": ("queue",),
    "scheduler.update": ("schedule", "timezone"),
    "spaces.store": ("embedding_model",),
    "tasks.enqueue": ("queue",),
}
"""Parameters that are refused by what they say."""


def cleaned(name: str, parameter: object) -> bool:
    """Whether a text is stored whatever it holds: what PostgreSQL cannot store of it is replaced."""
    method = name.partition(",")[0].partition(".")[2]
    return parameter in FROM_OUTSIDE or (parameter == "code" and method == "fail")


HELD = "what `claim` gave is the library's own; no text of it reaches a statement"
FOUND = "what `candidates` gave is the library's own: ids, which are bound, and a filter, which `candidates` was given"
CRON = "the default server has no pg_cron; tests/test_cli_catalog.py passes the values where there is one"
FILES = "a path of the file system, not of the database"

FUSION = "One of two words, by which the statement is chosen."

EXEMPT = {
    ("tasks", "complete_many", "claimed"): HELD,
    **{
        (noun, method, "claimed"): HELD
        for noun in ("tasks", "scheduler", "workflows")
        for method in ("complete", "fail", "heartbeat", "heartbeat_many", "release")
    },
    ("scheduler", "start", "claimed"): HELD,
    ("tasks", "progress", "claimed"): HELD,
    **{
        ("workflows", method, "claimed"): HELD
        for method in ("checkpoint", "replay", "sleep", "sleep_until", "wait_for", "wait_for_child")
    },
    ("knowledge", "export_to", "folder"): FILES,
    ("knowledge", "import_from", "folder"): FILES,
    ("documents", "page", "candidates"): FOUND,
    ("memories", "page", "candidates"): FOUND,
    ("memory_entries", "page", "candidates"): FOUND,
    ("working_memory", "page", "candidates"): FOUND,
    **{
        (noun, "hybrid_search", "weights"): FUSION
        for noun in ("documents", "knowledge", "memories", "memory_entries")
    },
    ("broker_requests", "schedule_maintenance", "schedule"): CRON,
    ("events", "schedule_maintenance", "schedule"): CRON,
}
"""Parameters that take a text and have no specimen, and why."""
