"""Processes of `alfred-db mcp`, and the client of the SDK in a thread, so that one connection serves many tests."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from sqlalchemy import URL

TOKEN = "a-token-of-the-tests-0123456789"
COMMAND = ("-m", "alfred_db.cli", "mcp")


def _environment(url: URL) -> dict[str, str]:
    return {
        **os.environ,
        "ALFRED_DB_URL": url.render_as_string(hide_password=False),
        "MCP_TOKEN": TOKEN,
    }


def stdio(url: URL, folder: Path, *arguments: str) -> StdioServerParameters:
    """How a client starts the server with these options, in a folder of which it can import."""
    return StdioServerParameters(
        command=sys.executable, args=[*COMMAND, *arguments], env=_environment(url), cwd=folder
    )


@contextmanager
def http_server(
    url: URL, *arguments: str, folder: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server over HTTP that answers, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--transport", "http", "--port", str(port), "--token-env", "MCP_TOKEN", *arguments]
    process = subprocess.Popen(
        [sys.executable, *COMMAND, *options],
        env=_environment(url),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                if httpx2.get(f"{base}/health").status_code == 200:
                    break
            except httpx2.TransportError:
                assert process.poll() is None
                time.sleep(0.1)
        yield process, base
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@asynccontextmanager
async def client_of(base: str) -> Any:
    """A client of the server at this address."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as http,
        Client(streamable_http_client(f"{base}/mcp", http_client=http)) as client,
    ):
        yield client


class Remote:
    """A client that stays connected in a thread."""

    def __init__(self, client: AbstractAsyncContextManager[Client]) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready: Future[Client] = Future()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._run(client)])
        self._thread.start()
        self.client = self._ready.result(60)

    async def _run(self, client: AbstractAsyncContextManager[Client]) -> None:
        self._end = asyncio.Event()
        try:
            async with client as connected:
                self._ready.set_result(connected)
                await self._end.wait()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the thread of the client."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """The structured result of a call that succeeds."""
        result = self.wait(self.client.call_tool(name, arguments))
        assert not result.is_error, f"{name}: {result.content}"
        found: dict[str, Any] = result.structured_content
        return found

    def said(self, name: str, /, **arguments: Any) -> tuple[bool, str]:
        """Whether a call fails, and the text of its result."""
        result = self.wait(self.client.call_tool(name, arguments))
        return result.is_error, "".join(content.text for content in result.content)

    def refused(self, name: str, /, **arguments: Any) -> str:
        """The text of a call that fails."""
        failed, text = self.said(name, **arguments)
        assert failed, f"{name}: {text}"
        return text

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()
