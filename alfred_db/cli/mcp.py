"""`alfred-db mcp`: serves the repositories to models over the Model Context Protocol."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import click

from ..mcp import GROUPS
from .objects import named_object
from .options import pooler_option, schema_option, url_option

if TYPE_CHECKING:
    from ..database import AsyncDatabase

__all__ = ["embedder_of", "mcp", "token_of"]


@click.command()
@click.option(
    "--tools",
    default=",".join(GROUPS),
    show_default=True,
    metavar="GROUP,...",
    help="The groups of tools.",
)
@click.option("--read-only", is_flag=True, help="Leave out all tools that write.")
@click.option(
    "--embedder",
    metavar="MODULE:NAME",
    help="A function from a list of texts to one vector for each; without it searches compare words.",
)
@click.option("--sql-role", metavar="ROLE", help="The role that the SQL of the group postgres runs as.")
@click.option("--sql-timeout", default=5.0, show_default=True, help="Seconds that this SQL may take.")
@click.option("--transport", type=click.Choice(["stdio", "http"]), default="stdio", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=8000, show_default=True, help="The port to listen at.")
@click.option(
    "--token-env", metavar="NAME", help="The environment variable with the bearer token of clients."
)
@click.option("--allow-host", multiple=True, metavar="HOST", help="A further Host header; may be repeated.")
@click.option("--allow-origin", multiple=True, metavar="ORIGIN", help="A web page's origin; may be repeated.")
@url_option
@schema_option
@pooler_option
def mcp(
    tools: str,
    read_only: bool,
    embedder: str | None,
    sql_role: str | None,
    sql_timeout: float,
    transport: str,
    host: str,
    port: int,
    token_env: str | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    pooler: Any,
    url: str | None,
    schema: str | None,
) -> None:
    """Serve the data to models over the Model Context Protocol.

    Needs the extra: pip install "alfred-db[mcp]".
    """
    from ..config import database_url
    from ..database import AsyncDatabase
    from ..errors import ConfigurationError

    if find_spec("mcp") is None:
        raise ConfigurationError('the command mcp needs the MCP SDK; run: pip install "alfred-db[mcp]"')
    from ..mcp.server import create_server, serve_stdio

    connected = partial(
        AsyncDatabase,
        database_url(url),
        schema=schema,
        pooler=pooler,
        pool_size=10,
        application_name="alfred-db mcp",
    )
    database = connected(read_only=read_only and pooler is None)
    reader = database if database.read_only or pooler is not None else connected(read_only=True)
    server = create_server(
        database,
        groups=[name.strip() for name in tools.split(",") if name.strip()],
        embedder=None if embedder is None else embedder_of(embedder),
        read_only=read_only,
        sql_role=sql_role,
        sql_timeout=sql_timeout,
        reader=reader,
    )
    if transport == "stdio":
        _run(reader, serve_stdio(server, database))
        return
    from ..mcp.http import serve_http

    serving = serve_http(
        server,
        database,
        host=host,
        port=port,
        token=None if token_env is None else token_of(token_env),
        allowed_hosts=allow_host,
        allowed_origins=allow_origin,
    )
    _run(reader, serving)


def _run(reader: AsyncDatabase, serving: Coroutine[Any, Any, None]) -> None:
    import asyncio
    import gc

    async def closed() -> None:
        async with reader:
            await serving

    gc.freeze()  # otherwise each full collection looks at all that was imported, and holds up calls for 0.1 s
    uvloop = import_module("uvloop") if find_spec("uvloop") is not None else None
    with asyncio.Runner(loop_factory=None if uvloop is None else uvloop.new_event_loop) as runner:
        runner.run(closed())


def token_of(name: str) -> str:
    """Return the token in an environment variable.

    Raises:
        ConfigurationError: It is not set, or too short.
    """
    from ..errors import ConfigurationError

    token = os.environ.get(name, "")
    if len(token) < 16 or not token.isascii() or not token.isprintable():
        raise ConfigurationError(
            f"--token-env {name}: the variable has no token of 16 or more characters; set it, such as by"
            " `openssl rand -hex 32`"
        )
    return token


def embedder_of(named: str) -> Callable[[list[str]], Any]:
    """Return the function that MODULE:NAME names.

    Raises:
        ConfigurationError: The module cannot be imported, or the name is not a function.
    """
    from ..errors import ConfigurationError

    found = named_object("--embedder", named, "myapp.search:embed", "define it as a function")
    if not callable(found):
        raise ConfigurationError(
            f"--embedder {named!r}: is {type(found).__name__}; expected a function from a list of texts to vectors"
        )
    return cast("Callable[[list[str]], Any]", found)
