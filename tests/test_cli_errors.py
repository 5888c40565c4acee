"""Every command ends in one line where it cannot do its work, whatever the reason; derived from the commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from servers import free_port
from sqlalchemy import URL, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from thinned import some

from alfred_db import Database, Task
from alfred_db.cli import main
from alfred_db.errors import ConfigurationError


def commands(
    group: click.Group = main, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


ALL = dict(commands())
WITH_URL = {path: command for path, command in ALL.items() if any(p.name == "url" for p in command.params)}


BAD = ["nosuch", "-1", "", "\udcff", "a\x00b", "99999999999999999999", "*"]
"""Values that no argument or option takes."""

ENDS: dict[tuple[str, ...], list[str]] = {("web",): ["--host", "192.0.2.1"]}
"""What has a command end that serves until a signal: here, an address that needs a token."""


def filled(path: tuple[str, ...], command: click.Command, value: str) -> list[str]:
    """The command with a value for each argument and each option that it needs."""
    words = [*path]
    for parameter in command.params:
        if "--yes" in parameter.opts:
            words.append("--yes")
        if isinstance(parameter, click.Argument) and parameter.nargs == 1:
            words.append(value)
        elif parameter.required:
            words += [parameter.opts[0], value]
    return [*words, *ENDS.get(path, ())]


def ends_in_one_line(done: Result) -> None:
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert "Traceback" not in done.output
    if done.exit_code == 2 and "Usage:" not in done.stderr:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.fixture(scope="module")
def used_url(template: URL, new_database: Callable[..., URL]) -> URL:
    """A migrated database that commands may change."""
    return new_database(template.database)


def bad_arguments() -> Iterator[list[str]]:
    """Each command with some of the values; a command that takes none once."""
    for path, command in WITH_URL.items():
        called = dict.fromkeys(tuple(filled(path, command, value)) for value in BAD)
        yield from map(list, some(list(called), 3, path))


@pytest.mark.parametrize("words", list(bad_arguments()), ids=ascii)
def test_bad_arguments(used_url: URL, words: list[str]) -> None:
    url = used_url.render_as_string(hide_password=False)
    done = CliRunner().invoke(main, [*words, "--url", url])
    ends_in_one_line(done)


def test_each_bad_value_reaches_some_commands() -> None:
    given = [{value for value in BAD if value in words} for words in bad_arguments()]
    assert all(sum(value in values for values in given) > 5 for value in BAD)


@pytest.mark.parametrize("path", WITH_URL, ids=" ".join)
def test_a_database_that_cannot_be_reached(path: tuple[str, ...]) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"
    done = CliRunner().invoke(main, [*filled(path, ALL[path], "nosuch"), "--url", url])
    ends_in_one_line(done)
    assert done.exit_code != 0


@pytest.mark.parametrize(
    "words", [("upgrade", "nosuchrev"), ("downgrade", "nosuch"), ("downgrade", "-99"), ("sql", "x:y")]
)
def test_a_revision_that_is_not_there(migrated_url: URL, words: tuple[str, ...]) -> None:
    url = [] if words[0] == "sql" else ["--url", migrated_url.render_as_string(hide_password=False)]
    answered = ["--yes"] if words[0] == "downgrade" else []
    done = CliRunner().invoke(main, [words[0], *answered, *url, "--", *words[1:]])
    ends_in_one_line(done)
    assert done.exit_code == 2
    assert "alfred-db history" in done.stderr


def test_init_in_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    done = CliRunner().invoke(main, ["init"])
    ends_in_one_line(done)
    assert done.exit_code == 2
    assert "Permission denied" in done.stderr


def test_init_beside_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff\xfe\x00")
    done = CliRunner().invoke(main, ["init"])
    ends_in_one_line(done)
    assert done.exit_code == 2


def test_a_foreign_key_by_name_names_the_other_way(database_url: URL) -> None:
    class Own(DeclarativeBase):
        pass

    class Link(Own):
        __tablename__ = "links_by_name"
        id: Mapped[int] = mapped_column(primary_key=True)
        task: Mapped[str] = mapped_column(ForeignKey("tasks.id"))

    class Direct(Own):
        __tablename__ = "links_by_column"
        id: Mapped[int] = mapped_column(primary_key=True)
        task = mapped_column(ForeignKey(Task.id))

    with Database(database_url) as database:
        with pytest.raises(ConfigurationError, match=r"ForeignKey\(Task.id\)"), database.begin() as uow:
            uow.session.add(Link(id=1, task="x"))
        Own.metadata.remove(Own.metadata.tables["links_by_name"])
        Own.metadata.create_all(database.engine)
        with database.begin() as uow:
            task, _ = uow.tasks.enqueue("X", {}, task_id="t")
            uow.session.add(Direct(id=1, task=task.id))


def test_nothing_of_another_library_greets_the_user(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", "alfred_db.cli", "server", "status"],
        env={
            "HOME": str(tmp_path),
            "ALFRED_DB_HOME": str(tmp_path / "home"),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "RuntimeDirWarning" not in done.stderr
