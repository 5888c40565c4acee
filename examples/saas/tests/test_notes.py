from __future__ import annotations

from collections.abc import Callable

import pytest
from notes import add, bill, find, sign_up

from alfred_db import Database, NotFoundError


@pytest.fixture(scope="session")
def alfred_prepare() -> Callable[[str], None]:
    """The tenants of the tests, created once for each database."""

    def prepare(url: str) -> None:
        with Database(url) as database:
            sign_up(database, "acme", "globex")

    return prepare


@pytest.mark.parametrize("number", [1, 2])
def test_customers_see_their_notes_alone(alfred_db: Database, number: int) -> None:
    assert bill(alfred_db, "acme", "globex") == {"acme": 0, "globex": 0}
    add(alfred_db, "acme", "The meeting is on Monday")
    add(alfred_db, "globex", "The merger is secret")
    assert find(alfred_db, "acme", "When is the meeting?")[0] == "The meeting is on Monday"
    assert "The merger is secret" not in find(alfred_db, "acme", "merger secret")
    assert bill(alfred_db, "acme", "globex") == {"acme": 1, "globex": 1}


def test_a_customer_that_has_not_signed_up(alfred_db: Database) -> None:
    with pytest.raises(NotFoundError):
        find(alfred_db, "nobody", "anything")
