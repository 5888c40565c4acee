"""The commands that migrate the schema and show its state."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from .databases import connected, opened
from .options import (
    confirm,
    json_option,
    migration_url_option,
    schema_option,
    target_option,
    triggers_option,
    url_option,
    yes_option,
)
from .output import note, print_result

if TYPE_CHECKING:
    from ..models import SpaceKind

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
@json_option
def init(
    lengths: tuple[str, ...], model: str | None, url: str | None, schema: str | None, as_json: bool
) -> None:
    """Write the two lines that let plain `alembic` find the revisions from this folder.

    With `--dimensions`, upgrade a database instead, whose default spaces have vectors of these lengths.
    """
    from ..errors import ConfigurationError, InvalidInputError

    if lengths:
        made = _init_spaces([_length(one) for one in lengths], model or "unknown", url, schema)
        lines = [f"{name} is the default space of {kind}" for kind, name in made.items()]
        print_result({"spaces": made}, *lines, as_json=as_json)
        return
    if url is not None or schema is not None or model is not None:
        raise InvalidInputError(
            "init: only --dimensions needs a database; pass it too, such as documents=1536"
        )
    pyproject, ini = Path("pyproject.toml"), Path("alembic.ini")
    if ini.exists() or (pyproject.exists() and "[tool.alembic]" in pyproject.read_text()):
        found = ini if ini.exists() else pyproject
        if "alfred_db:migrations" in found.read_text():
            print_result(
                {"file": str(found), "written": False}, f"{found} has them already.", as_json=as_json
            )
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
    line = f"Wrote {written}. Now run: alembic upgrade head"
    print_result({"file": str(written), "written": True}, line, as_json=as_json)


def _length(given: str) -> tuple[SpaceKind, int]:
    from ..checks import one_of
    from ..errors import InvalidInputError
    from ..models import SpaceKind

    kind, _, number = given.partition("=")
    if not number.isdecimal():
        raise InvalidInputError(f"--dimensions {given!r}: expected KIND=N, such as documents=1536")
    return one_of(SpaceKind, kind), int(number)


def _init_spaces(
    lengths: list[tuple[SpaceKind, int]], model: str, url: str | None, schema: str | None
) -> dict[str, str]:
    """Upgrade, and return the name of the new default space of each kind."""
    from .. import migrate

    migrate.upgrade(url, schema=schema)
    made: dict[str, str] = {}
    with opened(url, schema, owner=True) as database, database.begin() as uow:
        for kind, length in lengths:
            name = made[str(kind)] = f"{kind}-{length}"
            uow.spaces.create(name, kind=kind, model=model, dimensions=length)
            uow.spaces.default(kind, name)
    return made


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
    from .. import migrate

    migrate.upgrade(url, revision, schema=schema, triggers=triggers, target=target)


@click.command()
@click.argument("revision")
@migration_url_option
@schema_option
@click.option("--allow-data-loss", is_flag=True, help="Also drop tables that hold rows.")
@yes_option
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
    from .. import migrate
    from ..config import migration_url

    at = migration_url(url)
    tenant = "the default tenant" if schema is None else f"the tenant {schema}"
    rows = ", with the rows in them" if allow_data_loss else ""
    confirm(
        f"Take {tenant} of {at.render_as_string(hide_password=True)} back to {revision}, and drop what came after{rows}?",
        yes,
    )
    migrate.downgrade(at, revision, schema=schema, allow_data_loss=allow_data_loss, target=target)


@click.command()
@migration_url_option
@click.option("--dry-run", is_flag=True, help="Print the statements, and change nothing.")
@json_option
def distribute(url: str | None, dry_run: bool, as_json: bool) -> None:
    """Distribute the shared catalogs and the named tenants over the nodes of Citus.

    Run it on the coordinator, as the owner of the tables; it does what is left to do. The default tenant stays there.
    """
    from .. import migrate

    stages = migrate.distribute(url, dry_run=dry_run, progress=note)
    lines = ["nothing to do"] if not stages else []
    for stage in stages:
        lines.append(f"-- {stage.name}")
        lines += [f"{statement};" for statement in stage.statements if dry_run]
    print_result([asdict(stage) for stage in stages], *lines, as_json=as_json)


@click.command()
@migration_url_option
@schema_option
@json_option
def current(url: str | None, schema: str | None, as_json: bool) -> None:
    """Print the revision that the database is at."""
    from .. import migrate

    with connected(url, "alfred-db current", owner=True) as connection:
        found = migrate.current(connection, schema)
    print_result({"revision": found}, found or "base", as_json=as_json)


@click.command()
@json_option
def history(as_json: bool) -> None:
    """List all revisions, oldest first."""
    from .. import migrate

    found = migrate.history()
    lines = [f"{revision.id:<32}  {revision.summary}" for revision in found]
    print_result([asdict(revision) for revision in found], *lines, as_json=as_json)


@click.command()
@migration_url_option
@schema_option
@json_option
def check(url: str | None, schema: str | None, as_json: bool) -> None:
    """Fail when Alembic would generate a revision from the models."""
    from .. import migrate

    migrate.check(url, schema=schema)
    print_result({"matches": True}, "The database matches the models.", as_json=as_json)


@click.command()
@click.argument("revision", default="head")
@schema_option
@triggers_option
def sql(revision: str, schema: str | None, triggers: bool) -> None:
    """Print the SQL of an upgrade to REVISION (or FROM:TO); needs no database."""
    from .. import migrate

    click.echo(migrate.sql(revision, schema=schema, triggers=triggers), nl=False)


@click.command()
@url_option
@schema_option
@json_option
def doctor(url: str | None, schema: str | None, as_json: bool) -> None:
    """Examine server, extensions and schema. Exit status: 0 well, 1 works with warnings, 2 does not work."""
    from ..config import database_url
    from .doctor import examine

    report = examine(database_url(url), schema)
    print_result(report.as_dict(), report.as_text(), as_json=as_json)
    sys.exit(report.exit_status)
