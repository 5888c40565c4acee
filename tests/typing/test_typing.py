from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
USER_CODE = Path(__file__).parent / "user_code.py"

# Each line is a mistake of a user: the type checkers must find every one.
MISTAKES = """\
from __future__ import annotations
import uuid
from alfred_db import Agent, AsyncDatabase, Database

db = Database("postgresql:///d")
Database(1)
Database(pooler="session")
Database(poolsize=5)
db.upgrad()
with db.begin() as uow:
    uow.agents.register("writer")
    uow.agents.register("writer", type="llm", version=1)
    uow.agents.register("writer", "llm", "1")
    uow.agents.get("not a uuid")
    uow.agents.get(uuid.uuid4()).name
    uow.agent
    uow.agents.set_status(uuid.uuid4(), 5)
    name: int = uow.agents.list_alive()[0].name
with AsyncDatabase() as other:
    pass
async def work() -> None:
    async with AsyncDatabase().begin() as uow:
        agent: Agent = uow.agents.register("writer", type="llm", version="1")
"""
WRONG_LINES = {6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 23}


def run(checker: str, path: Path) -> tuple[int, str]:
    if shutil.which(checker, path=str(Path(sys.executable).parent)) is None:
        pytest.skip(f"{checker} is not installed")
    options = {
        "mypy": ["--strict", "--no-error-summary", "--python-executable", sys.executable],
        "pyright": ["--pythonpath", sys.executable],
    }
    done = subprocess.run(
        [Path(sys.executable).parent / checker, *options[checker], path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_user_code_is_typed(checker: str) -> None:
    status, output = run(checker, USER_CODE)
    assert status == 0, output


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_mistakes_of_users_are_found(checker: str, tmp_path: Path) -> None:
    path = tmp_path / "mistakes.py"
    path.write_text(MISTAKES)
    # Outside of the project's folder pyright would look for a configuration of its own.
    (tmp_path / "pyrightconfig.json").write_text(
        f'{{"typeCheckingMode": "strict", "extraPaths": ["{ROOT}"]}}'
    )
    status, output = run(checker, path)
    assert status == 1, output
    found = {
        int(line.split(f"{path.name}:")[1].split(":")[0])
        for line in output.splitlines()
        if f"{path.name}:" in line and "error" in line
    }
    assert sorted(WRONG_LINES - found) == [], output
