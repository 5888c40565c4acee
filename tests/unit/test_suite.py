"""How the suite is divided: what belongs together, what comes first, and the sample of the generated half."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sample
import thinned
import workers

ROOT = Path(__file__).parent.parent.parent
FILES = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]


@pytest.mark.parametrize("pattern", [*workers.TOGETHER, *workers.FIRST])
def test_every_pattern_has_files(pattern: str) -> None:
    assert [file for file in FILES if re.search(pattern, file)]


def test_of_the_generated_half_the_files_of_the_sample_run() -> None:
    generated = sorted((ROOT / "tests" / "_sync").glob("*.py"))
    run = {path.stem.removeprefix("test_") for path in generated if not sample.pytest_ignore_collect(path)}
    assert (
        run - {"conftest", "durable_runs", "event_log", "held_tasks", "scheduled", "workflow_runs"}
        == sample.SAMPLE
    )
    assert len(generated) / 5 < len(sample.SAMPLE) < len(generated) / 2


def test_everything_else_runs_with_the_sample() -> None:
    others = [path for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "_sync"]
    assert [path for path in others if sample.pytest_ignore_collect(path)] == []


def test_a_name_without_a_file_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SAMPLE", sample.SAMPLE | {"nothing"})
    with pytest.raises(pytest.UsageError, match="there is no file for nothing"):
        sample.pytest_configure()


def test_only_make_test_takes_the_sample() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = dict(re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE))
    assert [name for name, recipe in rules.items() if "-p sample" in recipe] == ["test"]
    assert "ALFRED_DB_TEST_ALL=1" in rules["test-all"]


def test_some_cases_are_the_same_each_time_and_all_over_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinned, "_ALL", False)
    cases = ["a", "b", "\udcff", "d", "e"]
    rows = [thinned.some(cases, 2, "row", number) for number in range(30)]
    assert rows == [thinned.some(cases, 2, "row", number) for number in range(30)]
    assert {len(row) for row in rows} == {2}
    assert {case for row in rows for case in row} == set(cases)
    assert all(row == sorted(row, key=cases.index) for row in rows)
    assert thinned.some(cases, 9, "row") == cases
    assert 10 < sum(thinned.one_in(4, number) for number in range(100)) < 40


def test_make_test_all_takes_all_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinned, "_ALL", True)
    assert thinned.some(["a", "b", "c"], 1) == ["a", "b", "c"]
    assert all(thinned.one_in(4, number) for number in range(10))
