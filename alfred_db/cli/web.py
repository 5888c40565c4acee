"""`alfred-db web`: the overview and the tasks in a browser."""

from __future__ import annotations

from importlib.util import find_spec

import click

from .mcp import token_of
from .options import schema_option, url_option

__all__ = ["web"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8001, show_default=True, help="The port to listen at."
)
@click.option("--token-env", metavar="NAME", help="The environment variable with the token of browsers.")
@click.option("--allow-host", multiple=True, metavar="HOST", help="A further Host header; may be repeated.")
@url_option
@schema_option
def web(
    host: str,
    port: int,
    token_env: str | None,
    allow_host: tuple[str, ...],
    url: str | None,
    schema: str | None,
) -> None:
    """Show queues, tasks, workflows and schedules in a browser.

    Needs the extra: pip install "alfred-db[web]". It answers GET only, and its connections are read-only.
    """
    from ..config import database_url
    from ..database import Database
    from ..errors import ConfigurationError

    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise ConfigurationError(
            'the command web needs Starlette and uvicorn; run: pip install "alfred-db[web]"'
        )
    from ..web.server import serve

    token = None if token_env is None else token_of(token_env)
    with Database(
        database_url(url), schema=schema, application_name="alfred-db web", read_only=True
    ) as database:
        serve(database, host=host, port=port, token=token, allowed_hosts=allow_host)
