"""`alfred-db server`: the embedded server, kept running across processes."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import click

from .. import embedded
from ..errors import AlfredDBError
from .groups import Group

__all__ = ["server"]


class _Group(Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AlfredDBError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
def server() -> None:
    """The embedded PostgreSQL server, in the folder ALFRED_DB_HOME or the user's data folder."""


@server.command()
def start() -> None:
    """Start the server, and keep it running until `stop`."""
    click.echo(f"running, until `alfred-db server stop`: {embedded.start().url}")


@server.command()
def stop() -> None:
    """Stop the server now, even while processes use it."""
    click.echo("stopped" if embedded.stop() else "it was not running")


@server.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show whether the server runs, where, and which processes use it. Exit status: 3 if it does not run."""
    found = embedded.status()
    running = f"PostgreSQL {found.version}, pid {found.pid}" if found.running else "not running"
    click.echo(f"server    {running}")
    click.echo(f"folder    {found.folder}")
    click.echo(f"used by   {', '.join(map(str, found.processes)) or 'no process'}")
    click.echo(f"kept      {'until `alfred-db server stop`' if found.kept else 'while a process uses it'}")
    if found.url:
        click.echo(f"url       {found.url}")
    ctx.exit(0 if found.running else 3)


@server.command()
def url() -> None:
    """Print the server's URL, for ALFRED_DB_URL."""
    found = embedded.status()
    if not found.url:
        raise click.ClickException(f"no server runs in {found.folder}: `alfred-db server start` starts it")
    click.echo(found.url)


@server.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def psql(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Start the server if needed and open psql; the arguments are psql's own."""
    command = [str(embedded.binaries() / "psql"), embedded.url(), *arguments]
    # Ctrl-C is for the statement that runs in psql, not for us.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctx.exit(subprocess.run(command).returncode)
    finally:
        signal.signal(signal.SIGINT, before)
