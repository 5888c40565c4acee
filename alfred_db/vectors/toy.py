"""A toy embedder: vectors of texts without a model, for examples and tests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["toy_embedder"]


def toy_embedder(texts: Sequence[str], dimensions: int = 384) -> NDArray[np.float32]:
    """Return a vector of length 1 for each text; texts that share words or parts of words are near to each other.

    The same text has the same vector in every process and on every machine. It knows no meanings: `car` and `vehicle`
    are as far apart as any two words. Use a model for real texts.

    Args:
        texts: The texts.
        dimensions: The length of the vectors, at least 1.

    Returns:
        A matrix of float32, with a row for each text.
    """
    if dimensions < 1:
        raise ValueError(f"dimensions {dimensions}: expected at least 1")
    matrix = np.zeros((len(texts), dimensions), np.float32)
    for row, text in zip(matrix, texts, strict=True):
        for feature, weight in _features(text):
            # Two places for each feature: that two features share both is rare.
            digest = hashlib.blake2b(feature.encode(errors="replace"), digest_size=16).digest()
            for part in (digest[:8], digest[8:]):
                number = int.from_bytes(part, "big")
                row[number % dimensions] += weight if number >> 63 else -weight
        length = float(np.linalg.norm(row))
        if length == 0.0:  # no words, or words that cancel each other out
            row[
                int.from_bytes(hashlib.blake2b(text.encode(errors="replace")).digest(), "big") % dimensions
            ] = 1.0
        else:
            row /= length
    return matrix


def _features(text: str) -> list[tuple[str, float]]:
    """Return the words of a text, and their parts of three letters, so that `cat` is near to `cats`."""
    features: list[tuple[str, float]] = []
    for word in re.findall(r"\w+", text.casefold()):
        features.append((word, 1.0))
        framed = f"^{word}$"
        parts = [framed[place : place + 3] for place in range(len(framed) - 2)]
        features += [(part, 0.5) for part in parts]
    return features
