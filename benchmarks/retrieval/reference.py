"""BM25 in Python over the lexemes of PostgreSQL (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import psycopg

__all__ = ["Bm25", "lexemes"]

_LEXEMES = """
    SELECT (SELECT array_agg(lexeme) FROM unnest(words)), (SELECT array_agg(cardinality(positions)) FROM unnest(words))
    FROM (SELECT place, to_tsvector('english', one) AS words FROM unnest(%s::text[]) WITH ORDINALITY AS u (one, place)
    OFFSET 0) AS given ORDER BY place
"""


def lexemes(connection: psycopg.Connection[Any], texts: Sequence[str]) -> list[dict[str, int]]:
    """The English lexemes of each text, with how often it has them."""
    found: list[dict[str, int]] = []
    for start in range(0, len(texts), 2000):
        rows = connection.execute(_LEXEMES, (list(texts[start : start + 2000]),))
        found += [dict(zip(words or (), counts or (), strict=True)) for words, counts in rows]
    return found


class Bm25:
    """k1 = 1.2, b = 0.75, and the length of a text is its number of words."""

    def __init__(self, texts: Sequence[dict[str, int]]) -> None:
        self.lengths = [sum(text.values()) for text in texts]
        self.average = max(sum(self.lengths) / max(len(texts), 1), 1.0)
        self.postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for place, text in enumerate(texts):
            for word, count in text.items():
                self.postings[word].append((place, count))

    def best(self, words: dict[str, int], limit: int) -> list[int]:
        """The places of the best texts; of equal ones the first."""
        scores: Counter[int] = Counter()
        for word in words:
            found = self.postings.get(word, [])
            rarity = math.log((len(self.lengths) - len(found) + 0.5) / (len(found) + 0.5) + 1)
            for place, count in found:
                length = 0.25 + 0.75 * self.lengths[place] / self.average
                scores[place] += rarity * 2.2 * count / (count + 1.2 * length)
        return sorted(scores, key=lambda place: (-scores[place], place))[:limit]
