"""The MCP server over HTTP beside the repository calls that its tools make, and beside the SDK alone.

python benchmarks/mcp.py                 a minute of 200 calls/s by 8 clients
python benchmarks/mcp.py --seconds 10    a shorter run

Each client is a process, as the programs of models are: a call takes the SDK's client longer than the server.
The SDK alone is a server whose tool has the same arguments and returns a result of one row, but asks no database.
On a busy machine the processor time of a call and its ratio to that of the SDK say more than the latency.

`-P` keeps the folder of this file, which has the name of the SDK, out of the path.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from starlette.responses import JSONResponse
from starlette.routing import Route

from alfred_db import AsyncDatabase, Database
from alfred_db.config import database_url
from alfred_db.mcp.embedding import Mode
from alfred_db.mcp.results import Limit
from alfred_db.mcp.vector_store import FoundDocument, FoundDocuments, Query, Where

Call = Callable[[int], Awaitable[None]]

TOKEN = "a-token-of-the-benchmark-01234"
CLIENTS, RATE, DOCUMENTS = 8, 200, 2_000
WORDS, LENGTH = 5_000, 40
"""The words that the documents use, and how many each has. The word of rank n is used as often as
1/(n + 50): after Zipf, without the words that searches leave out, such as "the"."""
LIMIT = 3.0
"""How much longer the 95th percentile of the calls may take than that of the repository's."""
GROWTH = 1.1
"""How much the memory of the server may grow from a third of the run to its end."""


def texts() -> list[str]:
    """Return the texts of the documents."""
    words = [f"word{number}" for number in range(WORDS)]
    frequencies = [1 / (rank + 50) for rank in range(WORDS)]
    source = random.Random(1)
    return [" ".join(source.choices(words, frequencies, k=LENGTH)) for _ in range(DOCUMENTS)]


def questions() -> list[str]:
    """Return three words of each document, as a person remembers it."""
    source = random.Random(2)
    return [" ".join(source.sample(text.split(), 3)) for text in texts()]


