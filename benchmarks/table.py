"""Results: one Markdown table a benchmark, printed and kept in docs/benchmarks/."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

__all__ = ["interleaved", "publish"]

FOLDER = Path(__file__).parent.parent / "docs" / "benchmarks"


def interleaved(runs: int, contenders: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median seconds of each contender; they take turns, so a slow minute of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, run in contenders.items():
            seconds[name].append(run())
    return {name: median(values) for name, values in seconds.items()}


def publish(section: str, notes: str, medians: Mapping[str, float], limit: float) -> bool:
    """Write and print a section: times, and their ratio to the first. Whether the last is within `limit`."""
    base, *_, last = medians.values()
    rows = [f"| {name} | {value * 1000:.0f} ms | {value / base:.2f} |" for name, value in medians.items()]
    lines = [
        f"## {section}",
        "",
        f"{notes} Limit of the last row: {limit}. {os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
        "| | median | ratio |",
        "|---|---:|---:|",
        *rows,
        "",
    ]
    text = "\n".join(lines)
    print(text)
    FOLDER.mkdir(parents=True, exist_ok=True)
    page = FOLDER / "foundation.md"
    old = (
        page.read_text() if page.exists() else "# Benchmarks of the foundation\n\nWritten by `make bench`.\n"
    )
    kept = re.sub(rf"\n## {re.escape(section)}\n.*?(?=\n## |\Z)", "", old, flags=re.DOTALL)
    page.write_text(kept.rstrip("\n") + "\n\n" + text)
    return last / base <= limit
