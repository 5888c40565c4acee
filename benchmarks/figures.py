"""The figures of a page of results for machines, and whether those of one run are worse than those of another.

    python benchmarks/figures.py docs/benchmarks/work.md            # writes work.json beside the page
    python benchmarks/figures.py --compare docs/benchmarks FOLDER   # what a run in FOLDER has made worse
    python benchmarks/figures.py --compare docs/benchmarks          # the same, of a run that it makes first

`harness.publish` writes the JSON with each section of a page. Only ratios are compared: they say the same on any
machine. A ratio that is worse by more than `TOLERANCE`, or that the run does not have, makes the status 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Change", "changes", "figures", "write"]

TOLERANCE = 0.05

HERE = Path(__file__).parent
RUNS: Mapping[str, Sequence[Sequence[str]]] = {
    "foundation": (("import_time.py",), ("upgrade.py",)),
    "catalogs": (("catalogs.py",),),
    "vectors": (("-m", "vectors"),),
    "work": (("-m", "work"),),
    "redis": (("redis_roles.py",),),
    "retrieval": (("-m", "retrieval"),),
    "growth": (("-m", "growth", "--rows", "50000"),),
    "mcp": (("mcp_server.py",),),
    "steady": (("-m", "work.steady"),),
    "operations": (("operations.py", "--rows", "200000"), ("tenants.py",)),
}
"""What writes each page."""

_NUMBER = re.compile(r"(-?[\d,]*\.?\d+)\s*(ms|µs|s|B|%|KB|MB|GB)?")


def figures(page: str, *, date: str, source: str) -> dict[str, Any]:
    """What a page in Markdown says, with its labels: the ratios, which have targets, and all other figures."""
    ratios: list[dict[str, Any]] = []
    medians: list[dict[str, Any]] = []
    for section, header, rows in _tables(page):
        if header[1:] == ["measured", "target", "met"]:
            ratios += [_ratio(row[0], row[1], row[2]) for row in rows]
        elif header[1:] == ["median", "ratio"]:
            times = list(_medians(section, header[:2], rows))
            ratios += [
                {
                    "label": f"{section}: {time['label']} / {times[0]['label']}",
                    "value": round(time["value"] / times[0]["value"], 4),
                    "better": "lower",
                }
                for time in times[1:]
            ]
            medians += times
        else:
            medians += _medians(section, header, rows)
    machine = next((line for line in page.splitlines() if re.search(r"\d cores", line)), "unknown")
    return {"date": date, "source": source, "machine": machine, "ratios": ratios, "medians": medians}


def write(page: Path, *, date: str | None = None, source: str | None = None) -> None:
    """Write the figures of a page beside it."""
    text = page.read_text(encoding="utf-8")
    made_by = re.search(r"^Written by `(.+)`\.$", text, re.MULTILINE)
    found = figures(
        text,
        date=date or datetime.datetime.now(datetime.UTC).date().isoformat(),
        source=source or (made_by[1] if made_by else "unknown"),
    )
    page.with_suffix(".json").write_text(_dumped(found), encoding="utf-8")


def _dumped(found: Mapping[str, Any]) -> str:
    """JSON with a line for each figure, so that a difference shows what has changed."""
    members = [
        json.dumps(name)
        + ": "
        + (
            "[\n  " + ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n ]"
            if isinstance(value, list)
            else json.dumps(value, ensure_ascii=False)
        )
        for name, value in found.items()
    ]
    return "{\n " + ",\n ".join(members) + "\n}\n"


@dataclass(frozen=True)
class Change:
    """One ratio, before and after."""

    label: str
    before: float
    after: float | None
    """None if the run does not have it."""
    higher_is_better: bool

    @property
    def worse_by(self) -> float:
        """The part by which it is worse; below 0 it is better."""
        if self.after is None:
            return float("inf")
        lost = self.before - self.after if self.higher_is_better else self.after - self.before
        if lost == 0:
            return 0.0
        return lost / abs(self.before) if self.before else float("inf") if lost > 0 else float("-inf")

    def is_worse(self, tolerance: float = TOLERANCE) -> bool:
        # What is as far as the tolerance is within it, whatever floating point makes of it.
        return self.worse_by > tolerance + 1e-9

    def __str__(self) -> str:
        if self.after is None:
            return f"{self.label}: {self.before:g}, and the run has none"
        better = "higher" if self.higher_is_better else "lower"
        return f"{self.label}: {self.before:g} -> {self.after:g} ({better} is better)"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Each ratio of `before` beside the one of the same label of `after`."""
    found = {ratio["label"]: ratio["value"] for ratio in after["ratios"]}
    return [
        Change(ratio["label"], ratio["value"], found.get(ratio["label"]), ratio["better"] == "higher")
        for ratio in before["ratios"]
    ]


