from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
USER_CODE = Path(__file__).with_name("user_code.py")
MISTAKES = Path(__file__).with_name("mistakes.py")


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def errors(request: pytest.FixtureRequest) -> dict[str, list[tuple[int, str]]]:
    """What a type checker finds: by the name of the file, the lines and what is said of each."""
    checker = request.param
    if shutil.which(checker, path=str(Path(sys.executable).parent)) is None:
        pytest.skip(f"{checker} is not installed")
    options = {
        "mypy": [
            "--strict",
            "--no-error-summary",
            "--hide-error-context",
            "--python-executable",
            sys.executable,
        ],
        "pyright": ["--pythonpath", sys.executable],
    }
    done = subprocess.run(
        [Path(sys.executable).parent / checker, *options[checker], USER_CODE, MISTAKES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, list[tuple[int, str]]] = {}
    for line in done.stdout.splitlines():
        if where := re.match(r"\s*(\S+\.py):(\d+):.*\berror\b", line):
            found.setdefault(Path(where[1]).name, []).append((int(where[2]), line))
    return found


def test_user_code_is_typed(errors: dict[str, list[tuple[int, str]]]) -> None:
    assert errors.keys() == {MISTAKES.name}, errors


def test_mistakes_of_users_are_found_and_nothing_else(errors: dict[str, list[tuple[int, str]]]) -> None:
    lines = MISTAKES.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, start=1) if line.endswith("  # error")}
    found = {number for number, _ in errors[MISTAKES.name]}
    assert [lines[number - 1].strip() for number in sorted(wrong - found)] == []
    assert [text for number, text in errors[MISTAKES.name] if number not in wrong] == []
