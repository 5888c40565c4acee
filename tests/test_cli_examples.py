"""Every command has an example, the example runs, and no help is cut; derived from the commands."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from servers import place
from sqlalchemy import URL, text

from alfred_db import Database
from alfred_db.cli import COMMANDS, main
from alfred_db.cli.examples import EXAMPLES

APP = """
def run(task, lease):
    pass

handlers = {"REPORT": run}
"""
EMBEDDING = "from alfred_db.vectors.toy import toy_embedder\n\ndef embed(texts):\n    return toy_embedder(texts, 384)\n"
SERVING = {"web": "alfred_db.web.server.serve", "mcp": "alfred_db.cli.mcp._run"}
"""What serves until a signal: only its settings are checked here."""
ELSEWHERE = {
    "adopt": "needs the database of a platform",
    "catalog link": "needs the database that has the catalog",
    "catalog refresh": "needs a linked catalog",
    "catalog unlink": "needs a linked catalog",
    "distribute": "needs Citus",
    "tenants move": "needs another server",
}
"""What needs more than this database: the words of its example are only read here, and its own tests run it."""
STATUSES = {"doctor": {0, 1}, "server status": {0, 3}}
"""Statuses other than 0 that an example may end with; a doctor may have a warning about the server of the tests."""


def commands(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.commands:
        command = group.commands[name]
        whole = f"{path} {name}".strip()
        yield whole, command
        if isinstance(command, click.Group):
            yield from commands(command, whole)


ALL = dict(commands())
LEAVES = {path: command for path, command in ALL.items() if not isinstance(command, click.Group)}


def test_every_command_has_an_example() -> None:
    assert sorted(set(LEAVES) - set(EXAMPLES)) == [], "add it to alfred_db/cli/examples.py"
    assert sorted(set(EXAMPLES) - set(LEAVES)) == []
    for path, example in EXAMPLES.items():
        assert example.startswith(f"alfred-db {path}")


@pytest.mark.parametrize("width", [80, 200])
def test_help_is_never_cut(width: int) -> None:
    runner = CliRunner()
    for path, command in [("", main), *ALL.items()]:
        shown = runner.invoke(main, [*path.split(), "-h"], terminal_width=width)
        assert shown.exit_code == 0, path
        assert shown.output == runner.invoke(main, [*path.split(), "--help"], terminal_width=width).output
        assert not re.search(r"[a-z0-9.]\.\.\.", shown.output), path
        flat = "".join(shown.output.split())  # words are broken at hyphens
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                help = COMMANDS[name][1] if command is main else str(child.help)
                sentence = help.split(".\n")[0].split("\n\n")[0]
                first = re.split(r"(?<=[.:])\s", " ".join(sentence.split()))[0].rstrip(".")
                assert "".join(first.split()) in flat, (path, name)
        else:
            assert "".join(f"Example: {EXAMPLES[path]}".split()) in flat, path


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_examples_run(
    database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """They run one after the other, as somebody would type them, in a folder with the files that they name."""
    role = f"shop_app_{os.getpid()}"
    with Database(database_url) as database, database.session() as session:
        session.execute(text(f"CREATE ROLE {role}"))
        session.commit()
    try:
        _run_all(database_url, role, tmp_path, monkeypatch, as_json)
    finally:
        with Database(database_url) as database, database.session() as session:
            session.execute(text(f"DROP OWNED BY {role}"))
            session.execute(text(f"DROP ROLE {role}"))
            session.commit()


def _run_all(url: URL, role: str, folder: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    (folder / "tasks.py").write_text(APP)
    (folder / "embedding.py").write_text(EMBEDDING)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("ALFRED_DB_URL", url.render_as_string(hide_password=False))
    served: list[str] = []

    def serve(path: str, *arguments: Any) -> None:
        served.append(path)
        for argument in arguments:
            if inspect.iscoroutine(argument):
                argument.close()

    for path, name in SERVING.items():
        monkeypatch.setattr(name, lambda *arguments, path=path, **_: serve(path, *arguments))
    with Database(url) as database, database.begin() as uow:
        uow.tasks.enqueue("REPORT", {}, task_id="t-1")
        uow.workflows.activate(uow.workflows.define("order", {})[0].id)
        uow.workflows.start("order", idempotency_key="order-1")
        rows = [{"title": f"title {n}", "content": f"text {n}", "metadata_": {"year": n}} for n in range(40)]
        vectors = np.random.default_rng(1).standard_normal((40, 384)).astype(np.float32)
        uow.documents.add_many(rows, embeddings=vectors)  # type: ignore[arg-type]
        uow.spaces.create("old-space", kind="documents", model="old", dimensions=8)
    runner = CliRunner()
    with tempfile.TemporaryDirectory(dir=place()) as home:
        os.chmod(home, 0o755)
        monkeypatch.setenv("ALFRED_DB_HOME", home)
        for path, example in EXAMPLES.items():
            words = shlex.split(example.split(" > ")[0].replace("shop_app", role))[1:]
            if path in ELSEWHERE:
                LEAVES[path].make_context(path, words[len(path.split()) :])
                continue
            shows_json = "--json" in words
            if as_json and not shows_json and any("--json" in one.opts for one in LEAVES[path].params):
                shows_json, words = True, [*words, "--json"]
            done = runner.invoke(main, words, terminal_width=200)
            assert done.exit_code in STATUSES.get(path, {0}), (example, done.output, done.exception)
            if shows_json:
                assert isinstance(json.loads(done.stdout), dict | list), example
    assert served == [path for path in EXAMPLES if path in SERVING]
