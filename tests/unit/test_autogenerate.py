"""Which objects `alfred-db check` compares with the models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from alfred_db.migrate.autogenerate import _compared
from alfred_db.sql import OWN_INDEX


@pytest.mark.parametrize(
    ("type_", "name", "reflected", "compared"),
    [
        ("index", "idx_documents_title_trgm", True, False),
        ("index", "idx_documents_title_trgm", False, True),
        ("index", f"{OWN_INDEX}documents_author", True, False),
        ("index", f"{OWN_INDEX}documents_author", False, True),
        ("index", "idx_documents_title", True, True),
        ("index", None, True, True),
        ("unique_constraint", "uq_documents_title_trgm", True, True),
        ("column", "title_trgm", True, True),
    ],
)
def test_only_live_indexes_of_trigrams_and_of_the_caller_are_left_out(
    type_: str, name: str | None, reflected: bool, compared: bool
) -> None:
    assert _compared(SimpleNamespace(schema=None), name, type_, reflected, None) is compared
