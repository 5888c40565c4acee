"""Vectors, memories and documents beside raw psycopg and the alternatives; results go to docs/benchmarks/vectors.md.

PYTHONPATH=benchmarks python -m vectors [--data FOLDER] [--quick] [--only PART ...] [--rows N]

FOLDER has `wordnet_documents.jsonl`, `wordnet_queries.jsonl` and `wordnet_minilm_384.npz`; by default it is the
sample in examples/data. `--quick` takes few rows and rounds, prints the page instead of keeping it, and fails
only if something is void. `--only` measures some parts, and leaves the other sections of the page as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import harness
import psycopg
from harness import Page, Server, Target, machine, one_server, publish, targets
from plot import bars

from alfred_db import Database

from .data import SAMPLE, Rows, clusters, wordnet
from .filters import filtered
from .growth import growth
from .hybrid import hybrid
from .load import load, load_table, load_targets, plain, without_vector_index
from .memories import memories
from .million import million
from .peers import OURS, RAW, Contenders, contenders, migrated
from .quantised import advice, quantised
from .search import read, search, search_targets
from .spaces import spaces

PAGE = Page(
    "vectors.md",
    "Benchmarks of vectors",
    "Written by `make bench-vectors`.\n\n![Search and load beside the alternatives](vectors.svg)\n\n"
    "All contenders have the same server, the same rows and the same index (HNSW, cosine, m = 16,"
    " ef_construction = 64, ef_search = 40), run in one process each, and take turns. Peers have the tables that they"
    " make themselves, and run in their own environments at the versions in their names. Recall is against exact"
    " search by numpy, where what is as near counts as right. A figure is void when recall is unequal, rows are missing"
    " or the index was not used. Ratios of searches are medians over the turns, of what was measured in the same turn.",
)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    runs: int = 5
    rounds: int = 5
    queries: int = 300
    made: int = 2_000
    growth: tuple[int, int] = (10_000, 100_000)
    quantised: int = 50_000
    million: int = 1_000_000
    read: int = 1_000


QUICK = Size(
    runs=2, rounds=1, queries=50, made=1_000, growth=(1_000, 5_000), quantised=3_000, million=20_000, read=500
)


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"({what}: {time.perf_counter() - start:.0f} s)\n", file=sys.stderr, flush=True)


def compare(
    server: Server, folder: Path, rows: Rows, size: Size, ours: str
) -> tuple[list[Target], dict[str, dict[str, float]]]:
    """Load, search, and read, of all contenders; leaves the rows in `ours`."""
    name = f"{rows.name}, {rows.dimensions} dimensions"
    found: list[Target] = []
    panels: dict[str, dict[str, float]] = {}
    asked = dataclasses.replace(rows, queries=rows.queries[: size.queries])
    place = asked.write(folder / f"rows_{rows.dimensions}")
    documents = rows.dimensions == 384
    if documents:
        url = migrated(server, "plain")
        plain(url)
    else:
        url = ours
        without_vector_index(url, "idx_knowledge_points_embedding")
    with contenders(server, place, url) as all_:
        with timed(f"load of {name}"):
            lines, rates = load(all_, rows, size.runs)
        notes = (
            "`documents.add_many`, with its ANALYZE, into a table that has the shape of the peers' tables; vectors are indexed"
            " afterwards."
            if documents
            else "`knowledge.upsert`, which compares with the stored points, into the platform's own table with its text indexes."
        )
        publish(PAGE, f"Load: {name}", notes, f"{size.runs} loads of each.", load_table(lines))
        panels[f"Load of {name}, rows a second"] = rates
        if documents:
            found += load_targets(rates, own_table(place, rows, size, all_, ours))
        with timed(f"indexes of {name}"):
            for started in all_.started.values():
                started.index()
        for asynchronous in (False, True):
            kind = "async search" if asynchronous else "search"
            with timed(f"{kind} of {name}"):
                text, searched = search(all_, asked, size.rounds, asynchronous=asynchronous)
            publish(
                PAGE,
                f"{kind.capitalize()}: {name}",
                "As above, awaited; vecs, mem0 and agno have no search that is async to the server."
                if asynchronous
                else "The nearest ten with text and metadata. Peers take a connection from their pool and begin and end"
                " a transaction for each; alfred-db has a unit of work for each, except where it has one for a block of"
                " searches, and begins no transaction for what only searches; raw psycopg none unless it is noted.",
                f"{len(asked.queries)} queries, {size.rounds} rounds.",
                text,
            )
            found += search_targets(searched, f"{kind}, {rows.dimensions}-d")
            if not asynchronous:
                panels[f"Nearest ten of {name}, median ms"] = {
                    name: 1000 * median(one.seconds) for name, one in searched.items()
                }
        if documents:
            text, target = read(all_, min(size.read, len(rows)), 5 * size.runs)
            publish(
                PAGE,
                f"Vectors read back: {name}",
                f"{size.read:,} vectors, as one matrix of float32; in an open transaction, or in none.",
                text,
            )
            found.append(target)
    return found, panels


def own_table(place: Path, rows: Rows, size: Size, compared: Contenders, ours: str) -> dict[str, float]:
    """From here on ours and raw psycopg are at the platform's table, with all that it has."""
    without_vector_index(ours, "idx_documents_embedding")
    for started in compared.started.values():
        if started.table == "documents":
            started.contender.ask("start", ours, str(place))
    moved = {
        name: dataclasses.replace(one, url=ours) if one.table == "documents" else one
        for name, one in compared.started.items()
    }
    compared.started.update(moved)
    lines, rates = load(compared, rows, size.runs, ours_only=True)
    notes = "The same into `documents` unchanged: with text search, hash, and seven indexes; vectors are indexed afterwards."
    publish(PAGE, f"Load into the platform's own table: {rows.name}", notes, load_table(lines))
    return rates


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the parts measure on."""

    server: Server
    rows: Rows
    size: Size
    url: str
    """The database whose `documents` are the rows."""


def measure_filters(bench: Bench, database: Database) -> list[Target]:
    queries = min(bench.size.queries, 100)
    text, found = filtered(database, bench.rows, queries, bench.size.rounds)
    publish(
        PAGE, "Filtered search", "Filters on the metadata; the way that is taken by default is `auto`.", text
    )
    return found


def measure_spaces(bench: Bench, database: Database) -> list[Target]:
    text, found = spaces(database, bench.rows, min(bench.size.queries, 100), bench.size.rounds)
    publish(
        PAGE,
        "Embedding spaces",
        "The same rows in spaces of other lengths beside the built-in one; longer vectors are the same ones repeated,"
        " so that their neighbours are the same. The ratio is to the built-in space in the same turn.",
        text,
    )
    return found


def measure_advice(bench: Bench, database: Database) -> list[Target]:
    text, found = advice(database, len(bench.rows))
    title = "Kinds of indexes: real rows of 384 dimensions"
    publish(PAGE, title, "As `alfred-db vectors advise` prints it.", text)
    return [found]


def measure_hybrid(bench: Bench, database: Database) -> list[Target]:
    text, found = hybrid(database, bench.rows)
    publish(PAGE, "Hybrid search", "Known-item questions about the glosses.", text)
    return [found]


def measure_memories(bench: Bench, database: Database) -> list[Target]:
    text, found = memories(database, bench.url, bench.rows, bench.size.queries)
    publish(PAGE, "Memories", f"{len(bench.rows):,} memories, one by one in turns.", text)
    return found


def measure_growth(bench: Bench, _: Database) -> list[Target]:
    text, found = growth(bench.server, bench.size.growth, min(bench.size.queries, 200), bench.size.rounds)
    publish(PAGE, "Growth", "Made rows of 384 dimensions in `documents`.", text)
    return [found]


def measure_quantised(bench: Bench, _: Database) -> list[Target]:
    size, picture = bench.size, PAGE.path.with_name("indexes.svg")
    text, found = quantised(bench.server, size.quantised, min(size.queries, 200), size.rounds, picture)
    publish(
        PAGE,
        "Kinds of indexes: made rows of 1,536 dimensions",
        "Embedding spaces with the same vectors, in clusters and with a falling spectrum. Bits are ranked again by the full"
        " vectors, as many as ef_search.",
        "![Searches a second by recall](indexes.svg)",
        text,
    )
    return found


def measure_million(bench: Bench, _: Database) -> list[Target]:
    size = bench.size
    text, found = million(bench.server, size.million, min(size.queries, 200), size.rounds)
    publish(PAGE, "Many rows in half precision", "Made rows of 384 dimensions in an embedding space.", text)
    return found


PARTS: Mapping[str, Callable[[Bench, Database], list[Target]]] = {
    "filters": measure_filters,
    "spaces": measure_spaces,
    "advice": measure_advice,
    "hybrid": measure_hybrid,
    "memories": measure_memories,
    "growth": measure_growth,
    "quantised": measure_quantised,
}
"""What is measured of alfred-db alone."""

LONG: Mapping[str, Callable[[Bench, Database], list[Target]]] = {"million": measure_million}
"""What only `--only` measures, since it takes long."""


def loaded(url: str, rows: Rows) -> None:
    """Fill `documents`, where no contender has."""
    with Database(url) as database:
        values: list[Any] = [
            {"content": content, "metadata_": metadata}
            for content, metadata in zip(rows.texts, rows.metadata, strict=True)
        ]
        with database.begin() as uow:
            uow.documents.add_many(values, embeddings=rows.vectors)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("REINDEX INDEX idx_documents_embedding")
        connection.execute("VACUUM (ANALYZE) documents")


def targets_with(found: list[Target]) -> str:
    """The table of the targets, with those that the page has of parts that were not measured now."""
    page = PAGE.path.read_text() if PAGE.path.exists() else ""
    section = page.partition("\n## Targets\n")[2].partition("\n## ")[0]
    lines = {line.split(" | ")[0]: line for line in section.splitlines() if line.startswith("|")}
    lines |= {line.split(" | ")[0]: line for line in targets(found).splitlines()}
    return "\n".join(lines.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="vectors", description=__doc__)
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *LONG], default=[])
    parser.add_argument("--rows", type=int, help="The rows of the part `million`.")
    arguments = parser.parse_args()
    size, only = QUICK if arguments.quick else Size(), arguments.only
    if arguments.rows is not None:
        size = dataclasses.replace(size, million=arguments.rows)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="alfred-db-rows-") as name, one_server() as server:
        folder = Path(name)
        if arguments.quick:
            harness.RESULTS = folder / "docs"
        rows = wordnet(arguments.data)
        bench = Bench(server, rows, size, migrated(server, "ours"))
        found: list[Target] = []
        panels: dict[str, dict[str, float]] = {}
        if only:
            loaded(bench.url, rows)
        else:
            PAGE.path.unlink(missing_ok=True)
            publish(PAGE, "Set-up", machine(server))
            found, panels = compare(server, folder, rows, size, bench.url)
        for part in only or PARTS:
            with timed(part), Database(bench.url) as database:
                found += {**PARTS, **LONG}[part](bench, database)
        if not only:
            made = clusters(size.made, 1536, size.queries)
            more, more_panels = compare(server, folder, made, size, bench.url)
            found += more
            panels |= more_panels
        minutes = f"The whole took {(time.perf_counter() - began) / 60:.0f} minutes."
        publish(PAGE, "Targets", targets_with(found), *([] if only else [minutes]))
        plain_names = {
            panel: {
                name.rpartition(" ")[0] if name[-1].isdigit() else name: value
                for name, value in values.items()
            }
            for panel, values in panels.items()
        }
        text_of_page = PAGE.path.read_text()
        if panels:
            bars(
                PAGE.path.with_suffix(".svg"),
                "alfred-db beside the alternatives",
                plain_names,
                ours=OURS,
                ceiling=RAW,
            )
    return quick_end(found, text_of_page) if arguments.quick else int(not all(one.met for one in found))


def quick_end(found: list[Target], page: str) -> int:
    """Say whether all ran and nothing is void; few rows in few rounds say nothing about speed."""
    void = [line for line in page.splitlines() if line.startswith("|") and "void" in line]
    void += [one.what for one in found if math.isnan(one.value)]
    print("Nothing is void." if not void else "Void:\n" + "\n".join(void))
    print("A quick run checks that everything runs; whether targets are met is for a whole one.")
    return 1 if void else 0


if __name__ == "__main__":
    sys.exit(main())