def percentile(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def resident(pid: int) -> int:
    """Kilobytes of memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def paced(seconds: float, call: Call, number: int = 0) -> list[float]:
    """Make the calls of one of 8 callers that make 200 calls/s together; return the seconds of each."""
    times: list[float] = []
    start = time.perf_counter() + number / RATE
    for step in range(int(seconds * RATE / CLIENTS)):
        await asyncio.sleep(max(0.0, start + step * CLIENTS / RATE - time.perf_counter()))
        begun = time.perf_counter()
        await call(step * CLIENTS + number)
        times.append(time.perf_counter() - begun)
    return times


async def together(seconds: float, call: Call) -> list[float]:
    """Have 8 callers in this process make calls; return the seconds of each call."""
    times = await asyncio.gather(*(paced(seconds, call, number) for number in range(CLIENTS)))
    return [each for one in times for each in one]


def processor(pid: int) -> float:
    """Seconds of processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve_alone(port: int) -> None:
    """Serve a tool like search_documents that asks no database."""
    server: MCPServer[Any] = MCPServer("alone", log_level="WARNING")
    now = datetime.now(UTC)
    row = FoundDocument(
        id=1,
        title="number 1",
        content="text of number 1",
        chars=16,
        metadata=None,
        external_id="mcp 1",
        embedding_model=None,
        created_at=now,
        updated_at=now,
        score=0.5,
        distance=None,
    )

    @server.tool()
    async def search_documents(
        query: Query, limit: Limit = 10, mode: Mode = "auto", where: Where = None
    ) -> FoundDocuments:
        return FoundDocuments(documents=[row], mode="words", note=None)

    app = server.streamable_http_app(json_response=True)
    app.router.routes.insert(0, Route("/health", lambda _: JSONResponse({"status": "ok"})))
    uvicorn.run(app, port=port, log_level="warning")


@dataclass
class Figures:
    """What a server did for its clients."""

    times: list[float]
    seconds: float
    busy: float
    before: int
    after: int

    def __str__(self) -> str:
        return (
            f"p50 {percentile(self.times, 0.5) * 1e3:7.2f} ms   p95 {percentile(self.times, 0.95) * 1e3:7.2f} ms"
            f"   {len(self.times) / self.seconds:4.0f} calls/s"
            f"   {self.busy / len(self.times) * 1e3:.2f} ms of processor time for each"
        )


async def measure(seconds: float) -> int:
    url, asked = database_url(None), questions()
    async with AsyncDatabase(url, pool_size=CLIENTS) as database:

        async def repository(step: int) -> None:
            async with database.begin() as uow:
                await uow.documents.hybrid_search(asked[step % DOCUMENTS], None, limit=5)

        await together(2, repository)
        direct = await together(min(seconds, 20), repository)

    environment = {
        **os.environ,
        "ALFRED_DB_URL": url.render_as_string(hide_password=False),
        "MCP_TOKEN": TOKEN,
    }
    alone = served([__file__, "--alone"], environment, min(seconds, 20))
    command = ["-m", "alfred_db.cli", "mcp", "--transport", "http", "--token-env", "MCP_TOKEN", "--port"]
    found = served(command, environment, seconds)
    ratio = percentile(found.times, 0.95) / percentile(direct, 0.95)
    print(
        f"repository     p50 {percentile(direct, 0.5) * 1e3:7.2f} ms   p95 {percentile(direct, 0.95) * 1e3:7.2f} ms"
    )
    print(f"the SDK alone  {alone}")
    print(f"alfred-db mcp  {found}")
    print(
        f"p95 ratio {ratio:.2f} (limit {LIMIT}); of the SDK alone {percentile(alone.times, 0.95) / percentile(direct, 0.95):.2f}"
    )
    print(
        f"processor time {found.busy / len(found.times) / (alone.busy / len(alone.times)):.2f} x the SDK alone"
    )
    print(f"memory      {found.before / 1024:.1f} MB, then {found.after / 1024:.1f} MB (limit x {GROWTH})")
    return int(ratio > LIMIT or found.after > found.before * GROWTH)


def served(command: list[str], environment: dict[str, str], seconds: float) -> Figures:
    """Start a server and 8 clients that call it at the rate of `RATE`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-P", *command, str(port)], env=environment)
    base = f"http://127.0.0.1:{port}"
    clients: list[subprocess.Popen[str]] = []
    try:
        for _ in range(600):
            try:
                httpx2.get(f"{base}/health").raise_for_status()
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        for number in range(CLIENTS):
            process = [sys.executable, "-P", __file__, "--client", base, str(number)]
            clients.append(
                subprocess.Popen(process, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        called(clients, 1)
        called(clients, seconds / 3)
        before, busy, begun = resident(server.pid), processor(server.pid), time.perf_counter()
        times = called(clients, seconds)
        took = time.perf_counter() - begun
        return Figures(times, took, processor(server.pid) - busy, before, resident(server.pid))
    finally:
        for client in clients:
            client.kill()
        server.terminate()
        server.wait()


def called(clients: list[subprocess.Popen[str]], seconds: float) -> list[float]:
    """Have all clients make calls for some seconds; return the seconds of each call."""
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(f"{seconds}\n")
        client.stdin.flush()
    times: list[float] = []
    for client in clients:
        assert client.stdout is not None
        times += json.loads(client.stdout.readline())
    return times


async def be_client(base: str, number: int) -> None:
    """Make calls for as many seconds as each line of stdin says; write the seconds of each call as a line."""
    gc.freeze()  # the pauses of a client's own collector are not those of the server
    asked = questions()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
        )
        client = await stack.enter_async_context(
            Client(streamable_http_client(f"{base}/mcp", http_client=http))
        )

        async def call(step: int) -> None:
            arguments = {"query": asked[step % DOCUMENTS], "limit": 5, "mode": "words"}
            result = await client.call_tool("search_documents", arguments)
            assert not result.is_error, result.content

        for line in sys.stdin:
            print(json.dumps(await paced(float(line), call, number)), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--alone", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=2, metavar=("URL", "NUMBER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        serve_alone(arguments.alone)
        return 0
    if arguments.client:
        asyncio.run(be_client(arguments.client[0], int(arguments.client[1])))
        return 0
    with Database() as database:
        database.upgrade()
        with database.begin() as uow:
            uow.documents.add_many(
                [
                    {
                        "external_id": f"mcp words {number}",
                        "title": f"number {number}",
                        "content": content,
                    }
                    for number, content in enumerate(texts())
                ],
                on_conflict="ignore",
            )
    return asyncio.run(measure(arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
