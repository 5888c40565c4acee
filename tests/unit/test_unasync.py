from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tool and what it reads and writes, in a folder of the test's own."""
    for folder in (
        "alfred_db/durable",
        "alfred_db/execution",
        "alfred_db/repositories",
        "tests/_async",
        "tests/_sync",
        "tools",
    ):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(root: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "tools/unasync.py", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_generated_half_is_up_to_date() -> None:
    assert run(ROOT, "--check") == (0, "")


def test_generating_makes_what_the_check_wants(copy: Path) -> None:
    shutil.rmtree(copy / "alfred_db/repositories/_sync")
    shutil.rmtree(copy / "tests/_sync")
    assert run(copy, "--check")[0] == 1
    assert run(copy) == (0, "")
    assert run(copy, "--check") == (0, "")
    made = {path.name for path in (copy / "alfred_db/repositories/_sync").glob("*.py")}
    assert made == {path.name for path in (copy / "alfred_db/repositories/_async").glob("*.py")}


def test_a_stale_file_fails_the_check_and_is_not_written(copy: Path) -> None:
    run(copy)
    target = copy / "alfred_db/repositories/_sync/agents.py"
    target.write_text(target.read_text() + "# changed by hand\n")
    status, output = run(copy, "--check")
    assert (status, output) == (1, "alfred_db/repositories/_sync/agents.py: is stale; run `make gen`\n")
    assert "changed by hand" in target.read_text()


def test_a_missing_file_fails_the_check(copy: Path) -> None:
    run(copy)
    (copy / "tests/_sync/test_agents.py").unlink()
    assert run(copy, "--check") == (1, "tests/_sync/test_agents.py: is stale; run `make gen`\n")


def test_a_file_whose_source_is_gone_fails_check_and_generation(copy: Path) -> None:
    run(copy)
    (copy / "alfred_db/repositories/_sync/gone.py").write_text("")
    for arguments in ((), ("--check",)):
        assert run(copy, *arguments) == (1, "alfred_db/repositories/_sync/gone.py: has no source\n")


def test_a_rule_that_matches_nothing_fails_check_and_generation(copy: Path) -> None:
    run(copy)
    tool = copy / "tools/unasync.py"
    tool.write_text(
        tool.read_text().replace(
            "for pattern, replacement in (\n", 'for pattern, replacement in (\n("nowhere_at_all", ""),\n'
        )
    )
    for arguments in ((), ("--check",)):
        assert run(copy, *arguments) == (1, "rule 'nowhere_at_all' matches nothing\n")


def test_no_word_of_asyncio_is_left(copy: Path) -> None:
    run(copy)
    for path in (copy / "alfred_db/repositories/_sync").glob("*.py"):
        for word in ("async ", "await ", "Async", "asyncio"):
            text = path.read_text().split("\n", 1)[1].replace("generated from the async half", "")
            assert word not in text, path
