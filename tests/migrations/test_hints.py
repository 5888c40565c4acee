"""Every hint is a command that does what it says, for the database that was named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import URL

from alfred_db import AsyncDatabase, Database, migrate
from alfred_db.cli import main
from alfred_db.config import command, parse_url
from alfred_db.errors import AlfredDBError

from .catalog import HEAD, REVISIONS, alembic, own_url, python, run, version


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


def test_what_a_tenant_without_the_catalogs_is_told(empty_url: URL) -> None:
    with pytest.raises(AlfredDBError) as caught:
        migrate.upgrade(empty_url, schema="acme")
    type_in(str(caught.value))
    migrate.upgrade(empty_url, schema="acme")


def test_what_a_default_tenant_with_tenants_is_told(database_url: URL) -> None:
    with pytest.raises(AlfredDBError) as caught:
        migrate.downgrade(database_url, "base")
    (words,) = (shlex.split(found)[1:] for found in re.findall(r"`(alfred-db [^`]*)`", str(caught.value)))
    assert CliRunner().invoke(main, words).exit_code == 0
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


def test_no_module_writes_a_command_that_names_no_database() -> None:
    """A hint about migrations is written by the one function that knows the URL."""
    package = Path(migrate.__file__).parent
    allowed = {"cli/__init__.py", "migrate.py"}  # `init` names what it has set up; docstrings
    guilty = [
        f"{path.relative_to(package)}:{number}"
        for path in package.rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"run `|`alembic (-x|upgrade|downgrade)", line)
        and re.search(r"`(alembic|alfred-db) (?!server)", line)
        and path.relative_to(package).as_posix() not in allowed
    ]
    assert guilty == []


def test_an_upgrade_says_once_what_it_runs_on(empty_url: URL) -> None:
    done = alembic("upgrade", "head", url=empty_url)
    assert (done.stdout + done.stderr).count("Context impl") <= 1
    run(empty_url, "SELECT 1")
    process = python("from alfred_db.cli import main; main(['upgrade', '--schema', 'acme'])", empty_url)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert output.count("Context impl") <= 1
    assert output.count("Will assume") <= 1


def test_no_warning_of_another_library_greets_the_user(tmp_path: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('always'); from alfred_db import embedded; embedded.status()"
    )
    for runtime in ("/nonexistent", str(tmp_path), ""):
        process = python(code, HOME=str(tmp_path), XDG_RUNTIME_DIR=runtime, ALFRED_DB_HOME="")
        output, _ = process.communicate(timeout=60)
        assert "Warning" not in output
