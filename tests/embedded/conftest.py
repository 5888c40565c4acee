from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from servers import place

from alfred_db import embedded
from alfred_db.errors import ConfigurationError, DatabaseUnavailable

from .processes import PYTHONPATH


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the server's user can reach, unlike pytest's own below a closed one."""
    base = Path(tempfile.mkdtemp(prefix="alfred-db-test-", dir=place()))
    base.chmod(0o755)
    yield base / "home"
    with suppress(ConfigurationError, DatabaseUnavailable):
        embedded.stop(base / "home")
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="alfred-db-test-", dir=place()))
    base.chmod(0o755)
    embedded.start(base / "home")
    embedded.stop(base / "home")
    yield base / "home" / "data"
    shutil.rmtree(base)


@pytest.fixture
def made(folder: Path, template: Path) -> Path:
    """A folder whose server was used before, which is quicker than to make one."""
    folder.mkdir()
    subprocess.run(["cp", "-a", str(template), str(folder)], check=True)
    return folder


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python processes; the forgotten ones are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [options.pop("python", sys.executable), "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **options.pop("env", {})},
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
