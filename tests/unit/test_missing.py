"""The errors for keys that no row has: each names the thing, its key, and the next step."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import get_args

import pytest

from alfred_db.errors import NotFoundError
from alfred_db.execution.missing import MissingThing, not_found

REPOSITORIES = Path(__file__).parents[2] / "alfred_db" / "repositories" / "_async"
KEY = uuid.UUID(int=7)


@pytest.mark.parametrize("thing", get_args(MissingThing))
def test_an_error_names_the_thing_and_its_key_and_the_next_step(thing: MissingThing) -> None:
    error = not_found(thing, KEY)
    assert isinstance(error, NotFoundError)
    assert re.fullmatch(rf"{thing} {KEY}: [^;]+; .+", str(error))


def test_a_text_is_quoted_and_shortened() -> None:
    assert str(not_found("bucket", "a\nb")).startswith("bucket 'a\\nb': ")
    assert len(str(not_found("bucket", "x" * 10_000))) < 200


def test_each_thing_is_used() -> None:
    called = "".join(path.read_text("utf-8") for path in REPOSITORIES.glob("*.py"))
    assert sorted(thing for thing in get_args(MissingThing) if f'not_found("{thing}",' not in called) == []
