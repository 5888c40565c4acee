"""`alfred-db server`: the embedded server, kept running across processes."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import asdict

import click

from .groups import Group
from .options import json_option
from .output import print_result

__all__ = ["server"]


@click.group(cls=Group)
def server() -> None:
    """The embedded PostgreSQL server, in the folder ALFRED_DB_HOME or the user's data folder."""


@server.command()
@json_option
def start(as_json: bool) -> None:
    """Start the server, and keep it running until `stop`."""
    from .. import embedded

    found = embedded.start()
    print_result(asdict(found), f"running, until `alfred-db server stop`: {found.url}", as_json=as_json)


@server.command()
@json_option
def stop(as_json: bool) -> None:
    """Stop the server now, even while processes use it."""
    from .. import embedded

    stopped = embedded.stop()
    print_result({"stopped": stopped}, "stopped" if stopped else "it was not running", as_json=as_json)


@server.command()
@json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show whether the server runs, where, and which processes use it. Exit status: 3 if it does not run."""
    from .. import embedded

    found = embedded.status()
    running = f"PostgreSQL {found.version}, pid {found.pid}" if found.running else "not running"
    print_result(
        asdict(found),
        f"server    {running}",
        f"folder    {found.folder}",
        f"used by   {', '.join(map(str, found.processes)) or 'no process'}",
        f"kept      {'until `alfred-db server stop`' if found.kept else 'while a process uses it'}",
        *([f"url       {found.url}"] if found.url else []),
        as_json=as_json,
    )
    ctx.exit(0 if found.running else 3)


@server.command()
@json_option
def url(as_json: bool) -> None:
    """Print the server's URL, for ALFRED_DB_URL."""
    from .. import embedded
    from ..errors import ConfigurationError

    found = embedded.status()
    if not found.url:
        raise ConfigurationError(f"no server runs in {found.folder}: `alfred-db server start` starts it")
    print_result({"url": found.url}, found.url, as_json=as_json)


@server.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def psql(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Start the server if needed and open psql; the arguments are psql's own."""
    from .. import embedded

    command = [str(embedded.binaries() / "psql"), embedded.url(), *arguments]
    # Ctrl-C is for the statement that runs in psql, not for us.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctx.exit(subprocess.run(command).returncode)
    finally:
        signal.signal(signal.SIGINT, before)
