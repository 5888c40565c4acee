"""Real texts and vectors for the tests: the sample of examples/data, and a larger set grown from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent.parent / "examples" / "data"
GROWN = 20_000
NOW, HALF_LIFE = datetime(2026, 6, 1, tzinfo=UTC), timedelta(days=30)
Matrix = npt.NDArray[np.float32]


@cache
def documents() -> list[dict[str, Any]]:
    """The glosses: synset, lexname, words, text."""
    return [json.loads(line) for line in (FOLDER / "wordnet_documents.jsonl").read_text().splitlines()]


@cache
def queries() -> list[dict[str, Any]]:
    """Known-item queries: text, and gold, the number of the document that is meant."""
    return [json.loads(line) for line in (FOLDER / "wordnet_queries.jsonl").read_text().splitlines()]


@cache
def vectors() -> tuple[Matrix, Matrix]:
    """The unit vectors of the documents and of the queries."""
    with np.load(FOLDER / "wordnet_minilm_384.npz") as data:
        return data["documents"].astype(np.float32), data["queries"].astype(np.float32)


@cache
def grown() -> Matrix:
    """GROWN unit vectors: the real ones, and noisy copies of them with neighbours of their own."""
    real, _ = vectors()
    noise = np.random.default_rng(7).normal(scale=0.02, size=(GROWN, real.shape[1])).astype(np.float32)
    noise[: len(real)] = 0
    rows = real[np.arange(GROWN) % len(real)] + noise
    unit: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def parts(number: int) -> dict[str, int]:
    """Metadata that splits the grown set: `half` is 0 for one in 2, `tenth` for one in 10, and so on."""
    mixed = (number * 7919) % GROWN
    return {"half": mixed % 2, "tenth": mixed % 10, "hundredth": mixed % 100, "thousandth": mixed % 1000}


def importances() -> npt.NDArray[np.int64]:
    """Of the documents as memories: of any kind."""
    return np.random.default_rng(1).integers(1, 11, len(documents()))


def ages() -> npt.NDArray[np.float64]:
    """Of the documents as memories at NOW, in half-lives."""
    return np.random.default_rng(2).exponential(1.0, len(documents()))
