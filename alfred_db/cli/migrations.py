"""The commands that migrate the schema and show its state."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import click

from .. import migrate
from ..checks import one_of
from ..config import database_url, migration_url
from ..database import Database
from ..engine.pool import passing_engine
from ..errors import ConfigurationError, InvalidInputError, translated
from ..models import SpaceKind
from .doctor import examine
from .options import (
    json_option,
    migration_url_option,
    schema_option,
    target_option,
    triggers_option,
    url_option,
)

SECTION = '[tool.alembic]\nscript_location = "alfred_db:migrations"\n'
INI = "[alembic]\nscript_location = alfred_db:migrations\n"


@click.command()
@click.option(
    "--dimensions",
    "lengths",
    multiple=True,
    metavar="KIND=N",
    help="Upgrade the database instead, and make a space of this length the default, such as documents=1536.",
)
@click.option("--model", help="With --dimensions: the embedding model.")
@migration_url_option
@schema_option
def init(lengths: tuple[str, ...], model: str | None, url: str | None, schema: str | None) -> None:
    """Write the two lines that let plain `alembic` find the revisions from this folder.

    With `--dimensions`, upgrade a database instead, whose default spaces have vectors of these lengths.
    """
    if lengths:
        _init_spaces([_length(one) for one in lengths], model or "unknown", url, schema)
        return
    if url is not None or schema is not None or model is not None:
        raise InvalidInputError(
            "init: only --dimensions needs a database; pass it too, such as documents=1536"
        )
    pyproject, ini = Path("pyproject.toml"), Path("alembic.ini")
    if ini.exists() or (pyproject.exists() and "[tool.alembic]" in pyproject.read_text()):
        found = ini if ini.exists() else pyproject
        if "alfred_db:migrations" in found.read_text():
            click.echo(f"{found} has them already.")
            return
        raise ConfigurationError(
            f"{found} configures an Alembic of your own: leave it, and upgrade with `alfred-db upgrade`,"
            f" or with `alembic -n alfred upgrade head` after adding to {found}:\n\n"
            + (INI.replace("[alembic]", "[alfred]") if found is ini else INI)
        )
    if pyproject.exists():
        text = pyproject.read_text()
        pyproject.write_text(text.rstrip("\n") + "\n\n" + SECTION if text.strip() else SECTION)
    else:
        ini.write_text(INI)
    written = pyproject if pyproject.exists() else ini
    click.echo(f"Wrote {written}. Now run: alembic upgrade head")


def _length(given: str) -> tuple[SpaceKind, int]:
    kind, _, number = given.partition("=")
    if not number.isdecimal():
        raise InvalidInputError(f"--dimensions {given!r}: expected KIND=N, such as documents=1536")
    return one_of(SpaceKind, kind), int(number)


def _init_spaces(
    lengths: list[tuple[SpaceKind, int]], model: str, url: str | None, schema: str | None
) -> None:
    migrate.upgrade(url, schema=schema)
    with Database(migration_url(url), schema=schema) as database, database.begin() as uow:
        for kind, length in lengths:
            name = f"{kind}-{length}"
            uow.spaces.create(name, kind=kind, model=model, dimensions=length)
            uow.spaces.default(kind, name)
            click.echo(f"{name} is the default space of {kind}")


@click.command()
@click.argument("revision", default="head")
@migration_url_option
@schema_option
@triggers_option
@target_option
def upgrade(
    revision: str, url: str | None, schema: str | None, triggers: bool, target: Literal["broker"] | None
) -> None:
    """Upgrade the database to REVISION (default: head)."""
    migrate.upgrade(url, revision, schema=schema, triggers=triggers, target=target)


@click.command()
@click.argument("revision")
@migration_url_option
@schema_option
@click.option("--allow-data-loss", is_flag=True, help="Also drop tables that hold rows.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation on a terminal.")
@target_option
def downgrade(
    revision: str,
    url: str | None,
    schema: str | None,
    allow_data_loss: bool,
    yes: bool,
    target: Literal["broker"] | None,
) -> None:
    """Downgrade the database to REVISION; `base` removes all tables of alfred-db.

    Exit status: 0 done, 1 the answer was no, 2 refused or failed, such as when a table holds rows.
    """
    at = migration_url(url)
    if not yes and sys.stdin.isatty():
        tenant = "the default tenant" if schema is None else f"the tenant {schema}"
        rows = ", with the rows in them" if allow_data_loss else ""
        click.confirm(
            f"Take {tenant} of {at.render_as_string(hide_password=True)} back to {revision}, and drop what came"
            f" after{rows}?",
            abort=True,
        )
    migrate.downgrade(at, revision, schema=schema, allow_data_loss=allow_data_loss, target=target)


@click.command()
@migration_url_option
@click.option("--dry-run", is_flag=True, help="Print the statements, and change nothing.")
def distribute(url: str | None, dry_run: bool) -> None:
    """Distribute the shared catalogs and the named tenants over the nodes of Citus.

    Run it on the coordinator, as the owner of the tables; it does what is left to do. The default tenant stays there.
    """
    stages = migrate.distribute(url, dry_run=dry_run)
    for stage in stages:
        click.echo(f"-- {stage.name}")
        for statement in stage.statements if dry_run else ():
            click.echo(f"{statement};")
    if not stages:
        click.echo("nothing to do")


@click.command()
@migration_url_option
@schema_option
def current(url: str | None, schema: str | None) -> None:
    """Print the revision that the database is at."""
    engine = passing_engine(migration_url(url), "alfred-db current")
    with translated(), engine.connect() as connection:
        click.echo(migrate.current(connection, schema) or "base")


@click.command()
def history() -> None:
    """List all revisions, oldest first."""
    for revision in migrate.history():
        click.echo(f"{revision.id:<32}  {revision.summary}")


@click.command()
@migration_url_option
@schema_option
def check(url: str | None, schema: str | None) -> None:
    """Fail when Alembic would generate a revision from the models."""
    migrate.check(url, schema=schema)
    click.echo("The database matches the models.")


@click.command()
@click.argument("revision", default="head")
@schema_option
@triggers_option
def sql(revision: str, schema: str | None, triggers: bool) -> None:
    """Print the SQL of an upgrade to REVISION (or FROM:TO); needs no database."""
    click.echo(migrate.sql(revision, schema=schema, triggers=triggers), nl=False)


@click.command()
@url_option
@schema_option
@json_option
def doctor(url: str | None, schema: str | None, as_json: bool) -> None:
    """Examine server, extensions and schema. Exit status: 0 well, 1 works with warnings, 2 does not work."""
    report = examine(database_url(url), schema)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.as_text())
    sys.exit(report.exit_status)
