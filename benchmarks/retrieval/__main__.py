"""How well searches find what is right, by vector, by words and by both; results go to docs/benchmarks/retrieval.md.

PYTHONPATH=benchmarks python -m retrieval [--data FOLDER] [--quick]

FOLDER has `wordnet_documents.jsonl`, `wordnet_queries.jsonl` and `wordnet_minilm_384.npz` (by default the sample in
examples/data), `conversations.jsonl` of your own, or both. `--quick` takes 100 questions of each set, and prints the page
instead of keeping it.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import harness
import psycopg
from harness import Page, Target, at_least, at_most, machine, one_server, publish, table, targets
from plot import lines

from alfred_db import Database, SearchWeights, UnitOfWork

from .data import SAMPLE, Set, conversations, made, wordnet
from .dialogues import Conversation
from .reference import Bm25, lexemes

PAGE = Page(
    "retrieval.md",
    "Benchmarks of retrieval",
    (Path(__file__).parent / "introduction.md").read_text(encoding="utf-8").rstrip(),
)
BEST = 10
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

Found = Callable[[UnitOfWork, str, Any], Iterable[Any]]


@dataclass
class Scores:
    """What a way of searching found for all questions of a set."""

    recalls: dict[int, list[float]] = field(default_factory=lambda: {5: [], 10: []})
    gains: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, found: Sequence[Any], gold: frozenset[Any], seconds: float | None = None) -> None:
        for most, recalls in self.recalls.items():
            recalls.append(sum(one in gold for one in found[:most]) / min(len(gold), most))
        gain = sum(1 / math.log2(place + 2) for place, one in enumerate(found[:BEST]) if one in gold)
        self.gains.append(gain / sum(1 / math.log2(place + 2) for place in range(min(len(gold), BEST))))
        if seconds is not None:
            self.seconds.append(seconds)

    def recall(self, most: int = BEST) -> float:
        return sum(self.recalls[most]) / len(self.recalls[most])

    def row(self, name: str) -> tuple[str, ...]:
        numbers = (self.recall(5), self.recall(), sum(self.gains) / len(self.gains))
        taken = f"{1000 * median(self.seconds):.2f}" if self.seconds else ""
        return (name, *(f"{number:.3f}" for number in numbers), taken)


class Stored:
    """A set in the database: documents where it is one conversation, else memories, with a bank for each."""

    def __init__(self, database: Database, rows: Set) -> None:
        self.rows, self.documents = rows, len(rows.conversations) == 1
        self.banks: dict[str, int] = {}
        self.ids: dict[str, dict[str, int]] = {}
        start = 0
        for talk in rows.conversations:
            vectors = None if rows.turns is None else rows.turns[start : start + len(talk.turns)]
            start += len(talk.turns)
            contents: list[Any] = [{"content": turn.text} for turn in talk.turns]
            with database.begin() as uow:
                if self.documents:
                    ids = uow.documents.add_many(contents, embeddings=vectors)
                else:
                    bank = uow.memory_banks.get_or_create(talk.id)
                    self.banks[talk.id] = bank.id
                    ids = [one.id for one in uow.memories.remember_many(bank, contents, embeddings=vectors)]
            self.ids[talk.id] = dict(zip((turn.id for turn in talk.turns), ids, strict=True))

    def ways(self, talk: Conversation) -> dict[str, Found]:
        """The searches of the library, by name."""
        if self.documents:
            return {
                "vector": lambda uow, _, vector: uow.documents.search(vector),
                "text": lambda uow, text, _: uow.documents.hybrid_search(text, None),
                "hybrid": lambda uow, text, vector: uow.documents.hybrid_search(text, vector),
            }
        bank = self.banks[talk.id]
        return {
            "vector": lambda uow, _, vector: uow.memories.search(bank, vector),
            "text": lambda uow, text, _: uow.memories.hybrid_search(bank, text, None),
            "hybrid": lambda uow, text, vector: uow.memories.hybrid_search(bank, text, vector),
            "recall, with importance": lambda uow, _, vector: uow.memories.recall(bank, vector),
        }

    def weighted(self, talk: Conversation, weights: SearchWeights) -> Found:
        if self.documents:
            return lambda uow, text, vector: uow.documents.hybrid_search(text, vector, weights=weights)
        bank = self.banks[talk.id]
        return lambda uow, text, vector: uow.memories.hybrid_search(bank, text, vector, weights=weights)

    def each(self, most: int | None) -> Iterable[tuple[Conversation, str, frozenset[int], Any]]:
        """Each question: its conversation, text, right ids and vector."""
        place = 0
        for talk in self.rows.conversations:
            for number, question in enumerate(talk.questions):
                if most is None or number < max(1, most // len(self.rows.conversations)):
                    vector = None if self.rows.questions is None else self.rows.questions[place]
                    yield (
                        talk,
                        question.text,
                        frozenset(self.ids[talk.id][one] for one in question.gold),
                        vector,
                    )
                place += 1


def measured(database: Database, stored: Stored, most: int | None) -> dict[str, Scores]:
    scores: dict[str, Scores] = {}
    with database.begin() as uow:
        for talk, text, gold, vector in stored.each(most):
            for name, run in stored.ways(talk).items():
                if vector is None and name != "text":
                    continue
                start = time.perf_counter()
                found = run(uow, text, vector)
                taken = time.perf_counter() - start
                scores.setdefault(name, Scores()).add([hit.row.id for hit in found], gold, taken)
    return scores


def curve(database: Database, stored: Stored, most: int | None, **options: Any) -> dict[float, float]:
    """The recall by the share of the words in the weights."""
    points: dict[float, float] = {}
    with database.begin() as uow:
        for share in SHARES:
            weights, scores = SearchWeights(vector=1 - share, text=share, **options), Scores()
            for talk, text, gold, vector in stored.each(most):
                found = stored.weighted(talk, weights)(uow, text, vector)
                scores.add([hit.row.id for hit in found], gold)
            points[share] = scores.recall()
    return points


def reference(url: str, stored: Stored, most: int | None) -> Scores:
    scores = Scores()
    indexes: dict[str, tuple[Bm25, list[int]]] = {}
    with psycopg.connect(url) as connection:
        for talk in stored.rows.conversations:
            texts = {stored.ids[talk.id][turn.id]: turn.text for turn in talk.turns}
            indexes[talk.id] = Bm25(lexemes(connection, list(texts.values()))), list(texts)
        asked = list(stored.each(most))
        words = lexemes(connection, [text for _, text, _, _ in asked])
    for (talk, _, gold, _), some in zip(asked, words, strict=True):
        index, ids = indexes[talk.id]
        scores.add([ids[place] for place in index.best(some, BEST)], gold)
    return scores


def judged(name: str, scores: dict[str, Scores], bm25: Scores) -> list[Target]:
    found = [at_least(f"{name}: text / BM25, recall@10", scores["text"].recall() / bm25.recall(), 0.97)]
    if "hybrid" in scores:
        better = max(scores["text"].recall(), scores["vector"].recall())
        found.append(
            at_least(f"{name}: hybrid / the better leg, recall@10", scores["hybrid"].recall() / better, 1.0)
        )
        ratio = median(scores["hybrid"].seconds) / median(scores["vector"].seconds)
        found.append(at_most(f"{name}: hybrid / vector, median time", ratio, 3.0))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="retrieval", description=__doc__)
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    most = 100 if arguments.quick else None
    found: list[Target] = []
    curves: dict[str, dict[str, dict[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="alfred-db-page-") as folder, one_server() as server:
        if arguments.quick:
            harness.RESULTS = Path(folder)
        PAGE.path.unlink(missing_ok=True)
        publish(PAGE, "Set-up", machine(server))
        sets = [made()]
        if (arguments.data / "wordnet_documents.jsonl").exists():
            sets.insert(0, wordnet(arguments.data))
        if (arguments.data / "conversations.jsonl").exists():
            sets.append(conversations(arguments.data / "conversations.jsonl"))
        for number, rows in enumerate(sets):
            url = server.database(f"set_{number}")
            with Database(url) as database:
                database.upgrade()
                stored = Stored(database, rows)
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute("VACUUM ANALYZE")
                bm25, scores = reference(url, stored, most), measured(database, stored, most)
                parts = [bm25.row("BM25 in Python"), *(one.row(name) for name, one in scores.items())]
                head = ("", "recall@5", "recall@10", "nDCG@10", "median, ms")
                count = len(bm25.gains)
                publish(PAGE, rows.name, f"{count:,} questions.", table(head, parts))
                found += judged(rows.name, scores, bm25)
                if "hybrid" in scores:
                    curves[rows.name] = _curves(database, stored, most)
        _publish(curves)
        publish(PAGE, "Targets", targets(found))
    return 0 if arguments.quick else int(not all(one.met for one in found))


def _curves(database: Database, stored: Stored, most: int | None) -> dict[str, dict[float, float]]:
    return {"scores": curve(database, stored, most)}


def _publish(curves: dict[str, dict[str, dict[float, float]]]) -> None:
    rows = [
        (f"{name}, {kind}", *(f"{points[share]:.3f}" for share in SHARES))
        for name, kinds in curves.items()
        for kind, points in kinds.items()
    ]
    head = ("share of the words", *(f"{share:g}" for share in SHARES))
    publish(
        PAGE,
        "Weights",
        "Recall@10 of hybrid search by the share of the words in the weights.",
        table(head, rows),
    )
    lines(PAGE.path.with_suffix(".svg"), "Recall@10 by the share of the words in the weights", curves)


if __name__ == "__main__":
    sys.exit(main())
