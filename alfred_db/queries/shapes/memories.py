"""Building blocks shared by memories and memory entries: hashes of texts and expiry."""

from __future__ import annotations

import hashlib
import unicodedata
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, SQLColumnExpression, case, literal_column, null, or_
from sqlalchemy.dialects.postgresql import TSVECTOR

from ...checks import encodable, within
from ...errors import InvalidInputError
from ...models import Memory, MemoryEntry
from .functions import func
from .words import LANGUAGE, bound_language

DAY = 86_400.0
MAX_TTL = 365_000 * DAY
MAX_IMPORTANCE = 2**31 - 1


def content_hash(content: str) -> bytes:
    """Return the sha256 of the normalised content, which identifies a text.

    Normalised: case folded, Unicode form NFC, without white space at either end, and with each run of white
    space replaced by one blank.

    Raises:
        InvalidInputError: The text is empty, or holds a lone surrogate.
    """
    normalised = " ".join(unicodedata.normalize("NFC", content.casefold()).split())
    if not normalised:
        raise InvalidInputError("content: expected a text, got none; there is nothing to remember")
    if not encodable(normalised):
        raise InvalidInputError(
            "content: holds half of a surrogate pair, which is no character; decode the text with the right codec"
        )
    return hashlib.sha256(normalised.encode()).digest()


def words_of(
    content: SQLColumnExpression[Any], language: ColumnElement[Any] | None = None
) -> ColumnElement[Any]:
    """Return the words of a text, by default in the language of the indexes; a tsvector holds 1 MB, hence the limit."""
    language = literal_column(f"'{LANGUAGE}'::regconfig") if language is None else language
    return func.to_tsvector(language, func.left(content, literal_column("100000")), type_=TSVECTOR)


def stored_words(content: SQLColumnExpression[Any]) -> dict[str, ColumnElement[Any]]:
    """Return the columns with the words of a text, which a statement that writes the text writes too."""
    return {"search": words_of(content), "search_hash": _hash_of(content)}


@lru_cache
def indexed_text(model: type[Memory | MemoryEntry], language: str) -> ColumnElement[Any]:
    """Return the words of the content in a language: the indexed expression for that of the index.

    For another language it has the parameter `language`. It is the same object in each call: statements are kept by it.
    """
    return words_of(model.content, None if language == LANGUAGE else bound_language())


@lru_cache
def ranked_text(model: type[Memory | MemoryEntry], language: str) -> ColumnElement[Any]:
    """Return the same words for the ranking: the stored ones, unless they are those of another text."""
    if language != LANGUAGE:
        return indexed_text(model, language)
    same = model.search_hash == _hash_of(model.content)
    found: ColumnElement[Any] = case((same, model.search), else_=words_of(model.content))
    return found


def _hash_of(content: SQLColumnExpression[Any]) -> ColumnElement[int]:
    return func.hashtextextended(content, literal_column("0", BigInteger), type_=BigInteger)


def seconds(name: str, duration: timedelta) -> float:
    """Return a duration in seconds.

    Raises:
        InvalidInputError: It is not positive, or more than 1,000 years.
    """
    value = duration.total_seconds()
    within(f"{name} in seconds", value, 0.001, MAX_TTL)
    return value


def lasting(ttl: timedelta | None) -> timedelta | None:
    """Return a checked time to live; None is unlimited."""
    return None if ttl is None else timedelta(seconds=seconds("ttl", ttl))


def alive(model: type[Memory | MemoryEntry]) -> ColumnElement[bool]:
    """The condition that a row has not expired."""
    return or_(model.expires_at.is_(None), model.expires_at > func.statement_timestamp())


def later(old: Any, new: Any) -> ColumnElement[datetime | None]:
    """The later of two expiries; NULL (never) is the latest."""
    return case((or_(old.is_(None), new.is_(None)), null()), else_=func.greatest(old, new))


def expired(model: type[Memory | MemoryEntry]) -> ColumnElement[bool]:
    """The condition that a row has expired, in the form that the index on `expires_at` serves."""
    return model.expires_at <= func.statement_timestamp()
