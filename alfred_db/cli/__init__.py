"""The command `alfred-db`: a thin layer over the library."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click
import psycopg
from sqlalchemy import exc

from .. import migrate
from ..config import database_url, migration_url
from ..engine.pool import passing_engine
from ..errors import AlfredDBError, ConfigurationError, translated
from .catalog import catalog
from .doctor import examine
from .maintain import maintain
from .schedule import schedule
from .server import server
from .tasks import tasks
from .vectors import vectors
from .worker import worker

__all__ = ["main"]

SECTION = '[tool.alembic]\nscript_location = "alfred_db:migrations"\n'
INI = "[alembic]\nscript_location = alfred_db:migrations\n"

url_option = click.option(
    "--url", help="Database URL; else ALFRED_DB_MIGRATION_URL, ALFRED_DB_URL, DATABASE_URL."
)
schema_option = click.option(
    "--schema", help="The tenant whose tables are meant; default: the unqualified ones."
)


class Commands(click.Group):
    """Shows an error of the library, the database or the file system as one line, not as a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            with translated():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends in silence when nobody reads on
        except (AlfredDBError, OSError, ValueError, exc.SQLAlchemyError, psycopg.Error) as error:
            click.echo(f"alfred-db: {_line(error)}", err=True)
            ctx.exit(2)


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if isinstance(error, AlfredDBError):
        return str(error)
    return " ".join(str(error).split("\n[SQL:")[0].split())


@click.group(cls=Commands)
@click.version_option(package_name="alfred-db")
def main() -> None:
    """The data layer of AI-agent platforms on one PostgreSQL."""
    logging.basicConfig(format="%(message)s")
    for name in ("alfred_db", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.INFO)


@main.command()
def init() -> None:
    """Write the two lines that let plain `alembic` find the revisions from this folder."""
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


@main.command()
@click.argument("revision", default="head")
@url_option
@schema_option
@click.option(
    "--triggers/--no-triggers", default=True, help="Leave out the triggers, which Citus cannot distribute."
)
def upgrade(revision: str, url: str | None, schema: str | None, triggers: bool) -> None:
    """Bring the database to REVISION (default: head)."""
    migrate.upgrade(url, revision, schema=schema, triggers=triggers)


@main.command()
@click.argument("revision")
@url_option
@schema_option
@click.option("--allow-data-loss", is_flag=True, help="Drop tables that hold rows, too.")
@click.option("--yes", is_flag=True, help="Do not ask, as on a terminal it would.")
def downgrade(revision: str, url: str | None, schema: str | None, allow_data_loss: bool, yes: bool) -> None:
    """Take the database back to REVISION; `base` for nothing of ours.

    Exit status: 0 done, 1 the answer was no, 2 refused or failed, such as when a table holds rows.
    """
    target = migration_url(url)
    if not yes and sys.stdin.isatty():
        tenant = "the default tenant" if schema is None else f"the tenant {schema}"
        rows = ", with the rows in them" if allow_data_loss else ""
        click.confirm(
            f"Take {tenant} of {target.render_as_string(hide_password=True)} back to {revision}, and drop what came"
            f" after{rows}?",
            abort=True,
        )
    migrate.downgrade(target, revision, schema=schema, allow_data_loss=allow_data_loss)


@main.command()
@url_option
@schema_option
def current(url: str | None, schema: str | None) -> None:
    """Print the revision that the database is at."""
    engine = passing_engine(migration_url(url), "alfred-db current")
    with translated(), engine.connect() as connection:
        click.echo(migrate.current(connection, schema) or "base")


@main.command()
def history() -> None:
    """List all revisions, oldest first."""
    for revision in migrate.history():
        click.echo(f"{revision.id:<32}  {revision.summary}")


@main.command()
@url_option
@schema_option
def check(url: str | None, schema: str | None) -> None:
    """Fail when Alembic would generate a revision from the models."""
    migrate.check(url, schema=schema)
    click.echo("The database is what the models say.")


@main.command()
@click.argument("revision", default="head")
@schema_option
@click.option(
    "--triggers/--no-triggers", default=True, help="Leave out the triggers, which Citus cannot distribute."
)
def sql(revision: str, schema: str | None, triggers: bool) -> None:
    """Print the SQL of an upgrade to REVISION (or FROM:TO); needs no database."""
    click.echo(migrate.sql(revision, schema=schema, triggers=triggers), nl=False)


@main.command()
@click.option("--url", help="Database URL; else ALFRED_DB_URL, DATABASE_URL.")
@schema_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(url: str | None, schema: str | None, as_json: bool) -> None:
    """Examine server, extensions and schema. Exit status: 0 well, 1 works with warnings, 2 does not work."""
    report = examine(database_url(url), schema)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.as_text())
    sys.exit(report.exit_status)


for command in (catalog, maintain, schedule, server, tasks, vectors, worker):
    main.add_command(command)
