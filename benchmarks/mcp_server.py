"""The MCP server over HTTP beside the repository calls that its tools make, and beside the SDK alone.

    python benchmarks/mcp_server.py [--quick]

8 clients make 200 calls/s together, and each is a process, as the programs of models are. There are two kinds of them:

- plain: it sends the messages of the protocol by HTTP and parses the JSON of the result. It costs little, so that the
  times are those of the server.
- sdk: the client of the SDK. It needs more processor time for a call than the server does, most of it to validate the
  result, and on a machine of two processors the server and PostgreSQL wait for it.

The SDK alone is a server whose tool has the same arguments and returns a result of one row, but asks no database.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

import httpx2
import psutil
import uvicorn
from harness import Page, at_least, at_most, machine, one_server, publish, table, targets
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.types import LATEST_PROTOCOL_VERSION
from starlette.responses import JSONResponse
from starlette.routing import Route

from alfred_db import AsyncDatabase, Database
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
TURNS = 3
PAGE = Page("mcp.md", "Benchmark of the MCP server", "Written by `make bench-mcp`.")


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


@dataclass
class Figures:
    """What 8 callers saw in one run."""

    seconds: float
    times: list[float]
    server: float = 0.0
    """Seconds of processor time of the server, and of the clients."""
    clients: float = 0.0
    growth: float = 1.0

    @property
    def p95(self) -> float:
        return percentile(self.times, 0.95)


async def repository(url: str, seconds: float) -> Figures:
    """Make the calls of the repository that the tool makes, by 8 callers in this process."""
    asked = questions()
    async with AsyncDatabase(url, pool_size=CLIENTS) as database:

        async def call(step: int) -> None:
            async with database.begin() as uow:
                await uow.documents.hybrid_search(asked[step % DOCUMENTS], None, limit=5)

        async def all_of_them(seconds: float) -> list[float]:
            found = await asyncio.gather(*(paced(seconds, call, number) for number in range(CLIENTS)))
            return [each for one in found for each in one]

        await all_of_them(2)
        begun, busy = time.perf_counter(), time.process_time()
        times = await all_of_them(seconds)
        return Figures(time.perf_counter() - begun, times, clients=time.process_time() - busy)


def served(command: list[str], kind: str, environment: dict[str, str], seconds: float) -> Figures:
    """Start a server and 8 clients, and have them make calls."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, *command, str(port)], env=environment)
    base = f"127.0.0.1:{port}"
    clients: list[subprocess.Popen[str]] = []
    try:
        for _ in range(600):
            try:
                httpx2.get(f"http://{base}/health").raise_for_status()
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        for number in range(CLIENTS):
            process = [sys.executable, __file__, "--client", kind, base, str(number)]
            clients.append(
                subprocess.Popen(process, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        called(clients, 1)
        called(clients, seconds / 3)
        process = psutil.Process(server.pid)
        memory, busy, begun = process.memory_info().rss, sum(process.cpu_times()[:2]), time.perf_counter()
        times, cost = called(clients, seconds)
        took = time.perf_counter() - begun
        spent = sum(process.cpu_times()[:2]) - busy
        return Figures(took, times, spent, cost, process.memory_info().rss / memory)
    finally:
        for client in clients:
            client.kill()
            client.communicate()
        server.terminate()
        server.wait()


def called(clients: list[subprocess.Popen[str]], seconds: float) -> tuple[list[float], float]:
    """Have all clients make calls; return the seconds of each call, and the processor time of all."""
    for client in clients:
        assert client.stdin is not None
        client.stdin.write(f"{seconds}\n")
        client.stdin.flush()
    times: list[float] = []
    cost = 0.0
    for client in clients:
        assert client.stdout is not None
        found = json.loads(client.stdout.readline())
        times += found["times"]
        cost += found["cost"]
    return times, cost


@asynccontextmanager
async def plain(base: str) -> AsyncGenerator[Callable[[dict[str, Any]], Awaitable[None]]]:
    """Send each call as one request of the protocol, by a connection that stays open."""
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": LATEST_PROTOCOL_VERSION,
        "MCP-Method": "tools/call",
        "MCP-Name": "search_documents",
    }
    about = {
        "io.modelcontextprotocol/protocolVersion": LATEST_PROTOCOL_VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }

    with closing(http.client.HTTPConnection(base, timeout=60)) as connection:

        async def call(arguments: dict[str, Any]) -> None:
            params = {"name": "search_documents", "arguments": arguments, "_meta": about}
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
            connection.request("POST", "/mcp", body, headers)
            answer = json.loads(connection.getresponse().read())
            assert answer["result"]["structuredContent"]["documents"], answer

        yield call


@asynccontextmanager
async def sdk(base: str) -> AsyncGenerator[Callable[[dict[str, Any]], Awaitable[None]]]:
    """Make each call by the client of the SDK."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as sending,
        Client(streamable_http_client(f"http://{base}/mcp", http_client=sending)) as client,
    ):

        async def call(arguments: dict[str, Any]) -> None:
            result = await client.call_tool("search_documents", arguments)
            assert not result.is_error, result.content
            assert result.structured_content is not None
            assert result.structured_content["documents"], result.content

        yield call


async def be_client(kind: str, base: str, number: int) -> None:
    """Make calls for as many seconds as each line of stdin says; write the seconds of each call as a line."""
    gc.freeze()  # the pauses of a client's own collector are not those of the server
    asked = questions()
    async with {"plain": plain, "sdk": sdk}[kind](base) as send:

        async def call(step: int) -> None:
            await send({"query": asked[step % DOCUMENTS], "limit": 5, "mode": "words"})

        for line in sys.stdin:
            busy = time.process_time()
            times = await paced(float(line), call, number)
            print(json.dumps({"times": times, "cost": time.process_time() - busy}), flush=True)


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


def fill(url: str) -> None:
    """Create the documents."""
    with Database(url) as database:
        database.upgrade()
        with database.begin() as uow:
            uow.documents.add_many(
                [
                    {"external_id": f"mcp words {number}", "title": f"number {number}", "content": content}
                    for number, content in enumerate(texts())
                ]
            )
        with database.session() as session:
            connection = session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            connection.exec_driver_sql("VACUUM ANALYZE documents")


def measure(url: str, seconds: float, turns: int) -> dict[str, list[Figures]]:
    """Run all in turns."""
    environment = {**os.environ, "ALFRED_DB_URL": url, "MCP_TOKEN": TOKEN}
    ours = ["-m", "alfred_db.cli", "mcp", "--transport", "http", "--token-env", "MCP_TOKEN", "--port"]
    alone = [__file__, "--alone"]
    found: dict[str, list[Figures]] = {}
    for _ in range(turns):
        for name, run in (
            ("the repository", lambda: asyncio.run(repository(url, min(seconds, 20)))),
            ("alfred-db, plain clients", lambda: served(ours, "plain", environment, seconds)),
            ("the SDK alone, plain clients", lambda: served(alone, "plain", environment, min(seconds, 20))),
            ("alfred-db, clients of the SDK", lambda: served(ours, "sdk", environment, min(seconds, 20))),
            (
                "the SDK alone, clients of the SDK",
                lambda: served(alone, "sdk", environment, min(seconds, 20)),
            ),
        ):
            found.setdefault(name, []).append(run())
            one = found[name][-1]
            print(
                f"{name}: p95 {one.p95 * 1e3:.2f} ms, {one.server / len(one.times) * 1e3:.2f} ms of the server",
                file=sys.stderr,
            )
    return found


def written(found: dict[str, list[Figures]]) -> tuple[str, str]:
    """Return the table and the targets."""
    base = found["the repository"]
    rows: list[tuple[str, ...]] = []
    for name, runs in found.items():
        each = [
            median(len(one.times) / one.seconds for one in runs),
            median(percentile(one.times, 0.5) for one in runs) * 1e3,
            median(one.p95 for one in runs) * 1e3,
            median(one.p95 / beside.p95 for one, beside in zip(runs, base, strict=True)),
            median(one.server / len(one.times) for one in runs) * 1e3,
            median(one.clients / len(one.times) for one in runs) * 1e3,
        ]
        rows.append((name, *(f"{value:.0f}" if value > 50 else f"{value:.2f}" for value in each)))
    header = (
        "",
        "calls/s",
        "p50, ms",
        "p95, ms",
        "p95 / the repository's",
        "server, ms of a processor",
        "client",
    )
    ours = found["alfred-db, plain clients"]
    goals = [
        at_least("calls/s", median(len(one.times) / one.seconds for one in ours), 0.99 * RATE),
        at_most(
            "p95 / the repository's",
            median(one.p95 / beside.p95 for one, beside in zip(ours, base, strict=True)),
            LIMIT,
        ),
        at_most("memory at the end / at a third", median(one.growth for one in ours), GROWTH),
    ]
    return table(header, rows), targets(goals)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one turn of ten seconds, printed and not kept")
    parser.add_argument("--alone", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=3, metavar=("KIND", "ADDRESS", "NUMBER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        serve_alone(arguments.alone)
        return
    if arguments.client:
        kind, base, number = arguments.client
        asyncio.run(be_client(kind, base, int(number)))
        return
    with one_server() as server:
        url = server.database("mcp")
        fill(url)
        seconds, turns = (10.0, 1) if arguments.quick else (60.0, TURNS)
        found, goals = written(measure(url, seconds, turns))
        if arguments.quick:
            print(found, goals, sep="\n\n")
        else:
            publish(
                PAGE,
                f"{RATE} calls/s by {CLIENTS} clients",
                f"{machine(server)} {DOCUMENTS:,} documents of {LENGTH} words; each call searches for three words. Medians of"
                f" {TURNS} turns. Plain clients send the messages of the protocol by HTTP and parse the JSON of the result. The"
                " client of the SDK validates it, which takes longer than the server does, so that on this machine the server"
                " waits for a processor. The SDK alone is a server with the same tool and a result of one row, without a"
                " database.",
                found,
                goals,
            )


if __name__ == "__main__":
    main()
