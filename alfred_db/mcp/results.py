"""What tools return: models of the SDK's structured results, cut to a size that fits a model's context."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

__all__ = ["MAX_CHARS", "Cursor", "Cut", "Done", "Key", "Limit", "Metadata", "Noted", "PageOf", "When"]

MAX_CHARS = 60_000
"""The characters of all texts of one result together."""

LEAST = 200
"""Each text of a result keeps at least this many characters."""

MAX_KEY = 1_000

Cursor = Annotated[
    str | None,
    Field(description="`next` of the previous page; omit it for the first page.", max_length=4_000),
]
Limit = Annotated[int, Field(description="The maximum number of items, 1 to 100.", ge=1, le=100)]
Key = Annotated[int, Field(description="The id, as another tool returned it.", ge=1, le=2**63 - 1)]
Metadata = Annotated[dict[str, Any] | None, Field(description="Any JSON object that is stored beside it.")]
When = datetime


class Noted(BaseModel):
    """A result that can be cut."""

    note: str | None = Field(default=None, description="What was left out of the result, and how to get it.")


class PageOf(Noted):
    """One page of a list."""

    next: str | None = Field(
        default=None, description="Pass it as `after` for the next page; null on the last."
    )


class Done(BaseModel):
    """The outcome of a call that has no rows to return."""

    done: bool = True
    message: str


class Cut:
    """Cuts the texts of one result, and remembers that it did.

    Args:
        number: The number of items that share the characters of the result.
        advice: How the caller gets what was cut.
    """

    def __init__(self, number: int, advice: str) -> None:
        self._room = max(LEAST, MAX_CHARS // max(number, 1))
        self._advice = advice
        self._cut = False

    def text(self, value: str | None) -> str | None:
        """Return the text, or its beginning."""
        if value is None or len(value) <= self._room:
            return value
        self._cut = True
        return value[: self._room] + "…"

    def required(self, value: str) -> str:
        """Return the text, or its beginning."""
        return self.text(value) or ""

    def metadata(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the metadata, or its keys alone where it is too large."""
        if not value or len(json.dumps(value, default=str)) <= self._room:
            return value
        self._cut = True
        return {"omitted_keys": self._keys(list(value))}

    def _keys(self, keys: Sequence[str]) -> list[str]:
        return [key[:100] for key in keys[:20]]

    @property
    def note(self) -> str | None:
        """What the result says about it."""
        return f"Long texts are cut, with … at the end; {self._advice}" if self._cut else None
