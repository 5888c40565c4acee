"""Shapes of which the package has one: whoever writes one again uses that one instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "alfred_db"

ONCE = {
    r'prefix_with\(\s*"MATERIALIZED"': ("queries/shapes/literals.py", "`materialized`"),
    r"\b36[56] \* (86_?400|24)": ("checks.py", "`YEAR` or `MAX_SECONDS`"),
    r"^_?(MAX_LIMIT|YEAR|CENTURY|MAX_SECONDS) = ": ("checks.py", "the constant of `checks`"),
    r"within\(\"limit\", limit, 1, (MAX_LIMIT|1_?000)\)": ("checks.py", "`check_limit`"),
    r"\bset\(New\w+\.__annotations__\)": ("checks.py", "`has_keys` or `check_keys`"),
    r"def \w*\(\w+: [\w.]+\) -> NotFoundError": ("execution/missing.py", "`not_found`"),
    r"condition &= given": ("queries/shapes/filters.py", "`scoped`"),
    r'option\(\s*"--(url|schema|json|triggers/--no-triggers|pooler|after)"': (
        "cli/options.py",
        "the option of `cli.options`",
    ),
}
"""What may stand in one module only, and what the others use."""


@pytest.mark.parametrize("shape", ONCE)
def test_a_shape_stands_in_one_module(shape: str) -> None:
    home, instead = ONCE[shape]
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(shape, path.read_text("utf-8"), re.MULTILINE)
    ]
    assert [name for name in found if name != home] == [], f"use {instead}"
