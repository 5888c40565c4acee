"""Values of the library that options name before the library is imported; a test compares them with it."""

from __future__ import annotations

__all__ = [
    "ADOPTED_AT_ONCE",
    "AGES",
    "EXPORTED_AT_ONCE",
    "LOCK_TIMEOUT",
    "LOGS",
    "MISFIRE_POLICIES",
    "OVERLAP_POLICIES",
    "PURGED",
    "PURGED_AT_ONCE",
    "ROLES",
    "SPACE_INDEXES",
    "SPACE_KINDS",
    "TASK_STATUSES",
    "WORKER_SETTINGS",
    "WORKFLOW_STATUSES",
]

TASK_STATUSES = ("pending", "processing", "completed", "failed", "cancelled")
WORKFLOW_STATUSES = ("pending", "running", "completed", "failed", "cancelled")
MISFIRE_POLICIES = ("skip", "latest", "all")
OVERLAP_POLICIES = ("allow", "skip")
SPACE_INDEXES = ("hnsw", "hnsw-halfvec", "hnsw-bit", "none")
SPACE_KINDS = ("documents", "memories", "memory_entries", "working_memory")
ROLES = ("owner", "app", "worker", "broker", "reader")
"""The kinds of roles."""
LOGS = ("requests", "events")
"""The logs that have a partition for each month."""
AGES = ("tasks", "executions", "workflows", "conversations", "events", "requests")
"""The ages of a retention policy."""
PURGED = (
    *AGES,
    *(
        "messages",
        "memories",
        "memory_entries",
        "knowledge",
        "working_memory",
        "cache",
        "rate_limits",
        "web_sessions",
    ),
)
"""The kinds of rows that are purged."""
PURGED_AT_ONCE = 1000
ADOPTED_AT_ONCE = 5_000
EXPORTED_AT_ONCE = 20_000
LOCK_TIMEOUT = 600.0
"""Seconds that work on indexes waits for other transactions."""
WORKER_SETTINGS: dict[str, int | float | bool] = {
    "concurrency": 4,
    "lease": 60.0,
    "grace": 25.0,
    "poll": 5.0,
    "upkeep": 5.0,
    "schedules": True,
}
"""The settings of a worker that are options, with their defaults."""
