"""What the page of stability calls public is what the reference documents."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import alfred_db

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "concepts" / "stability.md").read_text("utf-8")


def documented() -> set[str]:
    """The modules that the reference documents as a whole."""
    entries = {
        name
        for page in (ROOT / "docs" / "reference").rglob("*.md")
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)
    }
    names = {name for name in entries if name.removeprefix("alfred_db.") not in alfred_db.__all__}
    return {name for name in names if is_module(name)}


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # what it is in is a module and no package
        return False


def test_the_public_modules_are_those_of_the_reference() -> None:
    named = set(re.findall(r"`(alfred_db\.[a-z_.]*[a-z])`", PAGE))
    assert len(named) > 5
    assert named == documented()
