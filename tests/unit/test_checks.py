"""The validator: JSON as it is stored, cursors by the types of their columns, texts from outside."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Any, TypedDict

import pytest
from sqlalchemy import BigInteger, DateTime, Double, Integer, Text, Uuid

from alfred_db.checks import (
    MAX_LIMIT,
    as_cursor,
    check_keys,
    check_limit,
    check_values,
    cursor_values,
    json_text,
    plain_text,
    within,
)
from alfred_db.errors import InvalidInputError
from alfred_db.models import Document, Task
from alfred_db.search.filters import in_

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("number", [1e22, -1.5e300, 1e16, 123456789e20, 5e-324, 0.1, 1.0])
def test_a_float_is_written_so_that_it_comes_back_as_one(number: float) -> None:
    text = json_text("x", {"e+": ["1e+22", number]})
    assert text is not None
    assert "e+3" not in text.replace('"', "") or number < 1
    found = json.loads(text)["e+"]
    assert found == ["1e+22", number]
    assert "." in text or "e-" in text
    assert type(found[1]) is float


def test_a_large_whole_number_stays_one() -> None:
    assert json_text("x", 10**30) == "1" + "0" * 30


def test_the_limit_counts_bytes_as_utf8() -> None:
    emoji = "\N{OWL}" * 90_000
    assert json_text("x", emoji, 1 << 20) == f'"{emoji}"'
    with pytest.raises(InvalidInputError, match="x: has 360,002 bytes as JSON, at most 360,001"):
        json_text("x", emoji, 360_001)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("a\0", "x: "),
        ({"a": {"b": ["", "\ud800"]}}, "x.a.b[1]: "),
        ({"a\0": 1}, "x, a key: "),
        ({"a": [{"\udfff": 1}]}, "x.a[0], a key: "),
    ],
)
def test_json_that_cannot_be_stored_is_named(value: Any, place: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        json_text("x", value)
    assert str(caught.value).startswith(place)


def test_a_backslash_is_no_nul() -> None:
    assert json_text("x", "\\u0000") == '"\\\\u0000"'


def test_text_from_outside_is_made_storable() -> None:
    assert plain_text("a\0b\ud800c\udfffd") == "a\ufffdb\ufffdc\ufffdd"
    assert plain_text("a\0b") == "a\ufffdb"
    assert plain_text("zażółć 🦉") == "zażółć 🦉"


KEYS: list[tuple[Any, Any]] = [
    (Integer(), 5),
    (BigInteger(), -(2**40)),
    (Text(), "a"),
    (Uuid(), uuid.UUID(int=9)),
    (DateTime(timezone=True), NOW),
    (Double(), 0.25),
]
OTHERS: list[Any] = [
    True, None, [1], {"a": 1}, [], 10**400, 2**70, "x\0", "\ud800", "9" * 30, float("inf"), float("nan"), 1e308, -1e308
]  # fmt: skip
ACCEPTED = {(Text, "9" * 30), (Double, 2**70), (Double, 1e308), (Double, -1e308), (Double, "9" * 30)}


@pytest.mark.parametrize(("type_", "value"), KEYS, ids=lambda one: type(one).__name__)
def test_a_cursor_has_the_types_of_its_columns(type_: Any, value: Any) -> None:
    assert list(cursor_values(as_cursor([value]), [type_])) == [value]
    for other in OTHERS:
        cursor = base64.urlsafe_b64encode(json.dumps([other]).encode()).decode()
        if isinstance(other, str | int | float) and (type(type_), other) in ACCEPTED:
            continue
        with pytest.raises(InvalidInputError, match="after: "):
            cursor_values(cursor, [type_])
    for wrong in ("", "x", "[5]", "é", as_cursor([]), as_cursor([value, value]), "A" * (2 << 20), 5, None):
        with pytest.raises(InvalidInputError, match="after: "):
            cursor_values(wrong, [type_])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["5", None, True, float("nan"), 10**5000, [1], b"1"], ids=lambda one: type(one).__name__
)
def test_a_number_is_one(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="x: expected"):
        within("x", value, 1, 10)


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (Document, {"content": ["a"]}, "Document.content: expected text, got list"),
        (Document, {"content": b"a"}, "Document.content: expected text, got bytes"),
        (Document, {"content": "a\0"}, "Document.content: holds a NUL"),
        (Document, {"metadata_": 5}, "Document.metadata_: expected a mapping, got int"),
        (Document, {"metadata_": {"a": "\0"}}, "Document.metadata_.a: holds a NUL"),
        (Task, {"priority": True}, "Task.priority: expected a whole number, got bool"),
        (Task, {"available_at": datetime(2026, 1, 1)}, "Task.available_at: a time without time zone"),
        (Task, {"nope": 1}, "Task: 'nope': no such attribute"),
    ],
)
def test_an_attribute_takes_what_it_holds(model: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_values(model, values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("values", ["Art", b"Art", {"a": 1}, 5, None])
def test_a_text_is_no_list_of_values(values: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"in_: .* expected a sequence"):
        in_("metadata.topic", values)


class _Given(TypedDict, total=False):
    name: str
    size: int


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1, 1 << 62])
def test_a_limit_is_of_one_to_a_thousand(limit: int) -> None:
    check_limit(1)
    check_limit(MAX_LIMIT)
    with pytest.raises(InvalidInputError, match=f"^limit: expected 1 to 1,000, got {limit:,}; page$"):
        check_limit(limit, "page")


@pytest.mark.parametrize(
    ("value", "got"), [({}, "nothing"), ({"size": 1}, "'size'"), ({"name": "", "nam": ""}, "'name', 'nam'")]
)
def test_the_keys_of_a_typed_dict(value: dict[str, Any], got: str) -> None:
    check_keys("row 1", {"name": "a"}, _Given, "name")
    check_keys("row 1", {"name": "a", "size": 1}, _Given, "name")
    with pytest.raises(InvalidInputError, match=f"^row 1: expected `name` and at most `size`, got {got}$"):
        check_keys("row 1", value, _Given, "name")
