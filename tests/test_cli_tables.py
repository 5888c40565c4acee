"""Tables of the command line fit the terminal, and what deletes asks first."""

from __future__ import annotations

import sys

import click
import pytest
from click.testing import CliRunner

from alfred_db.cli import main
from alfred_db.cli.options import confirm
from alfred_db.cli.tables import table

ROWS = [{"id": 7, "name": "a name", "content": "word " * 60, "none": None}]


@pytest.mark.parametrize("width", [40, 60, 120])
def test_a_table_is_as_wide_as_the_terminal(width: int) -> None:
    lines = table(("id", "name", "none", "content"), ROWS, width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].startswith("7   a name  -")
    assert lines[1].endswith("…")


def test_a_file_has_whole_rows() -> None:
    assert table(("content",), ROWS).splitlines()[1] == ("word " * 60).strip()


def test_a_narrow_terminal_still_has_every_column() -> None:
    first = table(("id", "name", "none", "content"), ROWS, 5).splitlines()[0]
    assert first.split() == ["id", "name", "none", "content"]


def test_what_deletes_asks_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(click, "confirm", lambda question, **_: asked.append(question))
    with pytest.raises(click.UsageError, match="pass --yes"):
        confirm("Delete it?", False)  # the standard input of a test is no terminal
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    confirm("Delete it?", True)
    assert asked == []
    confirm("Delete it?", False)
    assert asked == ["Delete it?"]


def test_content_that_is_no_object_is_refused() -> None:
    for content in ("[1]", "nonsense", "7"):
        done = CliRunner().invoke(
            main, ["enqueue", "X", content, "--url", "postgresql://nobody@127.0.0.1:1/x"]
        )
        assert done.exit_code == 2
        assert "CONTENT: " in done.stderr
