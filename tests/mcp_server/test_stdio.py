"""`alfred-db mcp` as a process, called by the SDK's client over stdin and stdout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from mcp import Client
from mcp_remote import stdio
from sqlalchemy import URL

from alfred_db.cli import main


async def test_a_client_stores_and_finds_over_stdio(database_url: URL, tmp_path: Path) -> None:
    (tmp_path / "vectors.py").write_text(
        "def embed(texts):\n"
        "    return [[float('tea' in text), float('tea' not in text)] + [0.0] * 382 for text in texts]\n"
    )
    server = stdio(
        database_url, tmp_path, "--tools", "agent-memory,vector-store", "--embedder", "vectors:embed"
    )
    async with Client(server) as client:
        stored = await client.call_tool("store_memory", {"content": "Ann likes tea", "bank": "ann"})
        assert stored.structured_content == {"id": 1, "outcome": "stored", "embedded": True}
        await client.call_tool("store_memory", {"content": "Ann has a dog", "bank": "ann"})
        found = await client.call_tool(
            "search_memories", {"query": "tea?", "bank": "ann", "mode": "meaning", "limit": 1}
        )
        assert found.structured_content is not None
        assert [memory["content"] for memory in found.structured_content["memories"]] == ["Ann likes tea"]


def test_the_command_starts_without_the_sdk_and_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alfred_db.cli.mcp.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["mcp"])
    assert result.exit_code == 2
    assert (
        result.stderr == 'alfred-db: the command mcp needs the MCP SDK; run: pip install "alfred-db[mcp]"\n'
    )


@pytest.mark.parametrize("arguments", [["--help"], ["mcp", "--help"]])
def test_help_imports_nothing_of_the_sdk(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from alfred_db.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "assert not {'mcp', 'mcp_types', 'pydantic', 'starlette'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tools", "vectors"], "--tools: unknown group vectors"),
        (["--tools", ","], "--tools: unknown group (none)"),
        (["--embedder", "nothing"], "--embedder 'nothing': expected MODULE:NAME"),
        (["--embedder", "os:nothing"], "--embedder 'os:nothing': os has no 'nothing'"),
        (["--embedder", "os:sep"], "--embedder 'os:sep': is str; expected a function"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], message: str, database_url: URL) -> None:
    url: Any = database_url.render_as_string(hide_password=False)
    result = CliRunner().invoke(main, ["mcp", "--url", url, *arguments])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr
