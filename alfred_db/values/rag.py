"""The context of a RAG query, and how documents are packed into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..search.results import Hit
from .documents import DocumentRow

__all__ = ["RagContext", "RagSource"]

SEPARATOR = "\n\n"

LONGEST_WORD = 40
"""A longer run without white space is not a word, as in scripts without spaces, and is cut at the limit."""


@dataclass(frozen=True, slots=True)
class RagSource:
    """A document in a context."""

    document_id: int
    title: str | None
    distance: float | None
    """Cosine distance from the query, 0 to 2; None if it was found only by full text."""
    rank: int
    """Its rank in the results of the search, from 1; also its number in the text."""
    chars: int
    """Number of characters of its title and content in the text."""


@dataclass(frozen=True, slots=True)
class RagContext:
    """Documents as one text.

    Each one is `[rank] title`, a line break and its content; a blank line separates them.
    """

    text: str
    sources: tuple[RagSource, ...]
    truncated: bool
    """Whether a document was cut or left out because the text would have been too long."""


def packed(hits: Sequence[Hit[DocumentRow]], max_chars: int) -> RagContext:
    """Pack documents, the best first, into at most `max_chars` characters.

    Documents are included whole while they fit. The first that does not fit is cut after a word, and the rest
    are left out. Documents without text are skipped.
    """
    text, truncated = "", False
    sources: list[RagSource] = []
    for rank, hit in enumerate(hits, start=1):
        parts = [(part or "").strip() for part in (hit.row.title, hit.row.content)]
        body = "\n".join(part for part in parts if part)
        if not body:
            continue
        start = f"{SEPARATOR if text else ''}[{rank}] "
        taken = _cut(body, max_chars - len(text) - len(start))
        if taken:
            text += start + taken
            sources.append(RagSource(hit.row.id, hit.row.title, hit.distance, rank, len(taken)))
        if len(taken) < len(body):
            truncated = True
            break
    return RagContext(text, tuple(sources), truncated)


def _cut(text: str, room: int) -> str:
    """Return the leading words of a text that fit.

    The text neither begins nor ends with white space.
    """
    if len(text) <= room:
        return text
    end = max(room, 0)
    while end and not text[end].isspace() and room - end <= LONGEST_WORD:
        end -= 1
    return text[: room if room - end > LONGEST_WORD else end].rstrip()
