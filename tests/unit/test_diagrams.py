"""The diagrams of the documentation show what the models have."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from alfred_db.models import Base

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/reference/diagrams"
PICTURES = sorted(FOLDER.glob("*.svg"))


def texts(path: Path) -> list[str]:
    root = ElementTree.parse(path).getroot()
    return [str(one.text) for one in root.iter("{http://www.w3.org/2000/svg}text")]


def test_they_are_drawn_from_the_models() -> None:
    done = subprocess.run(
        [sys.executable, "tools/diagrams.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "run `make docs`"


def test_every_column_is_in_one() -> None:
    shown: dict[str, set[str]] = {}
    for path in PICTURES:
        if path.name != "all.svg":
            shown[path.stem] = set(texts(path))
    for mapper in Base.registry.mappers:
        found = shown[mapper.class_.__module__.rpartition(".")[2]]
        table = mapper.local_table
        assert {str(getattr(table, "fullname", "")), *(column.name for column in table.columns)} <= found


def test_one_has_every_table_with_foreign_keys() -> None:
    linked = {
        table.fullname
        for one in Base.metadata.sorted_tables
        for key in one.foreign_key_constraints
        for table in (key.table, key.referred_table)
    }
    assert set(texts(FOLDER / "all.svg")) == linked
    lines = (FOLDER / "all.svg").read_text("utf-8").count("marker-end")
    assert lines == sum(len(table.foreign_key_constraints) for table in Base.metadata.sorted_tables)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_no_two_tables_overlap_and_no_text_leaves_its_table(path: Path) -> None:
    picture = path.read_text("utf-8")
    number = r'"(-?\d+)"'
    boxes = [
        tuple(map(int, found))
        for found in re.findall(
            rf'<rect x={number} y={number} width={number} height={number} rx="5" fill="#fff"', picture
        )
    ]
    assert boxes
    for place, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, high in boxes[:place]:
            assert x >= left + wide or left >= x + width or y >= top + high or top >= y + height
    for at, shown in re.findall(r'<text x="(\d+)" y="\d+" (?:fill|font-weight)[^>]*>([^<]*)<', picture):
        right = int(at) + len(html.unescape(shown)) * 7.0
        assert any(x <= int(at) and right <= x + width + 1 for x, _, width, _ in boxes), shown


def test_the_page_describes_each_in_words() -> None:
    page = (ROOT / "docs/reference/diagrams.md").read_text("utf-8")
    for path in PICTURES:
        assert re.search(rf"!\[[^\]]{{20,}}\]\(diagrams/{path.name}\)", page)
    keys = sum(len(table.foreign_key_constraints) for table in Base.metadata.sorted_tables)
    assert page.count(" refers to `") == keys
