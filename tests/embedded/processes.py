"""Processes that use the embedded server, and what they and it are asked."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from alfred_db import embedded

PYTHONPATH = os.pathsep.join(dict.fromkeys([str(Path(embedded.__file__).parents[2]), *sys.path]))
IS_ROOT = os.geteuid() == 0
USER = """
import sys
from pathlib import Path
from alfred_db import embedded
print(embedded.url(Path(sys.argv[1])), flush=True)
"""
WAITING_USER = USER + "sys.stdin.read()\n"


def url_from(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline().strip()
    if not line:
        _, errors = process.communicate()
        pytest.fail(f"the process printed no URL:\n{errors}")
    return line


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors


def ask(url: str, query: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def server_user(folder: Path) -> str:
    return pwd.getpwuid((folder / "data").stat().st_uid).pw_name
