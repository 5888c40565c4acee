"""The revisions are numbered in the order in which they run."""

from __future__ import annotations

import re

from alfred_db import migrate


def test_the_revisions_are_one_chain_in_the_order_of_their_numbers() -> None:
    files = sorted((migrate.location() / "versions").glob("*.py"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    before = "None"
    for file in files:
        source = file.read_text(encoding="utf-8")
        assert re.findall(r'^down_revision = "?(\w+)"?$', source, re.MULTILINE) == [before], file.name
        before = f"alfred_{file.stem}"
    assert migrate.head() == before
