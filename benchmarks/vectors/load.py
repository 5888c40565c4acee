"""Loading all rows: each contender's own bulk call, into a table without a vector index."""

from __future__ import annotations

from functools import partial
from statistics import median

import psycopg
from harness import ContenderError, Target, at_least, interleaved, table

from .data import Rows
from .peers import OURS, RAW, STOCK, Contenders, Started

__all__ = ["load", "load_table", "load_targets", "plain", "without_vector_index"]

TIMES_THE_PEERS = ("langchain", "vecs")


def plain(url: str) -> None:
    """Leave `documents` the shape of the peers' tables: a key, a text, metadata and a vector, and no other index."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER TABLE documents DROP COLUMN search, DROP COLUMN content_hash")
        connection.execute("ALTER TABLE documents DROP CONSTRAINT uq_documents_external_id")
        found = connection.execute(
            "SELECT indexname FROM pg_indexes WHERE tablename = 'documents'"
        ).fetchall()
        for (name,) in found:
            if not name.startswith("pk_"):
                connection.execute(f'DROP INDEX "{name}"')


def without_vector_index(url: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP INDEX IF EXISTS {name}")


def load(
    all_: Contenders, rows: Rows, runs: int, ours_only: bool = False
) -> tuple[list[tuple[str, ...]], dict[str, float]]:
    """Lines for a table, and rows a second by name. Leaves each with the rows of its last load."""

    def once(started: Started) -> float:
        started.empty()
        seconds: float = started.contender.ask("load")
        if (stored := started.rows()) != len(rows):
            raise ContenderError(f"void: {stored:,} of {len(rows):,} rows are there")
        return seconds

    chosen = {name: one for name, one in all_.started.items() if not ours_only or name in (RAW, STOCK, OURS)}
    failed: dict[str, str] = {}
    times = interleaved(runs, {name: partial(once, one) for name, one in chosen.items()}, failed)
    rates = {name: len(rows) / median(seconds) for name, seconds in times.items()}
    lines = [
        (
            name,
            f"{rate:,.0f}",
            f"{rate / rates[RAW]:.2f}",
            f"{min(times[name]):.2f} to {max(times[name]):.2f} s",
        )
        for name, rate in rates.items()
    ]
    return [*lines, *((name, why, "", "") for name, why in {**failed, **all_.failed}.items())], rates


def load_table(lines: list[tuple[str, ...]]) -> str:
    return table(("", "rows a second", "of raw COPY BINARY", "spread"), lines)


def load_targets(rates: dict[str, float], own: dict[str, float]) -> list[Target]:
    """`rates` of the peers' shape of table, `own` of the platform's."""
    void = float("nan")  # meets no target
    ratio = own.get(OURS, void) / own.get(RAW, void)
    return [at_least("load into `documents`: alfred-db / raw COPY BINARY", ratio, 0.6)] + [
        at_least(f"load: alfred-db / {name}", rates.get(OURS, void) / rate, 10)
        for name, rate in rates.items()
        if name.startswith(TIMES_THE_PEERS)
    ]
