"""Re-embedding of 20,000 documents, killed ten times, while four writers and four readers work."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import URL, text

from alfred_db import Database

pytestmark = pytest.mark.skipif(
    "ALFRED_DB_FAULTS" not in os.environ, reason="some minutes; ALFRED_DB_FAULTS=1 runs it"
)

ROWS, KILLS, CLIENTS = 20_000, 10, 4

EMBEDDER = """
import time, zlib
import numpy as np

def embed(texts):
    time.sleep(0.01)
    return np.stack([np.random.default_rng(zlib.crc32(one.encode())).normal(size=8) for one in texts])
"""


def embedded(content: str) -> Any:
    return np.random.default_rng(zlib.crc32(content.encode())).normal(size=8)


class Clients:
    """Writers and readers in threads; each writer has its own rows, so that it knows what they must hold."""

    def __init__(self, database: Database, ids: list[int]) -> None:
        self.database, self.stop = database, threading.Event()
        self.failed: list[str] = []
        self.said: list[dict[int, str]] = [{} for _ in range(CLIENTS)]
        self.writes, self.reads = [0] * CLIENTS, [0] * CLIENTS
        self.threads = [
            threading.Thread(target=self._guarded, args=(work, number))
            for work in (lambda number: self._write(number, ids[number::CLIENTS]), self._read)
            for number in range(CLIENTS)
        ]

    def __enter__(self) -> Clients:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _guarded(self, work: Any, number: int) -> None:
        try:
            while not self.stop.is_set():
                work(number)
                self.stop.wait(0.01)
        except Exception as error:
            self.failed.append(repr(error))

    def _write(self, number: int, ids: list[int]) -> None:
        key, said = random.choice(ids), f"edit {number} {self.writes[number]} {random.random()}"
        with self.database.begin() as uow:
            uow.documents.update(key, {"content": said}, space="builtin")
            added = uow.documents.add(f"added {number} {self.writes[number]}", space="builtin")
        self.said[number] |= {key: said, added.id: f"added {number} {self.writes[number]}"}
        self.writes[number] += 1

    def _read(self, number: int) -> None:
        vector = np.random.default_rng(number).normal(size=384)
        with self.database.begin() as uow:
            found = uow.documents.search(vector, limit=5, space="builtin")
            there = uow.documents.search(embedded("text 1"), limit=5, space="new")
        if len(found) < 5:
            self.failed.append(f"builtin: {found}")
        if self.reads[number] > 1_000 and len(there) < 5:
            self.failed.append(f"new: {there}")
        self.reads[number] += 1


def resident(pid: int) -> int:
    """The memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


def test_edits_reads_and_kills(database_url: URL, tmp_path: Path) -> None:
    (tmp_path / "model_of_test.py").write_text(EMBEDDER)
    address = database_url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "alfred_db.cli", "spaces"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    fill = [*command, "reembed", "new", "--embedder", "model_of_test:embed", "--url", address]

    def pending(db: Database) -> int:
        with db.begin() as uow:
            return uow.spaces.coverage("new").pending

    with Database(database_url, pool_size=2 * CLIENTS + 2) as db:
        vectors = np.random.default_rng(7).normal(size=(ROWS, 384)).astype(np.float32)
        contents: list[Any] = [{"content": f"text {number}"} for number in range(ROWS)]
        with db.begin() as uow:
            ids = uow.documents.add_many(contents, embeddings=vectors, space="builtin")
            uow.spaces.create("new", kind="documents", model="m", dimensions=8, building=True)
        with Clients(db, ids) as clients:
            for kill in range(KILLS):
                before = pending(db)
                process = subprocess.Popen(fill, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
                aim = before - (ROWS - ROWS // 4) // KILLS
                until = time.monotonic() + 120
                while process.poll() is None and pending(db) > aim and time.monotonic() < until:
                    time.sleep(random.random() / 5)
                process.kill()
                process.wait(30)
                assert pending(db) < before, kill
            process = subprocess.Popen(fill, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
            memory: list[int] = []
            while process.poll() is None:
                memory.append(resident(process.pid))
                time.sleep(0.1)
            assert process.returncode == 0
            switched = subprocess.run(
                [
                    *command,
                    "switch",
                    "documents",
                    "new",
                    "--embedder",
                    "model_of_test:embed",
                    "--url",
                    address,
                ],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert switched.returncode == 0, switched.stderr
        assert not clients.failed
        assert min(clients.writes) > 0
        assert min(clients.reads) > 0
        # What was written until the clients stopped.
        assert subprocess.run(fill, env=environment, cwd=tmp_path, timeout=300, check=False).returncode == 0
        with db.begin() as uow:
            info = uow.spaces.describe("new")
            rows = uow.session.execute(
                text(
                    f"SELECT d.id, d.content, v.embedding::text FROM documents AS d LEFT JOIN {info.table} AS v ON v.row_id = d.id"
                )
            ).all()
    stored = {key: (content, vector) for key, content, vector in rows}
    lost = [
        key
        for said in clients.said
        for key, content in said.items()
        if stored.get(key, ("", ""))[0] != content
    ]
    wrong = [
        key
        for key, (content, vector) in stored.items()
        if vector is None or not np.allclose(json.loads(vector), embedded(content), atol=1e-4)
    ]
    steady = memory[len(memory) // 4 :] or [0]
    print(
        f"\n{sum(clients.writes)} edits, {sum(clients.reads)} reads, {len(clients.failed)} failed; {len(stored)} rows,"
        f" {len(lost)} edits lost, {len(wrong)} rows with a wrong vector; {min(steady)} to {max(steady)} MB resident"
    )
    assert (lost, wrong) == ([], [])
    assert info.default
    assert max(steady) - min(steady) < 50
