"""The context that a question is answered from, and how found documents are packed into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..search.results import Hit
from .documents import DocumentRow

__all__ = ["RagContext", "RagSource"]

SEPARATOR = "\n\n"

LONGEST_WORD = 40
"""A longer run without white space is no word, as in scripts that write none, and is cut where the room ends."""


@dataclass(frozen=True, slots=True)
class RagSource:
    """A document in a context."""

    document_id: int
    title: str | None
    distance: float | None
    """Cosine distance from the question, 0 to 2; None for one found by word alone."""
    rank: int
    """Its place among the results of the search, from 1, and its number in the text."""
    chars: int
    """Characters of its title and content that are in the text."""


@dataclass(frozen=True, slots=True)
class RagContext:
    """Documents as one text: each is `[rank] title`, a line break and the content; an empty line parts them."""

    text: str
    sources: tuple[RagSource, ...]
    truncated: bool
    """Whether a document was cut or left out because the text would have been too long."""


def packed(hits: Sequence[Hit[DocumentRow]], max_chars: int) -> RagContext:
    """The documents, the best first, in at most `max_chars` characters.

    Those that fit are whole; the first that does not is cut after a word, and the rest are left out, however
    short. Documents without text are passed over.
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
    """The words at the beginning of a text that fit; the text neither begins nor ends with white space."""
    if len(text) <= room:
        return text
    end = max(room, 0)
    while end and not text[end].isspace() and room - end <= LONGEST_WORD:
        end -= 1
    return text[: room if room - end > LONGEST_WORD else end].rstrip()
