"""`alfred-db top`: queues, workers, schedules and workflows on the terminal, live."""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import click

from .options import pooler_option, schema_option, url_option

__all__ = ["top"]


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--rows", type=click.IntRange(1, 1000), default=10, show_default=True, help="Rows of each list."
)
@click.option("--once", is_flag=True, help="Print it once, and end, as into a file or a pipe.")
@url_option
@schema_option
@pooler_option
def top(interval: float, rows: int, once: bool, url: str | None, schema: str | None, pooler: Any) -> None:
    """Show queues, workers, schedules and workflows, until Ctrl-C.

    Needs the extra: pip install "alfred-db[top]". It writes nothing. Exit status: 1 if the database cannot be reached.
    """
    from ..config import database_url
    from ..database import Database
    from ..errors import ConfigurationError

    if find_spec("rich") is None:
        raise ConfigurationError('the command top needs rich; run: pip install "alfred-db[top]"')
    from ..telemetry.terminal import show

    with Database(
        database_url(url),
        schema=schema,
        pooler=pooler,
        pool_size=1,
        application_name="alfred-db top",
        read_only=pooler is None,
    ) as database:
        if once or not sys.stdout.isatty():
            reached = show(database, interval=interval, rows=rows, once=True)
            click.get_current_context().exit(0 if reached else 1)
        with suppress(KeyboardInterrupt):
            show(database, interval=interval, rows=rows)
