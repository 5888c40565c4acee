"""Cut a small sample out of a folder of documents, queries and their embeddings, gold documents included.

    python tools/make_sample.py --from FOLDER --to examples/data

The choice is a hash of a seed and the index, so every platform and Python version makes the same sample. Entries
whose gloss says that the term is a slur, or has one of the other words of MARKED, are left out, and their queries.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

DOCUMENTS = "wordnet_documents.jsonl"
QUERIES = "wordnet_queries.jsonl"
VECTORS = "wordnet_minilm_384.npz"
LICENSE = "WORDNET-LICENSE"

MARKED = re.compile(r"\b(offensive|slur|derogatory|disparaging|vulgar|obscene)\b", re.IGNORECASE)
"""Words by which WordNet marks a term as one not to be used; a few harmless glosses have them too."""


def shuffled(kind: str, indices: Iterable[int], seed: int) -> list[int]:
    """The indices in an order that depends on nothing but the kind and the seed."""
    return sorted(indices, key=lambda index: hashlib.sha256(f"{seed}:{kind}:{index}".encode()).digest())


def spread(groups: dict[int, str], count: int, seed: int) -> list[int]:
    """`count` of the indices, each group in proportion to its size (to within one)."""
    if count >= len(groups):
        return list(groups)
    ordered = sorted(shuffled("document", groups, seed), key=groups.__getitem__)
    return [ordered[(2 * step + 1) * len(ordered) // (2 * count)] for step in range(count)]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file without their line breaks."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to a UTF-8 file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def make_sample(source: Path, target: Path, documents: int, queries: int, seed: int) -> None:
    """Write a random sample of the documents and queries in `source` into `target`."""
    document_lines, query_lines = read_lines(source / DOCUMENTS), read_lines(source / QUERIES)
    with np.load(source / VECTORS) as arrays:
        document_vectors, query_vectors, gold = arrays["documents"], arrays["queries"], arrays["gold"]

    kept = {i for i, line in enumerate(document_lines) if not MARKED.search(json.loads(line)["text"])}
    askable = [i for i in range(len(query_lines)) if int(gold[i]) in kept]
    chosen_queries = sorted(shuffled("query", askable, seed)[:queries])
    wanted = {int(gold[index]) for index in chosen_queries}
    if len(wanted) > documents:
        raise SystemExit(f"{len(wanted)} gold documents do not fit into {documents} documents")
    lexnames = {i: json.loads(document_lines[i])["lexname"] for i in sorted(kept - wanted)}
    chosen = sorted(wanted.union(spread(lexnames, documents - len(wanted), seed)))
    position = {original: new for new, original in enumerate(chosen)}
    new_gold = [position[int(gold[index])] for index in chosen_queries]

    target.mkdir(parents=True, exist_ok=True)
    pairs = zip(chosen_queries, new_gold, strict=True)
    records = [json.loads(query_lines[index]) | {"gold": new} for index, new in pairs]
    write_lines(target / DOCUMENTS, (document_lines[index] for index in chosen))
    write_lines(target / QUERIES, (json.dumps(record, ensure_ascii=False) for record in records))
    vectors = {"documents": document_vectors[chosen], "queries": query_vectors[chosen_queries]}
    halves = {name: array.astype(np.float16) for name, array in vectors.items()}
    np.savez_compressed(target / VECTORS, **halves, gold=np.array(new_gold, dtype=np.int32))
    shutil.copyfile(source / LICENSE, target / LICENSE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--to", dest="target", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    make_sample(**vars(parser.parse_args()))
