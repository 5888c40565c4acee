"""The caller's embedder: a function from texts to vectors."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mcp.server.mcpserver.exceptions import ToolError

__all__ = ["Embedder", "Mode", "embed", "vector_of"]

log = logging.getLogger("alfred_db.mcp")

Embedder = Callable[[list[str]], Any]
"""A function, plain or async, from a list of texts to one vector for each."""

Mode = Literal["auto", "words", "meaning"]
"""How a search compares: by words and meaning where possible, or by one of them."""


async def embed(embedder: Embedder | None, text: str) -> Any:
    """Return the vector of a text, or None without an embedder; a plain function runs in a thread.

    Raises:
        ToolError: The embedder failed, or returned anything but one vector.
    """
    if embedder is None:
        return None
    try:
        if inspect.iscoroutinefunction(embedder):
            vectors: Sequence[Any] = await embedder([text])
        else:
            vectors = await asyncio.to_thread(embedder, [text])
        if len(vectors) != 1:
            raise ValueError("expected one vector for each text")
        return vectors[0]
    except Exception as error:
        log.exception("the embedder failed")
        raise ToolError(
            f"the embedder failed ({type(error).__name__}); search with mode='words', or tell the user to read"
            " the server's log"
        ) from None


async def vector_of(embedder: Embedder | None, text: str, mode: Mode) -> Any:
    """Return the vector that a search in this mode needs, or None for a search by words.

    Raises:
        ToolError: The mode needs an embedder, and the server has none.
    """
    if mode == "words":
        return None
    if embedder is None and mode == "meaning":
        raise ToolError(
            "mode='meaning': this server has no embedder, so it cannot make a vector of the query; search with"
            " mode='words', or ask the user to start the server with --embedder module:function"
        )
    return await embed(embedder, text)
