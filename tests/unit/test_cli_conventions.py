"""What all commands have in common, derived from the tree of commands: JSON, questions, exit statuses."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from servers import free_port

import alfred_db
from alfred_db import (
    MisfirePolicy,
    OverlapPolicy,
    SpaceIndex,
    SpaceKind,
    TaskStatus,
    WorkflowExecutionStatus,
    cli,
)
from alfred_db.cli import INTERRUPTED, choices, main
from alfred_db.cli.output import as_json_text
from alfred_db.cli.progress import progress
from alfred_db.indexes import LOCK_TIMEOUT
from alfred_db.migrate import grants
from alfred_db.retention import BATCH, KINDS, RetentionPolicy
from alfred_db.transfer.adopting import BATCH as ADOPTED
from alfred_db.transfer.exporting import PART
from alfred_db.worker.settings import Settings

OWN_FORMAT = {
    "cache get": "writes the value unchanged",
    "catalog export": "writes JSON anyway",
    "downgrade": "prints nothing",
    "mcp": "serves until a signal",
    "metrics": "writes the format of Prometheus",
    "server psql": "is psql",
    "sql": "writes SQL",
    "top": "draws until a signal",
    "upgrade": "prints nothing",
    "web": "serves until a signal",
    "worker": "runs until a signal",
}
"""What has no `--json`, and why."""
DESTROYING = (
    "delete",
    "delete-bank",
    "drop",
    "purge",
    "clear",
    "forget",
    "downgrade",
    "retire",
    "revoke",
    "remove",
)
"""Names of commands that destroy."""
ON_CONDITION = {
    "adopt": [],
    "import": ["--on-conflict", "update"],
    "maintain": ["--keep-months", "1", "--drop"],
    "tenants move": ["--to", "postgresql://nobody@127.0.0.1:1/x", "--drop"],
}
"""Other commands that ask, and with which options."""
NEEDS_DATABASE = {
    "grants apply": "asks when the database says that rights would be revoked: tests/test_grants.py"
}
REFUSED = "standard input is no terminal; pass --yes"


def leaves(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.commands:
        command, whole = group.commands[name], f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from leaves(command, whole)
        else:
            yield whole, command


LEAVES = dict(leaves())
ASKING = {
    path: ON_CONDITION.get(path, [])
    for path in LEAVES
    if path in ON_CONDITION or path.split()[-1] in DESTROYING
}


def has(command: click.Command, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)


def called(path: str, *options: str) -> list[str]:
    """The words of a call of a command, on a database that nobody reaches."""
    words = path.split()
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Argument) and parameter.required:
            words.append(parameter.type.choices[0] if isinstance(parameter.type, click.Choice) else "7")
        elif isinstance(parameter, click.Option) and parameter.required:
            words += [parameter.opts[0], "app=x" if "--role" in parameter.opts else "x:y"]
    if has(LEAVES[path], "--url"):
        words += ["--url", f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"]
    return [*words, *options]


def test_choices_are_those_of_the_library() -> None:
    assert tuple(TaskStatus) == choices.TASK_STATUSES
    assert tuple(WorkflowExecutionStatus) == choices.WORKFLOW_STATUSES
    assert tuple(MisfirePolicy) == choices.MISFIRE_POLICIES
    assert tuple(OverlapPolicy) == choices.OVERLAP_POLICIES
    assert tuple(SpaceKind) == choices.SPACE_KINDS
    assert tuple(SpaceIndex) == choices.SPACE_INDEXES
    assert tuple(grants.KINDS) == choices.ROLES
    assert tuple(RetentionPolicy.ages()) == choices.AGES
    assert tuple(KINDS) == choices.PURGED
    numbers = (
        choices.PURGED_AT_ONCE,
        choices.ADOPTED_AT_ONCE,
        choices.EXPORTED_AT_ONCE,
        choices.LOCK_TIMEOUT,
    )
    assert numbers == (BATCH, ADOPTED, PART, LOCK_TIMEOUT)
    known = {field.name: field.default for field in fields(Settings)}
    assert {name: known[name] for name in choices.WORKER_SETTINGS} == choices.WORKER_SETTINGS
    # The rest is what options of other kinds pass, or what only programs set.
    rest = {"queues", "assigned_to", "backoff", "workflows", "retention", "retention_every"}
    assert set(known) - set(choices.WORKER_SETTINGS) == rest
    assert set(choices.__all__) == {name for name in vars(choices) if name.isupper()}


def test_every_command_prints_json_or_has_another_format() -> None:
    without = {path for path, command in LEAVES.items() if not has(command, "--json")}
    assert without == set(OWN_FORMAT)


def test_what_json_lacks_is_null() -> None:
    assert json.loads(as_json_text({"a": [float("nan"), 1.5], "b": (float("inf"),)})) == {
        "a": [None, 1.5],
        "b": [None],
    }


def test_every_command_that_destroys_can_be_confirmed() -> None:
    assert {path for path, command in LEAVES.items() if has(command, "--yes")} == {*ASKING, *NEEDS_DATABASE}


@pytest.mark.parametrize("path", ASKING)
def test_without_a_terminal_it_refuses(path: str) -> None:
    for options in (ASKING[path], [*ASKING[path], "--json"] if has(LEAVES[path], "--json") else ASKING[path]):
        done = CliRunner().invoke(main, called(path, *options), input="y\n")
        assert done.exit_code == 2
        assert REFUSED in done.stderr
        assert done.stdout == ""
    done = CliRunner().invoke(main, called(path, *ASKING[path], "--yes"))
    assert REFUSED not in done.stderr  # it goes on to the database, which cannot be reached
    assert done.exit_code == 2


@pytest.mark.parametrize(
    "path", sorted(set(ASKING) - {"adopt", "tenants drop"})
)  # they look first, at what they ask about
def test_on_a_terminal_it_asks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alfred_db.cli.options.answerable", lambda yes: None)
    done = CliRunner().invoke(main, called(path, *ASKING[path]), input="n\n")
    assert done.exit_code == 1
    assert done.stderr.count("[y/N]") == 1
    assert done.stdout == ""


def with_callback(path: str, callback: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setattr(LEAVES[path], "callback", callback)
    return CliRunner().invoke(main, called(path))


@pytest.mark.parametrize("path", LEAVES)
def test_an_interrupt_ends_with_its_status(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    done = with_callback(path, interrupted, monkeypatch)
    assert (done.exit_code, done.stdout, done.stderr) == (INTERRUPTED, "", "alfred-db: interrupted\n")


def test_an_interrupt_at_a_question_is_not_the_answer_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise click.Abort from None  # as click.confirm does

    monkeypatch.setattr("alfred_db.cli.options.answerable", lambda yes: None)
    monkeypatch.setattr(click, "confirm", interrupted)
    done = CliRunner().invoke(main, called("purge"))
    assert done.exit_code == INTERRUPTED


@pytest.mark.parametrize("path", sorted(set(LEAVES) - {"server psql"}))  # whose options are those of psql
def test_a_mistake_of_a_word_ends_with_2(path: str) -> None:
    done = CliRunner().invoke(main, [*path.split(), "--no-such-option"])
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_a_mistake_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise KeyError("a mistake")

    assert isinstance(with_callback("history", wrong, monkeypatch).exception, KeyError)


def command_line(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    """Run a command. What runs the tests in the background may ignore SIGINT; a command of a user does not."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "alfred_db.cli", *words],
        env=environment,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )


