"""Re-embedding while others read and write, killed on the way; a new database of other lengths; mixed models."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, text

from alfred_db import Database
from alfred_db.cli import Commands
from alfred_db.cli.doctor import examine
from alfred_db.cli.migrations import init
from alfred_db.cli.spaces import spaces
from alfred_db.errors import ConflictError
from alfred_db.indexes import reembed, reembedding, space_recall, switch_space

ROWS = 3000 if os.environ.get("ALFRED_DB_FAULTS") else 160
KILLS = 10 if os.environ.get("ALFRED_DB_FAULTS") else 2


def embed(texts: list[str]) -> Any:
    """A vector of each text, by which it can be told."""
    return np.stack([np.random.default_rng(abs(hash(one)) % 2**32).normal(size=8) for one in texts])


def old(number: int) -> Any:
    return np.random.default_rng(number).normal(size=384).astype(np.float32)


def filled(db: Database) -> list[int]:
    with db.begin() as uow:
        rows: list[Any] = [{"content": f"text {n}"} for n in range(ROWS)]
        return uow.documents.add_many(rows, embeddings=np.stack([old(n) for n in range(ROWS)]))


def wrong(db: Database, table: str) -> int:
    """The number of documents whose vector is not that of their content."""
    with db.begin() as uow:
        rows = uow.session.execute(
            text(
                f"SELECT d.content, v.embedding::text FROM documents AS d LEFT JOIN {table} AS v ON v.row_id = d.id"
            )
        ).all()
    return sum(
        vector is None or not np.allclose(json.loads(vector), embed([content])[0], atol=1e-4)
        for content, vector in rows
    )


def test_edits_are_never_lost_and_reads_never_stop(
    database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembedding, "FOLLOWED", 0.1)
    with Database(database_url, pool_size=6) as db:
        ids = filled(db)
        with db.begin() as uow:
            uow.spaces.create("new", kind="documents", model="m", dimensions=8, building=True)
        stop, failed, edits = threading.Event(), list[str](), [0]

        def write(seed: int) -> None:
            random = np.random.default_rng(seed)
            while not stop.is_set():
                number = int(random.integers(ROWS))
                with db.begin() as uow:
                    uow.documents.update(
                        ids[number], {"content": f"edit {random.integers(1_000_000)}"}, space="builtin"
                    )
                    uow.documents.add(f"added {random.integers(1_000_000)}", space="builtin")
                edits[0] += 1
                stop.wait(0.1)

        def read(seed: int) -> None:
            while not stop.is_set():
                with db.begin() as uow:
                    if not len(uow.documents.search(old(seed), space="builtin")):
                        failed.append("no rows")
                stop.wait(0.1)

        def guarded(work: Callable[[int], None], seed: int) -> None:
            try:
                work(seed)
            except Exception as error:
                failed.append(repr(error))

        threads = [
            threading.Thread(target=guarded, args=(work, n)) for work in (write, read) for n in range(2)
        ]
        for thread in threads:
            thread.start()
        try:
            reports: list[tuple[int, int]] = []
            done = reembed(db, "new", embed, batch=40, progress=lambda *at: reports.append(at))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not failed
        assert edits[0]
        assert done >= ROWS
        assert reports[-1][0] == reports[-1][1] >= ROWS
        assert switch_space(db, "documents", "new", embedder=embed).complete
        with db.begin() as uow:
            info = uow.spaces.describe("new")
        assert (info.default, info.space.state.value) == (True, "active")
        assert wrong(db, info.table) == 0
        assert (space_recall(db, "new") or 0) > 0.95


def test_a_switch_among_busy_writers_succeeds(database_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two embeddings another row is written."""
    monkeypatch.setattr(reembedding, "FOLLOWED", 0.1)
    with Database(database_url, pool_size=4) as db:
        filled(db)
        with db.begin() as uow:
            uow.spaces.create("new", kind="documents", model="m", dimensions=8, building=True)
        reembed(db, "new", embed)
        switching = reembedding.space_recall

        def write() -> None:
            with db.begin() as uow:
                uow.documents.add("written meanwhile", space="builtin")

        def measured(*arguments: Any, **options: Any) -> float | None:
            write()
            return switching(*arguments, **options)

        reembeds = reembedding.reembed

        def again(*arguments: Any, **options: Any) -> int:
            done = reembeds(*arguments, **options)
            if not default():
                write()
            return done

        def default() -> bool:
            with db.begin() as uow:
                return uow.spaces.default("documents").name == "new"

        monkeypatch.setattr(reembedding, "space_recall", measured)
        monkeypatch.setattr(reembedding, "reembed", again)
        assert switch_space(db, "documents", "new", embedder=embed).complete
        assert default()


