"""The sets of rows, real and made, and the truth about them: exact neighbours, by numpy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SAMPLE", "SHARES", "Rows", "clusters", "nearest_distances", "recall", "spectrum", "wordnet"]

SAMPLE = Path(__file__).parents[2] / "examples" / "data"
SHARES = {"half": 0.5, "tenth": 0.1, "hundredth": 0.01, "thousandth": 0.001}
"""Flags in the metadata, each true for that share of the rows, chosen at random."""


@dataclass(frozen=True)
class Rows:
    """Texts with metadata and vectors, and queries; `questions` and `gold` where there are known answers."""

    name: str
    texts: list[str]
    metadata: list[dict[str, Any]]
    vectors: Any
    queries: Any
    questions: list[str]
    gold: list[int]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])

    def write(self, folder: Path) -> Path:
        """Write the rows for contenders to read."""
        folder.mkdir()
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            for text, metadata in zip(self.texts, self.metadata, strict=True):
                file.write(json.dumps({"text": text, "metadata": metadata}) + "\n")
        np.save(folder / "vectors.npy", self.vectors)
        np.save(folder / "queries.npy", self.queries)
        return folder


def wordnet(folder: Path) -> Rows:
    """Real glosses with real embeddings; filters by their topic, and by chance."""
    documents = _lines(folder / "wordnet_documents.jsonl")
    questions = _lines(folder / "wordnet_queries.jsonl")
    with np.load(folder / "wordnet_minilm_384.npz") as arrays:
        vectors, queries = (arrays[name].astype(np.float32) for name in ("documents", "queries"))
    topics = [{"topic": one["lexname"]} for one in documents]
    return Rows(
        f"{len(documents):,} WordNet glosses",
        [one["text"] for one in documents],
        _numbered(topics),
        vectors,
        queries,
        [one["text"] for one in questions],
        [one["gold"] for one in questions],
    )


def clusters(count: int, dimensions: int, queries: int, seed: int = 7) -> Rows:
    """Made rows of unit length in clusters of clusters, as near to one another as real embeddings are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(200, dimensions)).astype(np.float32)
    inner = centres[rng.integers(200, size=2000)] + 0.7 * rng.normal(size=(2000, dimensions)).astype(
        np.float32
    )

    def some(number: int) -> Any:
        made = np.empty((number, dimensions), np.float32)
        for start in range(0, number, 10_000):
            part = made[start : start + 10_000]
            part[:] = inner[rng.integers(2000, size=len(part))]
            part += 0.6 * rng.standard_normal(part.shape, np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    texts = [f"row {place}" for place in range(count)]
    vectors, asked = some(count), some(queries)
    return Rows(f"{count:,} made rows", texts, _numbered([{} for _ in texts]), vectors, asked, [], [])


def spectrum(count: int, dimensions: int, queries: int, seed: int = 11) -> Rows:
    """Made rows of unit length with the structure of real embeddings: clusters, and a falling spectrum.

    The spectrum has the participation ratio of the real rows of 384 dimensions, 136. Its axes are turned at random, as a
    model's are: each number of a vector has a part of all of them. Unturned, the signs of the many numbers that hardly
    matter would count as much as those of the few that do.
    """
    rng = np.random.default_rng(seed)
    scale = (1.0 / (1.0 + np.arange(dimensions) / 48.0)).astype(np.float32)
    axes = np.linalg.qr(rng.standard_normal((dimensions, dimensions), np.float32))[0]
    centres = rng.standard_normal((400, dimensions), np.float32) * scale

    def some(number: int) -> Any:
        made = np.empty((number, dimensions), np.float32)
        for start in range(0, number, 10_000):
            part = made[start : start + 10_000]
            part[:] = centres[rng.integers(len(centres), size=len(part))]
            part += 0.6 * rng.standard_normal(part.shape, np.float32) * scale
            part[:] = part @ axes
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    texts = [f"row {place}" for place in range(count)]
    vectors, asked = some(count), some(queries)
    return Rows(f"{count:,} made rows", texts, _numbered([{} for _ in texts]), vectors, asked, [], [])


def nearest_distances(vectors: Any, queries: Any, limit: int) -> Any:
    """The cosine distance of each query's last true neighbour, (queries,); what is as near is as right."""
    last = []
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for block in np.array_split(queries, max(1, len(queries) // 100)):
        similar = (block / np.linalg.norm(block, axis=1, keepdims=True)) @ unit.T
        last.append(1 - np.partition(similar, -limit, axis=1)[:, -limit])
    return np.concatenate(last)


def recall(vectors: Any, queries: Any, found: Sequence[Sequence[int]], last: Any, limit: int) -> float:
    """The share of the true neighbours among what was found; ties count by distance."""
    right = 0
    for query, places, distance in zip(queries, found, last, strict=True):
        given = vectors[list(dict.fromkeys(places))]
        norms = np.linalg.norm(given, axis=1) * np.linalg.norm(query)
        right += int((1 - given @ query / norms <= distance + 1e-5).sum())
    return right / (limit * len(queries))


def _numbered(metadata: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    order = rng.permutation(len(metadata))
    for place, (one, chance) in enumerate(zip(metadata, order, strict=True)):
        one["place"] = place
        one |= {name: True for name, share in SHARES.items() if chance < max(1, share * len(metadata))}
    return metadata


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
