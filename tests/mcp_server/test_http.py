"""`alfred-db mcp --transport http` as a process: the token, host and origin, many clients, and its end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator

import httpx2
import pytest
from click.testing import CliRunner
from mcp_calls import called, refused
from mcp_remote import TOKEN, client_of, http_server
from sqlalchemy import URL

from alfred_db.cli import main


@pytest.fixture
def served(served_url: URL, no_connection_left: None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with http_server(served_url) as found:
        yield found


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
    assert await asyncio.to_thread(process.wait, 120) in (0, -signal.SIGTERM)


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