EMBEDDER = """
import time
import zlib
import numpy as np

def embed(texts):
    time.sleep(0.02)
    return np.stack([np.random.default_rng(zlib.crc32(one.encode())).normal(size=8) for one in texts])
"""


def run(url: URL, *arguments: str) -> Result:
    address = url.render_as_string(hide_password=False)
    return CliRunner().invoke(Commands("alfred-db", commands=[spaces, init]), [*arguments, "--url", address])


def test_a_command_that_is_killed_goes_on(
    database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "model_of_test.py").write_text(EMBEDDER)
    address = database_url.render_as_string(hide_password=False)
    fill = ["spaces", "reembed", "new", "--embedder", "model_of_test:embed", "--kind", "documents"]
    fill += ["--model", "m", "--dimensions", "8", "--batch", "20"]
    with Database(database_url) as db:
        filled(db)
        last = ROWS
        for _ in range(KILLS):
            program = forked.Program("-m", "alfred_db.cli", *fill, "--url", address, cwd=tmp_path)
            pending = last
            while program.poll() is None:
                with db.begin() as uow:
                    known = [one.name for one in uow.spaces.list("documents")]
                    pending = uow.spaces.coverage("new").pending if "new" in known else ROWS
                if pending < last:
                    break
            program.kill()
            said = program.communicate(timeout=180)
            assert pending < last, said
            last = pending
        refused = run(database_url, "spaces", "switch", "documents", "new")
        assert refused.exit_code == 2
        assert "have no vector in it" in refused.output
        done = run(database_url, *fill)
        assert done.exit_code == 0, done.output
        assert 0 < int(done.stdout.split()[1].replace(",", "")) <= last
        shown = run(database_url, "spaces", "status", "--json")
        (found,) = [one for one in json.loads(shown.stdout) if one["name"] == "new"]
        assert (found["rows"], found["missing"], found["stale"], found["state"]) == (ROWS, 0, 0, "active")
        assert "new" in run(database_url, "spaces", "status").output
        refused = run(database_url, "spaces", "switch", "documents", "new", "--target", "1.5")
        assert "its searches find" in refused.output
        switched = run(database_url, "spaces", "switch", "documents", "new")
        assert switched.exit_code == 0, switched.output
        assert "is the default of documents" in run(database_url, "spaces", "drop", "new", "--yes").output
        with db.begin() as uow:
            uow.spaces.default("documents", "builtin")
        assert run(database_url, "spaces", "drop", "new", "--yes").output == "dropped new\n"


def test_a_switch_is_refused_while_rows_have_no_vector(database_url: URL) -> None:
    with Database(database_url) as db:
        with db.begin() as uow:
            uow.documents.add("text")
            uow.spaces.create("new", kind="documents", model="m", dimensions=8)
        with pytest.raises(ConflictError, match="1 of 1 rows have no vector in it"):
            switch_space(db, "documents", "new")


def test_a_new_database_has_the_length_of_the_user(empty_url: URL) -> None:
    made = run(empty_url, "init", "--dimensions", "documents=1536", "--dimensions", "memories=3072")
    assert made.exit_code == 0, made.output
    with Database(empty_url) as db, db.begin() as uow:
        vector = np.eye(1536)[7]
        stored = uow.documents.add("text", embedding=vector)
        assert [hit.row.id for hit in uow.documents.search(vector)] == [stored.id]
        assert uow.spaces.default("memories").dimensions == 3072
    wrong = run(empty_url, "init", "--dimensions", "documents")
    assert wrong.exit_code == 2
    assert "expected KIND=N, such as documents=1536" in wrong.output


def test_the_doctor_names_mixed_models(database_url: URL) -> None:
    with Database(database_url) as db, db.begin() as uow:
        uow.documents.add("a", embedding=old(1), embedding_model="model-a")
        uow.documents.add("b", embedding=old(2))
    assert not [line for line in examine(database_url).warnings if "models" in line]
    with Database(database_url) as db, db.begin() as uow:
        uow.documents.add("c", embedding=old(3), embedding_model="model-b")
    report = examine(database_url)
    assert report.errors == []
    (line,) = [line for line in report.warnings if "models" in line]
    assert "vectors of 2 models, which cannot be compared: 'model-a' (1 rows), 'model-b' (1 rows)" in line
