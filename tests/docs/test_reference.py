"""The built reference has an entry for every public name and member, and its pages stay small enough to load."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sqlalchemy.orm import DeclarativeBase

import alfred_db

ROOT = Path(__file__).parents[2]
LARGEST = 150_000
"""Bytes of a page."""


def is_protocol(value: type) -> bool:
    return typing.Protocol in value.__bases__


def members(name: str, value: Any) -> Iterator[str]:
    """The public name, and those of its fields, methods and members."""
    yield name
    if not inspect.isclass(value) or name == "Base":
        return
    if issubclass(value, DeclarativeBase):
        columns = [column for column in inspect.get_annotations(value) if not column.startswith("_")]
        yield from (f"{name}.{attribute}" for attribute in columns)
        return
    fields: set[str] = set()
    if is_dataclass(value) or typing.is_typeddict(value) or hasattr(value, "_fields") or is_protocol(value):
        fields = {field for field in typing.get_type_hints(value) if not field.startswith("_")}
    if issubclass(value, Enum):
        fields = set(value.__members__)
    methods = {
        attribute
        for base in value.__mro__
        if base.__module__.startswith("alfred_db")
        for attribute, found in vars(base).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(found) or isinstance(found, property | classmethod | staticmethod))
    }
    if hasattr(value, "_fields"):
        methods -= {"count", "index"}
    yield from (f"{name}.{attribute}" for attribute in sorted(fields | methods))


def test_every_public_name_has_an_entry(site: Path) -> None:
    pages = (site / "reference").rglob("*.html")
    ids = {found for page in pages for found in re.findall(r'id="([\w.]+)"', page.read_text("utf-8"))}
    # A name is documented as `alfred_db.Task`, or where it is defined.
    known = {found.removeprefix("alfred_db.") for found in ids}
    known |= {
        ".".join(parts[cut:]) for found in ids for parts in [found.split(".")] for cut in range(1, len(parts))
    }
    wanted = [member for name in alfred_db.__all__ for member in members(name, getattr(alfred_db, name))]
    assert len(wanted) > 1500
    assert sorted(set(wanted) - known) == []


def test_pages_stay_small(site: Path) -> None:
    sizes = {page.relative_to(site).as_posix(): page.stat().st_size for page in site.rglob("*.html")}
    assert {page: size for page, size in sizes.items() if size > LARGEST} == {}


def test_llms_txt_has_every_page(site: Path) -> None:
    listed = (site / "llms.txt").read_text("utf-8")
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", listed, re.MULTILINE)
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    made = [
        page for page in pages if page.parts[0] == "reference" and page.stem not in ("cli", "configuration")
    ]
    html = [str(page.with_suffix("") / "index.html") for page in made]
    assert sorted(links) == sorted([*html, *(str(page) for page in pages if page not in made)])
    assert [link for link in links if not (site / link).is_file()] == []
    assert listed.startswith("# alfred-db\n\n> ")
    assert "\n## How to: Operate\n" in listed
