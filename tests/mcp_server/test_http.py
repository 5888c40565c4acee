"""`alfred-db mcp --transport http` as a process: the token, host and origin, many clients, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_calls import called, refused
from sqlalchemy import URL

from alfred_db.cli import main

TOKEN = "a-token-of-the-tests-0123456789"


@pytest.fixture
def served(served_url: URL, no_connection_left: None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "ALFRED_DB_URL": served_url.render_as_string(hide_password=False),
        "MCP_TOKEN": TOKEN,
    }
    command = [
        "-m",
        "alfred_db.cli",
        "mcp",
        "--transport",
        "http",
        "--port",
        str(port),
        "--token-env",
        "MCP_TOKEN",
    ]
    process = subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.PIPE, text=True)
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
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as http,
        Client(streamable_http_client(f"{base}/mcp", http_client=http)) as client,
    ):
        yield client


async def test_many_clients_over_http(served: tuple[subprocess.Popen[str], str]) -> None:
    process, base = served
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json, text/event-stream"}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with httpx2.AsyncClient() as http:

        async def status(**changed: str) -> int:
            given = {**headers, **changed}
            return (await http.post(f"{base}/mcp", json=ping, headers=given)).status_code

        assert (await http.post(f"{base}/mcp", json=ping)).status_code == 401
        assert await status(Authorization="Bearer wrong") == 401
        assert await status(Authorization=TOKEN) == 401
        assert await status(Host="evil.example") == 421
        assert await status(Origin="https://evil.example") == 403
        assert (await http.get(f"{base}/health")).json() == {"status": "ok"}

    async def one(number: int) -> None:
        async with client_of(base) as client:
            bank = f"client {number}"
            await called(client, "store_memory", content=f"the word of {number}", bank=bank)
            found = await called(client, "search_memories", query="word", bank=bank)
            assert [memory["content"] for memory in found["memories"]] == [f"the word of {number}"]
            assert "not found" in await refused(client, "get_document", document_id=99)

    await asyncio.gather(*(one(number) for number in range(6)))
    # A client that vanishes in the middle of a call.
    vanished = asyncio.create_task(_vanish(base))
    await asyncio.sleep(0.5)
    vanished.cancel()
    await asyncio.gather(vanished, return_exceptions=True)
    async with client_of(base) as client:
        assert (await called(client, "query", sql="SELECT 1"))["rows"] == [[1]]
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 30) in (0, -signal.SIGTERM)


async def _vanish(base: str) -> None:
    async with client_of(base) as client:
        await client.call_tool("query", {"sql": "SELECT count(*) FROM generate_series(1, 100000000000)"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it; pass --token-env"),
        (["--token-env", "NOT_SET_AT_ALL"], "--token-env NOT_SET_AT_ALL: the variable has no token"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], message: str, served_url: URL) -> None:
    url = served_url.render_as_string(hide_password=False)
    result = CliRunner().invoke(main, ["mcp", "--url", url, "--transport", "http", *arguments])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
