"""The figures of the benchmarks as JSON: read from a page, and compared with those of another run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "figures.py"
PAGES = ROOT / "docs" / "benchmarks"
MEASURED = [page for page in sorted(PAGES.glob("*.md")) if page.stem != "faults"]

PAGE = """# Some benchmark

Written by `make bench-some`.

One processor, 2 cores, 4 GB; Linux.

## Jobs

|  | jobs/s | min to max | CPU |
| --- | ---: | ---: | ---: |
| raw SQL | 1,674 | 580 to 744 | 357.5 µs |
| alfred-db | 900 |  | 33% |

|  | measured | target | met |
| --- | ---: | ---: | ---: |
| jobs: alfred-db / raw SQL | 0.538 | at least 0.5 | yes |
| p50: alfred-db / raw SQL | 1.21 | at most 1.3 | yes |
| searches with too few rows | 0 | at most 0 | yes |

## Import

|  | median | ratio |
| --- | ---: | ---: |
| `import a` | 200 ms | 1.00 |
| `import b` | 9 ms | 0.05 |
"""


@pytest.fixture(scope="module")
def figures() -> Iterator[Any]:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import figures  # type: ignore[import-not-found]

        yield figures
    finally:
        sys.path.remove(str(SCRIPT.parent))
        sys.modules.pop("figures", None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "work.md").write_text(PAGE)
    return tmp_path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def run_of(figures: Any, folder: Path, **ratios: float | None) -> Path:
    """A finished run whose page has other values for some ratios, or not these ratios."""
    made = folder / "run"
    made.mkdir()
    found = figures.figures(PAGE, date="2026-12-02", source="a run")
    found["ratios"] = [
        {**ratio, "value": ratios.get(ratio["label"].split(":")[0], ratio["value"])}
        for ratio in found["ratios"]
        if ratios.get(ratio["label"].split(":")[0], 0) is not None
    ]
    (made / "work.json").write_text(json.dumps(found))
    return made


def test_a_page_is_read(figures: Any) -> None:
    found = figures.figures(PAGE, date="2026-12-01", source="a test")
    assert found["date"] == "2026-12-01"
    assert found["source"] == "a test"
    assert found["machine"] == "One processor, 2 cores, 4 GB; Linux."
    assert found["ratios"] == [
        {"label": "jobs: alfred-db / raw SQL", "value": 0.538, "better": "higher", "target": 0.5},
        {"label": "p50: alfred-db / raw SQL", "value": 1.21, "better": "lower", "target": 1.3},
        {"label": "searches with too few rows", "value": 0.0, "better": "lower", "target": 0.0},
        {"label": "Import: `import b` / `import a`", "value": 0.045, "better": "lower"},
    ]
    assert found["medians"] == [
        {"section": "Jobs", "label": "raw SQL", "column": "jobs/s", "value": 1674.0},
        {"section": "Jobs", "label": "raw SQL", "column": "CPU", "value": 357.5, "unit": "µs"},
        {"section": "Jobs", "label": "alfred-db", "column": "jobs/s", "value": 900.0},
        {"section": "Jobs", "label": "alfred-db", "column": "CPU", "value": 33.0, "unit": "%"},
        {"section": "Import", "label": "`import a`", "column": "median", "value": 200.0, "unit": "ms"},
        {"section": "Import", "label": "`import b`", "column": "median", "value": 9.0, "unit": "ms"},
    ]


@pytest.mark.parametrize("page", MEASURED, ids=lambda page: page.stem)
def test_each_page_has_its_figures_beside_it(figures: Any, page: Path) -> None:
    found = json.loads(page.with_suffix(".json").read_text("utf-8"))
    again = figures.figures(page.read_text("utf-8"), date=found["date"], source=found["source"])
    assert found == again, f"run `python benchmarks/figures.py {page.relative_to(ROOT)}`"
    labels = [ratio["label"] for ratio in found["ratios"]]
    assert len(labels) == len(set(labels))
    assert found["machine"] != "unknown"
    # The page of every call has only times, and its targets are on the page of growth.
    assert (page.stem in figures.RUNS) == (len(labels) > 2) == (page.stem != "growth_calls")


def test_a_page_that_is_published_has_its_figures(folder: Path) -> None:
    """As every benchmark does it: by `harness.publish`."""
    program = (
        "import harness; page = harness.Page('work.md', 'T', 'Written by `make bench-work`.');"
        "harness.publish(page, 'S', harness.targets([harness.at_least('a / b', 0.51234, 0.5)]))"
    )
    environment = {"ALFRED_DB_BENCH_RESULTS": str(folder), "PYTHONPATH": f"{SCRIPT.parent}:{ROOT}"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
    found = json.loads((folder / "work.json").read_text("utf-8"))
    assert found["ratios"] == [{"label": "a / b", "value": 0.512, "better": "higher", "target": 0.5}]
    assert found["source"] == "make bench-work"


@pytest.mark.parametrize(
    ("before", "after", "higher", "worse"),
    [
        (1.0, 0.951, True, False),
        (1.0, 0.95, True, False),  # no more than 5%
        (1.0, 0.949, True, True),
        (1.0, 2.0, True, False),
        (2.0, 2.1, False, False),
        (2.0, 2.11, False, True),
        (2.0, 1.0, False, False),
        (0.0, 0.0, False, False),
        (0.0, 0.01, False, True),
        (0.0, 0.01, True, False),
        (1.0, None, True, True),
    ],
)
def test_worse_is_by_more_than_five_in_a_hundred(
    figures: Any, before: float, after: float | None, higher: bool, worse: bool
) -> None:
    assert figures.Change("a", before, after, higher).is_worse() is worse


def test_a_run_as_good_as_before_passes(figures: Any, folder: Path) -> None:
    assert run(folder / "base" / "work.md", "--date", "2026-12-01").returncode == 0
    made = run_of(figures, folder, jobs=0.52, p50=1.1)
    done = run("--compare", folder / "base", made)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "work: 4 ratios of 2026-12-01 (make bench-some) beside those of 2026-12-02: 0 worse by more than 5%\n"
    )


def test_a_worse_ratio_and_one_that_is_gone_fail(figures: Any, folder: Path) -> None:
    run(folder / "base" / "work.md")
    done = run("--compare", folder / "base", run_of(figures, folder, jobs=0.5, p50=None))
    assert done.returncode == 1
    assert "2 worse by more than 5%" in done.stdout
    assert "  jobs: alfred-db / raw SQL: 0.538 -> 0.5 (higher is better)\n" in done.stdout
    assert "  p50: alfred-db / raw SQL: 1.21, and the run has none\n" in done.stdout


def test_the_tolerance_can_be_another_one(figures: Any, folder: Path) -> None:
    run(folder / "base" / "work.md")
    made = run_of(figures, folder, jobs=0.5)
    assert run("--compare", folder / "base", made, "--tolerance", "0.1").returncode == 0


def test_a_folder_without_figures_is_refused(folder: Path) -> None:
    run(folder / "base" / "work.md")
    (folder / "empty").mkdir()
    done = run("--compare", folder / "base", folder / "empty")
    assert done.returncode == 2
    assert "has no figures of" in done.stderr
