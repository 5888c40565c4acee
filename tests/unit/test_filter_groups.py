"""The groups of a filter: what they may hold, and how many conditions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import true

from alfred_db import Document, qdrant_filter
from alfred_db.errors import InvalidFilter
from alfred_db.queries.shapes import filter_groups
from alfred_db.queries.shapes.filters import compile_filter
from alfred_db.search.filters import BOUNDS, MAX_CONDITIONS, Filter, FilterCondition, eq, range_

ONE = eq("a", 1)


@pytest.mark.parametrize("name", ["must", "should", "must_not"])
@pytest.mark.parametrize("group", ["text", {"a": 1}, ONE, [ONE, "a"], None])
def test_a_group_holds_conditions_only(name: str, group: Any) -> None:
    groups: dict[str, Any] = {name: group}
    with pytest.raises(InvalidFilter, match=rf"{name}: expected a sequence of conditions and filters"):
        filter_groups.combined(Filter(**groups), lambda one: true())


def test_a_filter_may_have_as_many_conditions_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filter_groups, "MAX_PARTS", 3)
    assert (
        filter_groups.combined(Filter(must=[ONE], should=[ONE], must_not=[ONE]), lambda one: true())
        is not None
    )
    for more in ({"must": [ONE, ONE]}, {"should": [ONE, ONE]}, {"must_not": [ONE, ONE]}):
        groups: dict[str, Any] = {"must": [ONE], "should": [ONE], "must_not": [ONE], **more}
        with pytest.raises(InvalidFilter, match="more than 3 conditions"):
            filter_groups.combined(Filter(**groups), lambda one: true())


def test_a_range_takes_any_of_its_four_bounds_and_nothing_else() -> None:
    for many in range(1, 5):
        for bounds in itertools.combinations(BOUNDS, many):
            where = Filter(must=[range_("id", **dict.fromkeys(bounds, 1))])
            assert str(compile_filter(Document, where)).count("documents.id") == many
    for wrong in ({}, {"above": 1}, dict.fromkeys((*BOUNDS, "above"), 1)):
        with pytest.raises(InvalidFilter, match="expects some of gt, gte, lt, lte"):
            compile_filter(Document, Filter(must=[FilterCondition("id", "range", wrong)]))


def test_a_filter_of_qdrant_takes_as_many_conditions_as_the_limit() -> None:
    condition = {"key": "a", "match": {"value": 1}}
    for name in ("must", "should", "must_not"):
        assert len(getattr(qdrant_filter({name: [condition] * MAX_CONDITIONS}), name)) == MAX_CONDITIONS
        with pytest.raises(InvalidFilter, match=f"expected an array of at most {MAX_CONDITIONS} conditions"):
            qdrant_filter({name: [condition] * (MAX_CONDITIONS + 1)})
