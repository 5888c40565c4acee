"""How the suite makes a database on a cluster of Citus, as statements; and that what cannot run there says why."""

from __future__ import annotations

import cluster
import pytest


def test_a_database_is_made_on_all_nodes_and_joined_on_the_first() -> None:
    urls = ["postgresql://postgres@coordinator/postgres", "postgresql://postgres@worker-1:5433/postgres"]
    first, second = urls
    assert cluster.statements("d", urls) == [
        (first, None, "CREATE DATABASE d"),
        (second, None, "CREATE DATABASE d"),
        (first, "d", "CREATE EXTENSION citus"),
        (second, "d", "CREATE EXTENSION citus"),
        (first, "d", "SELECT citus_set_coordinator_host('coordinator', 5432)"),
        (first, "d", "SELECT citus_add_node('worker-1', 5433)"),
    ]


def test_the_variable_lists_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cluster.NAME, raising=False)
    assert cluster.nodes() == []
    monkeypatch.setenv(cluster.NAME, "postgresql://a/x,postgresql://b/x")
    assert cluster.nodes() == ["postgresql://a/x", "postgresql://b/x"]


def test_every_mark_has_a_reason(request: pytest.FixtureRequest) -> None:
    marks = [mark for item in request.session.items for mark in item.iter_markers(cluster.MARK)]
    assert all(len(mark.args) == 1 and len(mark.args[0]) > 10 for mark in marks)
