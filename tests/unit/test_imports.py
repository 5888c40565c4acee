"""What an import brings in: programs that ask for little start soon."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import click
import pytest

from alfred_db import cli, repositories
from alfred_db.cli import COMMANDS, main

# What takes longer to import than all of `click`.
LIBRARIES = ("sqlalchemy", "psycopg", "numpy", "alembic", "pgvector", "rich", "asyncio", "starlette", "mcp")
HEAVY = ("alembic", "alfred_db.models", "alfred_db.queries", "alfred_db.repositories")


def imported(code: str) -> set[str]:
    """The modules of a fresh process after this code."""
    program = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


def test_the_database_is_imported_without_the_models() -> None:
    found = imported("from alfred_db import Database, AsyncDatabase")
    assert "alfred_db.database" in found
    assert found.isdisjoint(HEAVY)


def test_the_help_of_the_command_imports_only_the_command() -> None:
    found = imported("from alfred_db.cli import main; main(['--help'], standalone_mode=False)")
    assert found.isdisjoint({"sqlalchemy", "psycopg", "numpy", *HEAVY})
    assert {name for name in found if name.startswith("alfred_db")} == {
        "alfred_db",
        "alfred_db.cli",
        "alfred_db.cli.examples",  # texts
        "alfred_db.cli.groups",
    }


LIGHT = {"alfred_db", "alfred_db.cli", "alfred_db.cli.examples", "alfred_db.cli.groups"}
OWN = {
    "-h": set[str](),
    "doctor --help": {"migrations", "choices", "databases", "options", "output"},
    "tasks list --help": {"tasks", "choices", "databases", "options", "output", "progress", "tables"},
    "tasks -h": {"tasks", "choices", "databases", "options", "output", "progress", "tables"},
}


@pytest.mark.parametrize("words", OWN)
def test_the_help_of_a_command_imports_what_declares_it(words: str) -> None:
    found = imported(f"from alfred_db.cli import main; main({words.split()!r}, standalone_mode=False)")
    assert found.isdisjoint({*LIBRARIES, *HEAVY})
    own = {f"alfred_db.cli.{name}" for name in OWN[words]}
    assert {name for name in found if name.startswith("alfred_db")} == LIGHT | own


def test_no_help_and_no_completion_imports_the_library() -> None:
    found = imported(
        "import click\n"
        "from alfred_db.cli import main\n"
        "def show(words, command):\n"
        "    main([*words, '--help'], standalone_mode=False)\n"
        "    for name in getattr(command, 'commands', ()):\n"
        "        show([*words, name], command.commands[name])\n"
        "show([], main)\n"
        "from click.shell_completion import BashComplete\n"
        "complete = BashComplete(main, {}, 'alfred-db', '_ALFRED_DB_COMPLETE')\n"
        "assert len(complete.get_completions([], '')) > 30\n"
        "assert complete.get_completions(['tasks', 'list', '--status'], 'f')[0].value == 'failed'\n"
    )
    assert found.isdisjoint({*LIBRARIES, *HEAVY})
    cli_alone = {
        name for name in found if name.startswith("alfred_db.") and not name.startswith("alfred_db.cli")
    }
    assert cli_alone == {"alfred_db.mcp"}  # the names of the groups of tools


def test_an_adapter_imports_its_library_alone() -> None:
    libraries = {"aiocache", "limits", "starlette"}
    for adapter in libraries:
        found = imported(f"import alfred_db.integrations.{adapter}")
        assert found & libraries == {adapter}
    assert imported("import alfred_db.integrations, alfred_db.database, alfred_db.repositories").isdisjoint(
        libraries
    )


def test_one_half_of_the_repositories_is_imported_without_the_other() -> None:
    found = imported("from alfred_db.repositories import TaskRepository")
    assert "alfred_db.repositories._sync" in found
    assert "alfred_db.repositories._async" not in found


def test_every_repository_is_found() -> None:
    assert dir(repositories) == sorted(repositories.__all__)
    for name in repositories.__all__:
        assert getattr(repositories, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'NobodysRepository'"):
        _ = repositories.NobodysRepository


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_listed_of_a_command_is_its_own_help(name: str) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    assert found.name == name
    _, sentence = COMMANDS[name]
    assert found.get_short_help_str(1000) == sentence
    for width in (20, 45, 80):
        assert found.get_short_help_str(width) == click.Command(name, help=sentence).get_short_help_str(width)


def test_every_command_is_listed() -> None:
    found: set[click.Command] = set()
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name != "__main__":
            members = vars(importlib.import_module(f"alfred_db.cli.{module.name}"))
            found |= {one for one in members.values() if isinstance(one, click.Command)}
    inner = {one for group in found if isinstance(group, click.Group) for one in group.commands.values()}
    assert {one.name for one in found - inner} == set(COMMANDS)
    assert main.list_commands(click.Context(main)) == sorted(COMMANDS)
    assert main.get_command(click.Context(main), "nothing") is None