@pytest.mark.parametrize("words", [["history"], ["erd"], ["sql"], ["--help"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(words: list[str], tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with command_line(*words, stdout=theirs, cwd=tmp_path) as process:
        os.close(theirs)
        _, errors = process.communicate(timeout=120)
    assert not any(word in errors for word in (b"Traceback", b"Exception", b"Broken")), errors
    assert process.returncode == 1


def test_sigint_while_it_waits_for_the_server(tmp_path: Path) -> None:
    """A server that accepts and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"postgresql://nobody@127.0.0.1:{listening.getsockname()[1]}/x?sslmode=disable&connect_timeout=100"
        with command_line("tasks", "list", "--url", url, stdout=subprocess.PIPE, cwd=tmp_path) as process:
            try:
                listening.settimeout(120)
                accepted, _ = listening.accept()
                with accepted:
                    time.sleep(0.1)
                    process.send_signal(signal.SIGINT)
                    output, errors = process.communicate(timeout=120)
            finally:
                process.kill()
    assert process.returncode == INTERRUPTED, errors
    assert (output, errors) == (b"", b"alfred-db: interrupted\n")


def takes_progress(value: object) -> bool:
    return callable(value) and "progress" in inspect.signature(value).parameters


def reporting() -> set[str]:
    """The names of the library's functions and methods that take `progress`, unless others of the same name do not."""
    taking, others = set[str](), set[str]()
    for path in Path(alfred_db.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))) if path.parent.name != "cli" else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = {one.arg for one in (*node.args.args, *node.args.kwonlyargs)}
                (taking if "progress" in names else others).add(node.name)
    return taking - others


def long_calls(path: Path, methods: set[str]) -> Iterator[tuple[str, bool]]:
    """The calls in a module of what takes `progress`, and whether they pass it."""
    tree = ast.parse(path.read_text("utf-8"))
    imported = {
        one.asname or one.name: getattr(
            importlib.import_module("." * node.level + (node.module or ""), cli.__name__), one.name
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 2
        for one in node.names
        if one.name[0].islower()
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Name(name) if takes_progress(imported.get(name)):
                    pass
                case ast.Attribute(attr=name) if name in methods:
                    pass
                case _:
                    continue
            yield name, any(one.arg == "progress" for one in node.keywords)


def test_what_takes_long_reports_its_progress() -> None:
    """Each command passes `progress` to whatever of the library takes it."""
    methods = reporting()
    found = [
        (path.name, name, passed)
        for path in sorted(Path(cli.__file__).parent.glob("*.py"))
        for name, passed in long_calls(path, methods)
    ]
    assert {name for _, name, _ in found} >= {
        "add_field",
        "advise",
        "build_index",
        "distribute",
        "in_chunks",
        "rebuild",
        "recall",
        "reembed",
    }
    assert [(path, name) for path, name, passed in found if not passed] == []


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as report:
        report("tasks", 1, 10)
        report("tasks", 10, 10)
    assert capsys.readouterr() == ("", "")
    with progress(steps=True) as report:
        for done in (1, 2, 10):
            report("tasks", done, 10)
        report("documents", 7, None)
        report("index: building", None, None)
    assert capsys.readouterr().err.splitlines() == [
        "tasks: 1 of 10",
        "tasks: 10 of 10",
        "documents: 7",
        "index: building",
    ]


def test_progress_is_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress() as report:
        report("tasks", 1_000, 10_000)
        report("tasks", 10_000, 10_000)
        report("documents", 7, None)
    output, errors = capsys.readouterr()
    assert output == ""
    assert "10,000 of 10,000" in errors
    assert "documents" in errors
