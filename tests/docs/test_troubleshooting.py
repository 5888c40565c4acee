"""The page of troubleshooting has what the code can raise: each class, each SQLSTATE, and messages that exist."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from alfred_db import errors
from alfred_db.errors import AlfredDBError
from alfred_db.failures import causes

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CLASSES = [
    kind
    for name in errors.__all__
    if inspect.isclass(kind := getattr(errors, name)) and issubclass(kind, AlfredDBError)
]


def sections() -> dict[str, str]:
    """The text below each heading that is the name of a class."""
    parts = re.split(r"^### `(\w+)`$", PAGE.split("## By SQLSTATE")[0], flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_class_has_an_entry_that_states_what_to_do() -> None:
    found = sections()
    assert set(found) == {kind.__name__ for kind in CLASSES}
    assert [name for name, text in found.items() if len(text.split()) < 8] == []


def test_every_sqlstate_has_its_class_and_whether_to_retry() -> None:
    rows = re.findall(r"^\| `(\w{2,5})(\.\.\.)?` \| .+? \| `(\w+)` \| (yes|no) \|", PAGE, re.MULTILINE)
    written = {code + dots: (kind, again) for code, dots, kind, again in rows}
    by_class = {f"{code}...": kind for code, (kind, _) in errors._BY_SQLSTATE_CLASS.items()}
    by_code = {code: kind for code, (kind, _) in errors._BY_SQLSTATE.items()}
    for code in errors._RETRYABLE - set(by_code):
        by_code[code] = errors._BY_SQLSTATE_CLASS[code[:2]][0]
    expected = {
        code: (kind.__name__, "yes" if code in errors._RETRYABLE else "no")
        for code, kind in (by_class | by_code).items()
    }
    assert written == expected
    assert list(written) == sorted(written)


def test_codes_whose_text_decides_are_named() -> None:
    """Those that `translate` compares itself, besides the tables."""
    source = inspect.getsource(errors.translate)
    compared = set(re.findall(r'"(\d[\dA-Z]{4})"', source)) | {errors.UNLOGGED}
    assert compared >= {"0A000", "42704", "55000", "42P10"}
    assert {code for code in compared if f"`{code}`" not in PAGE and f"`{code[:2]}...`" not in PAGE} == set()


def test_messages_that_the_page_quotes_are_in_the_code() -> None:
    """What stands in the first column of the tables of messages, in backticks, is a part of a message."""
    sources = " ".join(path.read_text("utf-8") for path in (ROOT / "alfred_db").rglob("*.py"))
    texts = re.sub(r'"\s*\n\s*f?"', "", sources)  # adjacent literals are one message
    libpq = [pattern for pattern, _ in (*causes._CONFIGURATION, *causes._TRANSIENT)]
    quoted = [
        part
        for table in re.findall(r"^\| message.*\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
        for row in table.splitlines()
        for part in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]
    assert len(quoted) > 15
    missing = [
        part
        for part in quoted
        if part not in texts and not any(re.search(p, part.replace("...", "x")) for p in libpq)
    ]
    assert missing == []


def test_lines_of_the_log_that_the_guide_quotes_are_in_the_code() -> None:
    page = (ROOT / "docs" / "howto" / "logging.md").read_text(encoding="utf-8")
    table = page.split("## Which lines to watch")[1]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    sources = " ".join(path.read_text("utf-8") for path in (ROOT / "alfred_db").rglob("*.py"))
    texts = re.sub(r'"\s*\n\s*f?"', "", sources)
    assert len(quoted) > 4
    assert [line for line in quoted if line not in texts] == []


def test_the_statuses_for_other_frameworks_are_those_of_fastapi() -> None:
    from alfred_db.fastapi import status_of_error

    page = (ROOT / "docs" / "howto" / "web-frameworks.md").read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], namespace)
    for kind in CLASSES:
        error = kind("the message")
        assert namespace["answer"](error)[1] == status_of_error(error), kind
