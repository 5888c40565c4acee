"""What the contenders share: the rows, and how a search is timed. Needs numpy and nothing else."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contender import serve

__all__ = ["LIMIT", "Data", "run"]

LIMIT = 10


@dataclass(frozen=True)
class Data:
    """Rows as they are found in files; `metadata` has the row's number under `place`."""

    texts: list[str]
    metadata: list[dict[str, Any]]
    vectors: Any
    queries: Any

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])


def read(folder: Path) -> Data:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    texts, metadata = [row["text"] for row in rows], [row["metadata"] for row in rows]
    return Data(texts, metadata, np.load(folder / "vectors.npy"), np.load(folder / "queries.npy"))


def run(peer: Any) -> None:
    """Serve a class: `Peer(url, data)`, with `table` and `column`, `prepare`, `load`, `search` and what else it has.

    `prepare` brings the rows into the form that `load` takes, and is not timed. A search gives the rows' places;
    `done` ends a transaction that searches have kept open.
    """
    held: Any = None
    loop = asyncio.new_event_loop()

    def start(url: str, folder: str) -> dict[str, Any]:
        nonlocal held
        held = peer(url, read(Path(folder)))
        held.prepare()
        asynchronous = "search_async" if hasattr(held, "search_async") else None
        return {"table": held.table, "column": held.column, "async": asynchronous}

    def load() -> float:
        before = time.perf_counter()
        held.load()
        return time.perf_counter() - before

    def search(how: str, first: int, count: int) -> dict[str, Any]:
        seconds, places, one = [], [], getattr(held, how)
        for query in held.data.queries[first : first + count]:
            before = time.perf_counter()
            found = one(query)
            seconds.append(time.perf_counter() - before)
            places.append(found)
        if hasattr(held, "done"):
            held.done()
        return {"seconds": seconds, "places": places}

    def search_async(how: str, first: int, count: int) -> dict[str, Any]:
        async def searches() -> dict[str, Any]:
            seconds, places, one = [], [], getattr(held, how)
            for query in held.data.queries[first : first + count]:
                before = time.perf_counter()
                found = await one(query)
                seconds.append(time.perf_counter() - before)
                places.append(found)
            if hasattr(held, "done_async"):
                await held.done_async()
            return {"seconds": seconds, "places": places}

        return loop.run_until_complete(searches())

    def read_vectors(count: int) -> dict[str, Any]:
        before = time.perf_counter()
        matrix = held.read_vectors(count)
        seconds = time.perf_counter() - before
        return {"seconds": seconds, "shape": list(matrix.shape), "sum": float(np.abs(matrix).sum())}

    serve(start, load, search, search_async, read_vectors)
