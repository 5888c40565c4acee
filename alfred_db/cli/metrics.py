"""`alfred-db metrics`: the figures of a database for Prometheus."""

from __future__ import annotations

import signal
import threading
from importlib.util import find_spec
from types import FrameType
from typing import Any

import click

from .options import pooler_option, schema_option, url_option

__all__ = ["metrics"]

PORT = 9187


class _Address(click.ParamType[tuple[str, int]]):
    """HOST:PORT, PORT, or HOST; an IPv6 address is in brackets."""

    name = "HOST:PORT"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return host and port."""
        host, colon, port = value.rpartition(":")
        if value.isdecimal():
            host, port = "127.0.0.1", value
        elif not colon or value.endswith("]"):
            host, port = value, str(PORT)
        if not (port.isascii() and port.isdecimal() and int(port) < 65_536 and len(port) < 6):
            self.fail(f"{value!r}: expected an address such as 127.0.0.1:{PORT}", param, ctx)
        return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


@click.command()
@click.option(
    "--serve", type=_Address(), help="Serve them over HTTP at this address instead, until a signal."
)
@url_option
@schema_option
@pooler_option
def metrics(serve: tuple[str, int] | None, url: str | None, schema: str | None, pooler: Any) -> None:
    """Print the figures of the database in the text format of Prometheus.

    Needs the extra: pip install "alfred-db[prometheus]". Exit status: 1 if the database cannot be reached.
    """
    from ..config import database_url
    from ..database import Database
    from ..errors import ConfigurationError

    if find_spec("prometheus_client") is None:
        raise ConfigurationError(
            'the command metrics needs the client of Prometheus; run: pip install "alfred-db[prometheus]"'
        )
    from ..telemetry.prometheus import render
    from ..telemetry.prometheus import serve as serve_http

    with Database(
        database_url(url),
        schema=schema,
        pooler=pooler,
        pool_size=1,
        application_name="alfred-db metrics",
    ) as database:
        if serve is None:
            text = render(database)
            click.echo(text, nl=False)
            click.get_current_context().exit(0 if "\nalfred_db_up 1.0\n" in text else 1)
        server, thread = serve_http(database, *serve)
        host = f"[{serve[0]}]" if ":" in serve[0] else serve[0]
        click.echo(f"serving http://{host}:{server.server_port}/metrics", err=True)
        stopped = threading.Event()

        def stop(_number: int, _frame: FrameType | None) -> None:
            stopped.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        stopped.wait()
        server.shutdown()
        server.server_close()
        thread.join()
