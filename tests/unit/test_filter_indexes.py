"""What a filter can name has an index, and so have the columns of the words."""

from __future__ import annotations

import pytest
from sqlalchemy.dialects.postgresql import JSONB

from alfred_db.indexes.catalog import models
from alfred_db.models.base import table_of

NOT_INDEXED = {"action_log", "lookup_info", "memory_content"}
"""Columns that a platform writes and the library does not search: an index would cost each of its writes."""


@pytest.mark.parametrize("name", sorted(models()))
def test_an_index_finds_rows_by_what_is_in_their_json(name: str) -> None:
    """Every model that is searched by vector takes a filter, and its JSON columns are named in it."""
    table = table_of(models()[name])
    found = {
        column.name
        for index in table.indexes
        if index.dialect_options["postgresql"]["using"] == "gin"
        for column in index.columns
    }
    expected = {column.name for column in table.c if isinstance(column.type, JSONB)} - NOT_INDEXED
    assert expected
    assert expected <= found
