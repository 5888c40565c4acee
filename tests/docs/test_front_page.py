"""The front pages, in the README and in the documentation: their figures are those of the benchmarks, and they agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
START = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/index.md")}
DRIFT = 1.5
"""By how much a ratio may differ from that of the latest run before the front page is to be corrected."""

FIGURES = {
    "nearest 10 of 20,000 vectors, beside raw psycopg": (
        "vectors",
        "search, 384-d: p50, alfred-db, in one unit of work / raw psycopg",
    ),
    "nearest 10 of 20,000 vectors, langchain-postgres beside alfred-db": (
        "vectors",
        r"search, 384-d: p50, langchain-postgres \S+ / alfred-db",
    ),
    "load 20,000 documents, beside langchain-postgres": (
        "vectors",
        r"load: alfred-db / langchain-postgres \S+",
    ),
    "load 20,000 documents into the platform's own table, beside raw COPY": (
        "vectors",
        "load into `documents`: alfred-db / raw COPY BINARY",
    ),
    "hybrid search beside the better of vector and words, recall of ten": (
        "retrieval",
        r"20,000 WordNet glosses: hybrid / the better leg, recall@10",
    ),
    "claim and complete tasks one by one, beside raw SQL": ("work", "one by one: alfred-db / raw SQL"),
    "claim and complete tasks one by one, beside procrastinate": (
        "work",
        "one by one: alfred-db / procrastinate",
    ),
    "claim and complete tasks in batches, beside pgqueuer": ("work", "batches of 100: alfred-db / pgqueuer"),
    "steps of durable functions, beside dbos": ("work", "steps: alfred-db / dbos"),
}
"""The ratio of a benchmark, as an expression, for each figure."""


def table(page: str) -> dict[str, tuple[float, str]]:
    """The figures of a front page, with the names of their benchmarks."""
    text = START[page].split("## Figures")[1].split("\n## ")[0]
    rows = re.findall(
        r"^\| (.+?) \| ([\d.]+) times.* \| \[.+?\]\(\S*benchmarks/(\w+)\.md\) \|$", text, re.MULTILINE
    )
    return {work: (float(figure), benchmark) for work, figure, benchmark in rows}


def measured(benchmark: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (ROOT / "docs" / "benchmarks" / f"{benchmark}.json").read_text("utf-8")
    )
    return found


def test_both_front_pages_have_the_same_figures() -> None:
    assert table("README.md") == table("docs/index.md")
    assert set(table("README.md")) == {*FIGURES, "read a cached value, 16 connections, beside Redis"}


@pytest.mark.parametrize("work", FIGURES)
def test_a_figure_is_that_of_its_benchmark(work: str) -> None:
    figure, page = table("docs/index.md")[work]
    benchmark, label = FIGURES[work]
    assert page == benchmark
    (value,) = [row["value"] for row in measured(benchmark)["ratios"] if re.fullmatch(label, row["label"])]
    assert value / DRIFT < figure < value * DRIFT, (
        f"{work}: is {value} now; correct README.md and docs/index.md"
    )


def test_the_figure_of_redis_is_that_of_its_benchmark() -> None:
    figure, page = table("docs/index.md")["read a cached value, 16 connections, beside Redis"]
    columns = {
        row["column"]: row["value"]
        for row in measured("redis")["medians"]
        if row["label"] == "get, 16 connections"
    }
    value = columns["alfred-db"] / columns["Redis"]
    assert page == "redis"
    assert value / DRIFT < figure < value * DRIFT, (
        f"Redis: is {value:.2f} now; correct README.md and docs/index.md"
    )


@pytest.mark.parametrize("page", START)
def test_a_front_page_has_what_a_stranger_looks_for(page: str) -> None:
    text = START[page]
    assert "overview.svg)" in text
    for other in ("langchain-postgres", "procrastinate", "dbos", "letta", "Qdrant", "Redis", "Celery"):
        assert other in text, other
    starts = text.split("## Three starts")[1].split("\n## ")[0]
    assert len(re.findall(r"^\*\*", starts, re.MULTILINE)) == 3


def test_the_readme_links_to_pages_of_the_project_absolutely() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", START["README.md"])
    assert pictures == ["https://raw.githubusercontent.com/alfred-db/alfred-db/main/docs/overview.svg"]
