"""A piece of work with every tool of `alfred-db mcp` in turn, and what is right of each result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Arguments = Mapping[str, Any]


class Has:
    """A list that has an item like this, a text that contains this, or what a function accepts."""

    def __init__(self, wanted: Any) -> None:
        self.wanted = wanted

    def __repr__(self) -> str:
        return f"Has({self.wanted!r})"


def differs(wanted: Any, found: Any, place: str = "result") -> str:
    """Where the result is not as expected, or nothing; of objects only the named fields are compared."""
    if isinstance(wanted, Has):
        if callable(wanted.wanted):
            return "" if wanted.wanted(found) else f"{place}: {found!r}"
        if isinstance(found, str):
            return "" if wanted.wanted in found else f"{place}: {found!r}, not with {wanted.wanted!r}"
        ways = [differs(wanted.wanted, item, place) for item in found]
        return "" if "" in ways else f"{place}: no item like {wanted.wanted!r} in {found!r}"
    if isinstance(wanted, Mapping):
        for name, value in wanted.items():
            if name not in found:
                return f"{place}: without {name}"
            if said := differs(value, found[name], f"{place}.{name}"):
                return said
        return ""
    if isinstance(wanted, list):
        if len(wanted) != len(found):
            return f"{place}: {len(found)} items, not {len(wanted)}"
        return next((said for pair in zip(wanted, found, strict=True) if (said := differs(*pair, place))), "")
    return "" if wanted == found else f"{place}: {found!r}, not {wanted!r}"


WORK: list[tuple[str, Arguments, Any]] = [
    (
        "add_document",
        {"content": "Tea is a drink", "title": "tea", "external_id": "a", "metadata": {"n": 1}},
        {"id": 1, "embedded": True},
    ),
    ("add_document", {"content": "x" * 70_000}, {"id": 2, "embedded": True}),
    (
        "search_documents",
        {"query": "drink", "mode": "words"},
        {"documents": [{"id": 1, "title": "tea", "distance": None}], "mode": "words", "note": None},
    ),
    (
        "search_documents",
        {"query": "Tea", "mode": "meaning", "limit": 1},
        {"documents": [{"id": 1, "metadata": {"n": 1}}], "mode": "meaning"},
    ),
    (
        "search_documents",
        {"query": "tea", "where": {"must": [{"field": "metadata.n", "eq": 1}]}},
        {"documents": [{"external_id": "a", "chars": 14}], "mode": "both"},
    ),
    (
        "get_document",
        {"document_id": 2},
        {"content": "x" * 60_000, "chars": 70_000, "next_offset": 60_000},
    ),
    (
        "get_document",
        {"document_id": 2, "offset": 60_000},
        {"content": "x" * 10_000, "next_offset": None},
    ),
    ("list_documents", {"limit": 1}, {"documents": [{"id": 1}], "next": Has(bool)}),
    ("update_document", {"document_id": 1, "title": "Tea"}, {"id": 1, "embedded": False}),
    (
        "generate_context",
        {"query": "tea", "mode": "words"},
        {"context": Has("[1] Tea"), "sources": [{"document_id": 1, "rank": 1}], "truncated": False},
    ),
    (
        "rag_query",
        {"query": "What is tea?", "session_id": "s", "mode": "words"},
        {"query_id": 1, "context": Has("Tea is a drink")},
    ),
    (
        "record_answer",
        {"query_id": 1, "response": "A drink [1]"},
        {"query_id": 1, "question": "What is tea?", "response": "A drink [1]"},
    ),
    (
        "list_questions",
        {"session_id": "s"},
        {"questions": [{"response": "A drink [1]", "documents": [1]}], "next": None},
    ),
    ("delete_document", {"document_id": 2}, {"done": True, "message": "document 2 is deleted"}),
    (
        "store_memory",
        {"content": "Ann likes tea", "importance": 3, "ttl_seconds": 1_000},
        {"id": 1, "outcome": "stored", "embedded": True},
    ),
    ("store_memory", {"content": "Ann likes tea", "importance": 3}, {"id": 1, "outcome": "seen"}),
    (
        "search_memories",
        {"query": "tea", "mode": "words"},
        {"memories": [{"content": "Ann likes tea", "importance": 3}], "mode": "words"},
    ),
    ("search_memories", {"query": "Ann", "mode": "meaning"}, {"memories": [{"id": 1}], "mode": "meaning"}),
    ("search_memories", {"query": "Ann"}, {"memories": [{"id": 1, "seen_count": 2}], "mode": "both"}),
    ("retrieve_memory", {"memory_id": 1}, {"id": 1, "content": "Ann likes tea"}),
    ("list_memories", {}, {"memories": [{"id": 1}], "next": None}),
    ("list_banks", {}, {"banks": [{"name": "default", "memories": 1}]}),
    ("touch_memory", {"memory_ids": [1]}, {"touched": 1}),
    ("forget_memory", {"memory_id": 1}, {"done": True, "message": "memory 1 is forgotten"}),
    (
        "append_message",
        {"session_id": "c", "role": "user", "content": "hello world"},
        {"session_id": "c", "role": "user", "content": "hello world"},
    ),
    ("history", {"session_id": "c"}, {"messages": [{"content": "hello world"}], "next": None}),
    ("search_messages", {"query": "hello"}, {"messages": [{"session_id": "c"}]}),
    ("create_test_suite", {"name": "speed"}, {"suite_id": 1, "name": "speed"}),
    ("list_test_suites", {}, {"suites": [{"suite_id": 1}], "next": None}),
    ("add_test_case", {"suite_id": 1, "name": "load"}, {"case_id": 1, "name": "load"}),
    ("list_test_cases", {"suite_id": 1}, {"cases": [{"case_id": 1, "status": "pending"}]}),
    ("run_test_suite", {"suite_id": 1}, {"run_id": 1, "suite_id": 1, "status": "running"}),
    (
        "record_test_result",
        {"case_id": 1, "run_id": 1, "metric": "ms", "value": 3, "threshold": 2},
        {"metric": "ms", "value": 3.0, "threshold": 2.0, "status": "pass"},
    ),
    ("finish_test_case", {"case_id": 1, "status": "passed"}, {"case_id": 1, "status": "passed"}),
    ("finish_test_run", {"run_id": 1}, {"run_id": 1, "status": "passed", "is_baseline": False}),
    ("set_test_baseline", {"run_id": 1}, {"run_id": 1, "is_baseline": True}),
    ("list_test_runs", {"suite_id": 1}, {"runs": [{"run_id": 1, "is_baseline": True}]}),
    ("list_test_results", {"run_id": 1, "status": "pass"}, {"results": [{"metric": "ms", "case_id": 1}]}),
    (
        "compare_test_run",
        {"run_id": 1},
        {"regressed": False, "changes": [{"metric": "ms", "baseline": 3.0, "current": 3.0, "worse": False}]},
    ),
    ("metric_trend", {"case_id": 1, "metric": "ms"}, {"results": [{"value": 3.0}]}),
    (
        "create_schedule",
        {"name": "nightly", "command": "clean", "cron": "0 3 * * *", "schedule_key": "k"},
        {"schedule_id": 1, "outcome": "created", "is_active": True, "cron": "0 3 * * *"},
    ),
    ("list_schedules", {}, {"schedules": [{"schedule_id": 1, "name": "nightly"}]}),
    ("pause_schedule", {"schedule_id": 1}, {"is_active": False, "next_run_at": None}),
    ("resume_schedule", {"schedule_id": 1}, {"is_active": True, "next_run_at": Has(bool)}),
    ("trigger_schedule", {"schedule_id": 1}, {"schedule_id": 1, "status": "pending"}),
    ("list_executions", {"schedule_id": 1}, {"executions": [{"status": "pending", "schedule_id": 1}]}),
    ("list_tasks", {"status": "failed"}, {"tasks": [{"task_id": "failed", "error": Has("no reason")}]}),
    ("requeue_task", {"id": "FAILED"}, {"task_id": "failed", "status": "pending"}),
    (
        "query",
        {"sql": "SELECT title, count(*) FROM documents GROUP BY title"},
        {"columns": ["title", "count"], "rows": [["Tea", 1]], "next_offset": None},
    ),
    ("export_data", {"sql": "SELECT 1 AS a", "format": "jsonl"}, {"data": '{"a": 1}\n', "rows": 1}),
    ("list_tables", {}, {"tables": Has({"name": "documents", "kind": "table"})}),
    (
        "describe_table",
        {"name": "rag_query_documents"},
        {"columns": Has({"name": "document_id", "nullable": False}), "foreign_keys": Has(Has("documents"))},
    ),
]
"""Tools, their arguments, and fields of each result, in a tenant that is empty but for a failed task.

Its id stands in place of `FAILED`.
"""

READS = ("get_", "retrieve_", "search_", "list_", "history", "generate_", "compare_", "metric_", "describe_")
"""How the names of tools begin that return rows and write nothing."""


def prepared(arguments: Arguments, failed: str) -> dict[str, Any]:
    """The arguments with the id of the failed task."""
    return {name: failed if value == "FAILED" else value for name, value in arguments.items()}


def moved(arguments: Arguments, failed: str, by: int) -> dict[str, Any]:
    """The same with the ids of a tenant whose ids are greater."""

    def move(name: str, value: Any) -> Any:
        if name.endswith("_id") and isinstance(value, int):
            return value + by
        return [one + by for one in value] if name.endswith("_ids") else value

    return {name: move(name, value) for name, value in prepared(arguments, failed).items()}
