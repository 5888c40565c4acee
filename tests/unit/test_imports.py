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
