"""`alfred-db mcp`: serves the repositories to models over the Model Context Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, cast

import click

from ..config import database_url
from ..database import AsyncDatabase
from ..errors import ConfigurationError
from ..mcp import GROUPS
from .objects import named_object
from .options import pooler_option, schema_option, url_option

__all__ = ["embedder_of", "mcp"]


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
@url_option
@schema_option
@pooler_option
def mcp(
    tools: str,
    read_only: bool,
    embedder: str | None,
    pooler: Any,
    url: str | None,
    schema: str | None,
) -> None:
    """Serve the data to models over the Model Context Protocol.

    Needs the extra: pip install "alfred-db[mcp]".
    """
    if find_spec("mcp") is None:
        raise ConfigurationError('alfred-db mcp: needs the MCP SDK; run: pip install "alfred-db[mcp]"')
    from ..mcp.server import create_server, serve_stdio

    database = AsyncDatabase(
        database_url(url), schema=schema, pooler=pooler, pool_size=10, application_name="alfred-db mcp"
    )
    server = create_server(
        database,
        groups=[name.strip() for name in tools.split(",") if name.strip()],
        embedder=None if embedder is None else embedder_of(embedder),
        read_only=read_only,
    )
    asyncio.run(serve_stdio(server, database))


def embedder_of(named: str) -> Callable[[list[str]], Any]:
    """Return the function that MODULE:NAME names.

    Raises:
        ConfigurationError: The module cannot be imported, or the name is not a function.
    """
    found = named_object("--embedder", named, "myapp.search:embed", "define it as a function")
    if not callable(found):
        raise ConfigurationError(
            f"--embedder {named!r}: is {type(found).__name__}; expected a function from a list of texts to vectors"
        )
    return cast("Callable[[list[str]], Any]", found)
