"""Numbers in JSON come back as they were given, by each way into the database."""

from __future__ import annotations

from typing import Any

import pytest

from alfred_db.errors import InvalidInputError
from alfred_db.repositories import AsyncUnitOfWork

NUMBERS: dict[str, Any] = {
    "large": 1e22,
    "negative": -1.5e300,
    "largest": 1.7976931348623157e308,
    "smallest": 5e-324,
    "whole": 1.0,
    "int": 10**22,
    "huge": 10**40,
    "text": "1e+22",
    "list": [1e16, {"e+": 1e17}],
}


def same(found: Any, given: Any) -> bool:
    if isinstance(given, dict):
        return found.keys() == given.keys() and all(same(found[key], given[key]) for key in given)
    if isinstance(given, list):
        return len(found) == len(given) and all(map(same, found, given))
    return type(found) is type(given) and bool(found == given)


async def test_a_float_stays_a_float_and_an_int_an_int(uow: AsyncUnitOfWork) -> None:
    document = await uow.documents.add("one", metadata=NUMBERS)
    (copied,) = await uow.documents.add_many([{"content": "two", "metadata_": NUMBERS}])  # type: ignore[list-item]
    changed = await uow.documents.add("three")
    await uow.documents.update(changed.id, {"metadata_": NUMBERS})  # type: ignore[typeddict-unknown-key]
    for one in (document.id, copied, changed.id):
        found = await uow.documents.get(one)
        assert found is not None
        assert same(found.metadata_, NUMBERS)
    task, _ = await uow.tasks.enqueue("numbers", NUMBERS)
    await uow.tasks.enqueue_many([{"intent": "numbers", "content": NUMBERS}] * 3)
    assert all(same(one.content, NUMBERS) for one in await uow.tasks.claim(worker="w", limit=10))
    assert same(task.content, NUMBERS)


@pytest.mark.parametrize("text", ["a\0", "\ud800"])
async def test_json_that_cannot_be_stored_names_the_row(uow: AsyncUnitOfWork, text: str) -> None:
    rows = [{"content": "x"}, {"content": "y", "metadata_": {"a": [text]}}]
    with pytest.raises(InvalidInputError, match=r"row 1: documents\.metadata"):
        await uow.documents.add_many(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"content": ["a"]}, "row 1: documents.content: expected .*text, got list"),
        ({"content": b"a"}, "row 1: documents.content: expected .*text, got bytes"),
        ({"content": "a", "metadata_": 5}, "row 1: Document.metadata_: expected a mapping, got int"),
    ],
)
async def test_a_row_of_a_wrong_type_is_named(
    uow: AsyncUnitOfWork, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        await uow.documents.add_many([{"content": "x", "metadata_": {}}, row])  # type: ignore[list-item]
