"""The MCP server over HTTP beside the repository calls that its tools make.

python benchmarks/mcp.py                 a minute of 200 calls/s by 8 clients
python benchmarks/mcp.py --seconds 10    a shorter run

`-P` keeps the folder of this file, which has the name of the SDK, out of the path.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from alfred_db import AsyncDatabase, Database
from alfred_db.config import database_url

TOKEN = "a-token-of-the-benchmark-01234"
CLIENTS, RATE, DOCUMENTS = 8, 200, 2_000
LIMIT = 3.0
"""How much longer the 95th percentile of the calls may take than that of the repository's."""
GROWTH = 1.1
"""How much the memory of the server may grow from a third of the run to its end."""


def percentile(times: list[float], part: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * part))]


def resident(pid: int) -> int:
    """Kilobytes of memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def paced(seconds: float, calls: list) -> list[float]:
    """Have 8 callers make 200 calls/s together; return the seconds of each call."""
    times: list[float] = []

    async def caller(number: int) -> None:
        start = time.perf_counter() + number / RATE
        for step in range(int(seconds * RATE / CLIENTS)):
            await asyncio.sleep(max(0.0, start + step * CLIENTS / RATE - time.perf_counter()))
            begun = time.perf_counter()
            await calls[number](step)
            times.append(time.perf_counter() - begun)

    await asyncio.gather(*(caller(number) for number in range(CLIENTS)))
    return times


async def measure(seconds: float) -> int:
    url = database_url(None)
    async with AsyncDatabase(url, pool_size=CLIENTS) as database:

        async def repository(step: int) -> None:
            async with database.begin() as uow:
                await uow.documents.hybrid_search(f"number {step % DOCUMENTS}", None, limit=5)

        await paced(2, [repository] * CLIENTS)
        direct = await paced(min(seconds, 20), [repository] * CLIENTS)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "ALFRED_DB_URL": url.render_as_string(hide_password=False),
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
    server = subprocess.Popen([sys.executable, *command], env=environment)
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                httpx2.get(f"{base}/health").raise_for_status()
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        async with AsyncExitStack() as stack:
            calls = []
            for _ in range(CLIENTS):
                http = await stack.enter_async_context(
                    httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
                )
                client = await stack.enter_async_context(
                    Client(streamable_http_client(f"{base}/mcp", http_client=http))
                )

                async def call(step: int, client: Client = client) -> None:
                    arguments = {"query": f"number {step % DOCUMENTS}", "limit": 5, "mode": "words"}
                    result = await client.call_tool("search_documents", arguments)
                    assert not result.is_error, result.content

                calls.append(call)
            await paced(seconds / 3, calls)
            before = resident(server.pid)
            begun = time.perf_counter()
            served = await paced(seconds, calls)
            took, after = time.perf_counter() - begun, resident(server.pid)
    finally:
        server.terminate()
        server.wait()
    ratio = percentile(served, 0.95) / percentile(direct, 0.95)
    print(
        f"repository  p50 {percentile(direct, 0.5) * 1e3:7.2f} ms   p95 {percentile(direct, 0.95) * 1e3:7.2f} ms"
    )
    print(
        f"over HTTP   p50 {percentile(served, 0.5) * 1e3:7.2f} ms   p95 {percentile(served, 0.95) * 1e3:7.2f} ms"
    )
    print(f"calls/s     {len(served) / took:.0f}; p95 ratio {ratio:.2f} (limit {LIMIT})")
    print(f"memory      {before / 1024:.1f} MB, then {after / 1024:.1f} MB (limit x {GROWTH})")
    return int(ratio > LIMIT or after > before * GROWTH)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    with Database() as database:
        database.upgrade()
        with database.begin() as uow:
            uow.documents.add_many(
                [
                    {
                        "external_id": f"mcp {number}",
                        "title": f"number {number}",
                        "content": f"text of number {number}",
                    }
                    for number in range(DOCUMENTS)
                ],
                on_conflict="ignore",
            )
    return asyncio.run(measure(arguments.seconds))


if __name__ == "__main__":
    sys.exit(main())
