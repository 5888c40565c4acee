"""The command `alfred-db`: a thin layer over the library.

No command's module is imported before it is called, and none imports SQLAlchemy, the driver or the models before its function
runs, so that help and a shell's completions come at once: what a function needs of the library it imports itself.
`tests/unit/test_imports.py` holds each module to it.
"""

from __future__ import annotations

import logging
import sys
from collections import UserDict
from collections.abc import Iterator
from importlib import import_module
from keyword import iskeyword

import click

from .groups import HELP, Group, with_examples

__all__ = ["COMMANDS", "INTERRUPTED", "Commands", "main"]

INTERRUPTED = 130
"""The exit status after SIGINT, as shells have it: 128 and the number of the signal."""

COMMANDS = {
    "agents": ("agents", "Agents: list and show them."),
    "cache": ("cache", "The cache: read, set and delete values, and show its size."),
    "documents": ("documents", "Documents: list, show, search and delete them."),
    "enqueue": ("enqueue", "Enqueue a task with INTENT and CONTENT, a JSON object, and wake idle workers."),
    "erd": ("erd", "Print an entity-relationship diagram of the tables in Mermaid; needs no database."),
    "events": ("events", "Events: list and publish them, and show the consumers."),
    "memories": ("memories", "Memories: list banks and what they hold, and forget."),
    "quickstart": (
        "quickstart",
        "Store documents, answer a question by a task, and remember it, to see that everything works.",
    ),
    "adopt": ("adopt", "Move the rows of a platform's database into the library's schema."),
    "catalog": ("catalog", "The catalogs that all tenants share: the broker's, and the model registry."),
    "check": ("migrations", "Fail when Alembic would generate a revision from the models."),
    "current": ("migrations", "Print the revision that the database is at."),
    "distribute": (
        "migrations",
        "Distribute the shared catalogs and the named tenants over the nodes of Citus.",
    ),
    "drill": ("drill", "Dump the database, restore it into a new one, and compare what both answer."),
    "doctor": ("migrations", "Examine server, extensions and schema."),
    "downgrade": (
        "migrations",
        "Downgrade the database to REVISION; `base` removes all tables of alfred-db.",
    ),
    "export": ("transfer", "Export tables to FOLDER; continue an export that was interrupted."),
    "grants": ("grants", "Rights of roles: what each kind needs, as SQL; applying it; and checking it."),
    "history": ("migrations", "List all revisions, oldest first."),
    "import": ("transfer", "Import the tables of an export; continue an import that was interrupted."),
    "indexes": ("indexes", "Indexes of fields in JSON columns: list, add and drop them."),
    "init": (
        "migrations",
        "Write the two lines that let plain `alembic` find the revisions from this folder.",
    ),
    "maintain": (
        "maintain",
        "Create the coming partitions of the broker's request log and of the events, and detach or drop old ones.",
    ),
    "mcp": ("mcp", "Serve the data to models over the Model Context Protocol."),
    "metrics": ("metrics", "Print the figures of the database in the text format of Prometheus."),
    "purge": (
        "purge",
        "Delete what is older than a retention policy allows, or has expired, in batches.",
    ),
    "queues": ("queues", "Queues of tasks: pause and resume them, and set their limits."),
    "schedule": ("schedule", "Scheduled tasks."),
    "server": (
        "server",
        "The embedded PostgreSQL server, in the folder ALFRED_DB_HOME or the user's data folder.",
    ),
    "spaces": ("spaces", "Embedding spaces: show and fill them, switch to one, and drop them."),
    "sql": ("migrations", "Print the SQL of an upgrade to REVISION (or FROM:TO); needs no database."),
    "tasks": ("tasks", "List, requeue and cancel tasks, and show the health of the queue."),
    "tenants": ("tenants", "Tenants: create, list, upgrade and drop them, many at a time."),
    "top": ("top", "Show queues, workers, schedules and workflows, until Ctrl-C."),
    "upgrade": ("migrations", "Upgrade the database to REVISION (default: head)."),
    "vectors": (
        "vectors",
        "Vector indexes: show their state, compare kinds of them, build them, and measure their recall.",
    ),
    "web": ("web", "Show queues, tasks, workflows and schedules in a browser."),
    "workflows": ("workflows", "List, show, cancel and resume executions of workflows."),
    "worker": ("worker", "Run tasks until SIGINT or SIGTERM; a second signal ends the worker at once."),
}
"""The module of each command, and the first sentence of its help."""


class Commands(click.Group):
    """Command that shows an error of the library, the database or the file system as one line, not as a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; exit with status 2 after an error of these kinds, and with 130 after SIGINT."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                if (
                    sys.stdout is not None
                ):  # here, and not at the end of the process: the reader of a pipe may be gone
                    sys.stdout.flush()
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise  # click ends silently when the reader of the pipe is gone
        except (KeyboardInterrupt, click.Abort) as error:
            # At a question click makes an abort of it, which is also what the answer no is.
            if not isinstance(error, KeyboardInterrupt) and not isinstance(
                error.__context__, KeyboardInterrupt
            ):
                raise
            click.echo("alfred-db: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            line = _line(error)
            if line is None:
                raise
            click.echo(f"alfred-db: {line}", err=True)
            ctx.exit(2)


def _line(error: Exception) -> str | None:
    """Return what is wrong as one line; None for a mistake in the program."""
    from psycopg import Error
    from sqlalchemy.exc import SQLAlchemyError

    from ..errors import AlfredDBError, translated

    try:
        with translated():
            raise error
    except Exception as translation:
        error = translation
    if isinstance(error, AlfredDBError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}"
    if isinstance(error, OSError | ValueError | SQLAlchemyError | Error):
        return " ".join(str(error).split("\n[SQL:")[0].split())
    return None


class _Imported(UserDict[str, click.Command]):
    """The commands by name; the module of one is imported when that one is asked for."""

    def __init__(self) -> None:
        super().__init__(
            {name: click.Command(name, help=sentence) for name, (_, sentence) in COMMANDS.items()}
        )

    def __getitem__(self, name: str) -> click.Command:
        if name not in COMMANDS:
            return self.data[name]
        module, _ = COMMANDS[name]
        loaded = import_module(f".{module}", __name__)
        found: click.Command = getattr(loaded, f"{name}_" if iskeyword(name) else name)
        return with_examples(name, found)


class _Main(Commands, Group):
    """Lists the commands without importing them."""

    def sentences(self) -> Iterator[tuple[str, str]]:
        """Yield the names of the commands with the first sentences of their help."""
        for name, (_, sentence) in sorted(COMMANDS.items()):
            yield name, sentence


@click.group(cls=_Main, commands=_Imported(), context_settings={"help_option_names": HELP})
@click.version_option(package_name="alfred-db")
def main() -> None:
    """The data layer of AI-agent platforms on one PostgreSQL."""
    logging.basicConfig(format="%(message)s")
    for name in ("alfred_db", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.INFO)
