"""The limits of what calls take, and the time for which a connection is trusted: to change one is a decision."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from alfred_db.engine import pool
from alfred_db.errors import InvalidInputError
from alfred_db.values import task_columns

LIMITS = {
    "checks.MAX_LIMIT": 1000,
    "checks.MAX_CURSOR": 1 << 20,
    "cron.MAX_SLOTS": 1000,
    "engine.pool.TRUSTED_SECONDS": 5.0,
    "execution._async.leases.PAUSES": (0.0, 0.02, 0.05, 0.1),
    "execution._async.search.AT_ONCE": 1000,
    "execution._async.search.CHEAP": 1_500_000,
    "execution._async.search.ESTIMATES_LAST": 60.0,
    "execution._async.search.MAX_COMPARED": 20_000,
    "execution._async.search.MAX_VISITED": 20_000,
    "execution._async.search.SAMPLED_PAGES": 100,
    "execution._async.search.SMALL_PART": 0.1,
    "queries.shapes.filter_groups.MAX_PARTS": 10_000,
    "queries.shapes.payload_values.EARTH": 6371008.8,
    "repositories._async.broker.MAX_OFFERS": 10_000,
    "repositories._async.entity_walks.MAX_DEPTH": 10,
    "repositories._async.entity_walks.MAX_FAN_OUT": 1000,
    "repositories._async.events.MAX_PAYLOAD_BYTES": 1 << 20,
    "repositories._async.events.MAX_NAME_BYTES": 500,
    "repositories._async.messages.MAX_KEY_BYTES": 2000,
    "repositories._async.task_leases.MAX_CLAIM": 500,
    "search.filters.MAX_DEPTH": 8,
    "search.filters.MAX_CONDITIONS": 200,
    "search.params.MAX_EF_SEARCH": 1000,
    "values.task_columns.MAX_JSON_BYTES": 64 << 20,
    "values.task_columns.MAX_KEY_BYTES": 2000,
    "values.task_columns.MAX_QUEUE_BYTES": 200,
    "values.workflows.MAX_JSON_BYTES": 1 << 20,
    "vectors.formats.MAX_DIMENSIONS": 16_000,
    "worker._loop.MAX_CLAIM": 500,
    "execution.error_texts.MAX_MESSAGE": 10_000,
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_what_was_decided(name: str) -> None:
    module, _, constant = name.rpartition(".")
    assert getattr(importlib.import_module(f"alfred_db.{module}"), constant) == LIMITS[name]


@pytest.mark.parametrize("name", ["content", "metadata"])
def test_the_json_of_a_task_may_have_as_many_bytes_as_the_limit(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    value = {"text": "\N{OWL}" * 10}
    size = len(json.dumps(value, ensure_ascii=False).encode())
    tasks: Any = [{"intent": "A", name: value}]
    monkeypatch.setattr(task_columns, "MAX_JSON_BYTES", size)
    assert task_columns.columns_of(tasks, every=True)
    monkeypatch.setattr(task_columns, "MAX_JSON_BYTES", size - 1)
    with pytest.raises(
        InvalidInputError, match=rf"task 0: {name}: has {size} bytes as JSON, at most {size - 1}"
    ):
        task_columns.columns_of(tasks, every=True)


@pytest.mark.parametrize(("longer", "pinged"), [(-0.25, False), (0.0, False), (0.25, True)])
def test_a_connection_is_trusted_for_the_time_only(
    monkeypatch: pytest.MonkeyPatch, longer: float, pinged: bool
) -> None:
    monkeypatch.setattr(pool, "_has_input", lambda *_: False)
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    state = pool.ConnectionState(unused_since=now - pool.TRUSTED_SECONDS - longer)
    driver = type("Driver", (), {"fileno": lambda self: 0})()
    assert pool.needs_ping(state, driver) is pinged
    assert not pool.needs_ping(pool.ConnectionState(), driver)
