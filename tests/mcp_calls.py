"""Calls of the tools of `alfred-db mcp` by the client of the SDK."""

from __future__ import annotations

import asyncio
from typing import Any

from mcp import Client


async def called(client: Client, name: str, /, **arguments: Any) -> dict[str, Any]:
    """The structured result of a call that succeeds."""
    result = await client.call_tool(name, arguments)
    assert not result.is_error, f"{name}: {result.content}"
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refused(client: Client, name: str, /, **arguments: Any) -> str:
    """The text of a call that fails."""
    result = await asyncio.wait_for(client.call_tool(name, arguments), 30)
    assert result.is_error, f"{name}: {result.structured_content}"
    message: str = result.content[0].text  # type: ignore[union-attr]
    return message
