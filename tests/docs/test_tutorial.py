"""The tutorial as one program: its files are written, its commands run, and its results compared, from start to end."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from servers import Servers, free_port
from sqlalchemy import URL

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(
    r'(?:^<!-- (?P<mark>not run|background)\b[^\n]*-->\n)?^```(?P<kind>\w+)(?: title="(?P<title>[\w.]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
CURL = """\
#!{python} -SE
import sys, urllib.request
arguments = [one for one in sys.argv[1:] if one != "-s"]
body = None
if "--json" in arguments:
    place = arguments.index("--json")
    body = arguments[place + 1].encode()
    del arguments[place : place + 2]
request = urllib.request.Request(arguments[0], body, {{"Content-Type": "application/json"}})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""
"""What the page uses of curl, which not every machine has."""


def steps() -> Iterator[tuple[str, str, str, str]]:
    """Mark, kind, title and text of each block."""
    for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        yield found["mark"] or "", found["kind"], found["title"] or "", found["text"]


def as_pattern(expected: str) -> str:
    """The expected output as an expression: `...` stands for anything, also for several lines."""
    return ".*".join(re.escape(part.strip("\n")) for part in expected.strip().split("..."))


def as_installed(folder: Path) -> Path:
    """A folder with the package as a wheel installs it: with the revisions inside."""
    package = folder / "installed" / "alfred_db"
    package.mkdir(parents=True)
    for entry in (ROOT / "alfred_db").iterdir():
        if entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    (package / "migrations").symlink_to(ROOT / "alembic")
    return package.parent


def environment(folder: Path, url: URL, servers: Servers) -> dict[str, str]:
    tools = folder / "tools"
    tools.mkdir()
    curl = tools / "curl"
    curl.write_text(CURL.format(python=sys.executable))
    curl.chmod(0o755)
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    return kept | {
        "HOME": str(folder),
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(as_installed(folder)),
        "COLUMNS": "200",
        "ALFRED_DB_URL": url.render_as_string(hide_password=False),
        "ALFRED_DB_TEST_URL": servers["embedded"],
        "ALFRED_DB_TEST_REQUIRED": "1",
        "PYTEST_ADDOPTS": "-p alfred_db.testing -p no:cacheprovider",
    }


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not listen")


def test_the_tutorial_runs_from_start_to_end(tmp_path: Path, empty_url: URL, servers: Servers) -> None:
    folder, port, printed = tmp_path / "desk", str(free_port()), ""
    folder.mkdir()
    env = environment(tmp_path, empty_url, servers)
    started: list[subprocess.Popen[bytes]] = []
    compared = 0
    try:
        for mark, kind, title, text in steps():
            text = text.replace("8000", port)
            if mark == "not run":
                continue
            if kind == "python":
                assert title, "a block of Python of the tutorial is a file: name it by a title"
                file = folder / title
                before = file.read_text() + "\n\n" if file.exists() else ""
                file.write_text(before + text)
            elif mark == "background":
                started.append(
                    subprocess.Popen(
                        ["sh", "-c", f"exec {text.strip()}"],
                        cwd=folder,
                        env=env,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                )
                await_port(int(port), started[-1])
            elif kind == "sh":
                done = subprocess.run(
                    ["sh", "-ec", text], cwd=folder, env=env, capture_output=True, text=True, timeout=300
                )
                assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
                printed = done.stdout
            elif kind == "text":
                pattern = as_pattern(text)
                assert re.fullmatch(pattern, printed.strip(), re.DOTALL), f"{text}\n-- is:\n{printed}"
                compared += 1
    finally:
        for process in started:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    assert compared == 8


def test_an_expected_result_leaves_out_what_differs() -> None:
    assert re.fullmatch(as_pattern("...\n5 passed...\n"), ".....\n\n5 passed in 3 s", re.DOTALL)
    assert re.fullmatch(as_pattern("a\nb\n"), "a\nb")
    assert not re.fullmatch(as_pattern("a\nb\n"), "a\nc", re.DOTALL)
    assert not re.fullmatch(as_pattern("...\n5 passed...\n"), "4 passed, 1 failed", re.DOTALL)