def compare(baseline: Path, run: Path, names: Sequence[str], tolerance: float) -> bool:
    """Print what the run has made worse, page by page. Whether it is nothing."""
    good = True
    for name in names:
        old, new = (json.loads((folder / f"{name}.json").read_text("utf-8")) for folder in (baseline, run))
        compared = changes(old, new)
        worse = [change for change in compared if change.is_worse(tolerance)]
        good = good and not worse
        print(
            f"{name}: {len(compared)} ratios of {old['date']} ({old['source']}) beside those of {new['date']}:"
            f" {len(worse)} worse by more than {tolerance:.0%}"
        )
        print("".join(f"  {change}\n" for change in worse), end="")
    return good


def _run(names: Sequence[str], folder: Path) -> None:
    paths = (str(HERE), str(HERE.parent / "tests"), os.environ.get("PYTHONPATH", ""))
    environment = {
        **os.environ,
        "ALFRED_DB_BENCH_RESULTS": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    for name in names:
        for arguments in RUNS[name]:
            command = [arguments[0] if arguments[0] == "-m" else str(HERE / arguments[0]), *arguments[1:]]
            # A target that was missed makes the status 1, and is no reason to stop.
            subprocess.run([sys.executable, *command], env=environment, check=False)


def _tables(page: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Section, header and rows of each table."""
    section, table = "", list[list[str]]()
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip().strip("|").split("|")])
            continue
        if len(table) > 2:
            yield section, table[0], table[2:]
        table = []
        if line.startswith("## "):
            section = line.removeprefix("## ")


def _ratio(label: str, value: str, target: str) -> dict[str, Any]:
    words = target.split()
    limit = {"target": float(words[2])} if len(words) > 2 else {}
    better = "higher" if words[1] == "least" else "lower"
    return {"label": label, "value": float(value.replace(",", "")), "better": better, **limit}


def _medians(section: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for column, cell in zip(header[1:], row[1:], strict=False):
            number = _NUMBER.fullmatch(cell)
            if number is not None:
                value = float(number[1].replace(",", ""))
                unit = {"unit": number[2]} if number[2] else {}
                yield {"section": section, "label": row[0], "column": column, "value": value, **unit}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    parser.add_argument(
        "--compare", action="store_true", help="two folders, or one and a run that is made first"
    )
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="PAGE", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--date", help="of the figures, if not today")
    parser.add_argument("--source", help="where they come from, if not as the page says")
    options = parser.parse_args()
    if not options.compare:
        for page in options.paths:
            write(page, date=options.date, source=options.source)
        return 0
    baseline, *runs = options.paths
    names = options.only or [name for name in RUNS if (baseline / f"{name}.json").exists()]
    with tempfile.TemporaryDirectory(prefix="alfred-db-bench-results-") as made:
        if not runs:
            _run(names, Path(made))
        run = runs[0] if runs else Path(made)
        if runs and not options.only:
            names = [name for name in names if (run / f"{name}.json").exists()]
        if not names:
            parser.error(f"{run} has no figures of {', '.join(RUNS)}")
        return 0 if compare(baseline, run, names, options.tolerance) else 1


if __name__ == "__main__":
    sys.exit(main())
