"""Exports of all tables come back as they were: from JSON lines and from Parquet, whatever interrupts them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, Connection, NullPool, create_engine, text

from alfred_db import (
    ConflictError,
    Database,
    InvalidInputError,
    NotFoundError,
    SchemaOutdatedError,
    SchemaTooNewError,
    migrate,
)
from alfred_db.cli import main
from alfred_db.models import Base
from alfred_db.transfer.adopting import Adoption
from alfred_db.transfer.exporting import export_tables
from alfred_db.transfer.importing import import_tables
from alfred_db.transfer.tables import columns_of

from .made import create

ROWS = 60
LEFT_OUT = {"cache", "cache_bounds", "cache_claims", "rate_limits", "extensions.alfred_db_capabilities"}
TABLES = [table for table in Base.metadata.sorted_tables if table.fullname not in LEFT_OUT]


def command(url: URL, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, [*arguments, "--url", url.set(drivername="postgresql").render_as_string(hide_password=False)]
    )


@pytest.fixture(scope="module")
def filled(template: URL, new_database: Callable[..., URL]) -> URL:
    """A database with rows in the tables of the platforms, and in others that are special."""
    source, url = new_database(), new_database(template.database)
    create(source, ROWS)
    Adoption(url, source=source).run()
    with Database(url) as database, database.begin() as uow:
        uow.knowledge.create_collection("mine", metadata={"a": None})
        uow.knowledge.upsert("mine", [{"id": "1", "payload": {"n": 1, "t": None}, "vector": [0.25] * 1536}])
        uow.spaces.create("dropped", kind="documents", model="m", dimensions=4)
        uow.spaces.drop("dropped")
        uow.spaces.create("halves", kind="documents", model="m", dimensions=8, storage="halfvec")
        uow.spaces.create("whole", kind="documents", model="m", dimensions=3)
        uow.documents.add("in a space", embedding=[0.1] * 8, space="halves")
        uow.documents.add("in another", embedding=[0.1] * 3, space="whole")
        uow.events.publish("topic", {"a": [1, '\\ "\t\n\u2028é']})
        uow.session.execute(
            text("UPDATE tasks SET content = '12345678901234567890.123' WHERE task_id = 'task-1'")
        )
        uow.session.execute(text("UPDATE tasks SET metadata = 'null' WHERE task_id = 'task-2'"))
    return url


def content(url: URL, schema: str = "public") -> dict[str, tuple[int, int]]:
    """The number of rows and a checksum of each table."""
    found: dict[str, tuple[int, int]] = {}
    with create_engine(url, poolclass=NullPool).connect() as connection:
        for table in TABLES:
            if schema != "public" and table.schema in ("auth", "storage", "model_registry", "brk_registry"):
                continue
            # Transactions of another server mean nothing, and are renumbered.
            names = [
                f'CAST("{one.name}" AS text)'
                for one in columns_of(table)
                if one.name not in ("tx", "found_at")
            ]
            place = table.fullname if schema == "public" else f"{schema}.{table.name}"
            row = connection.execute(
                text(
                    f"SELECT count(*), coalesce(sum(CAST(CAST('x' || substr(md5(CAST(ROW({', '.join(names)}) AS text)), 1, 12)"
                    f" AS bit(48)) AS bigint)), 0) FROM {place}"
                )
            ).one()
            found[table.fullname] = (row[0], int(row[1]))
    return found


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_exported_comes_back_as_it_was(
    filled: URL, database_url: URL, tmp_path: Path, kind: str
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    manifest = export_tables(tmp_path, filled, kind=kind, part=25)
    assert manifest.complete
    assert manifest.runs == 1
    assert len(manifest.tables["tasks"].parts) == 3
    with Database(database_url) as database, database.begin() as uow:
        uow.spaces.create("elsewhere", kind="memories", model="m", dimensions=3)
        uow.spaces.drop("elsewhere")
    import_tables(tmp_path, database_url)
    assert content(database_url) == content(filled)
    assert {name for name, (rows, _) in content(filled).items() if rows} >= {
        "tasks",
        "documents_embeddings",
        "events",
    }
    with Database(database_url) as database:
        database.verify()
        with database.begin() as uow:
            (hit,) = uow.documents.search([0.1] * 8, space="halves", limit=1).hits
            assert hit.row.content == "in a space"
            (point,) = uow.knowledge.query("mine", [0.25] * 1536, limit=1).hits
            assert point.row.payload == {"n": 1, "t": None}
            assert uow.documents.add("new").id > 2 * ROWS
    written = import_tables(tmp_path, database_url, tables=["tasks", "documents", "embedding_spaces"])
    assert sum(written.values()) == 0


def test_a_tenant_is_exported_and_imported_without_the_shared_catalogs(
    filled: URL, database_url: URL, tmp_path: Path
) -> None:
    done = command(filled, "export", str(tmp_path))
    assert done.exit_code == 0, done.output
    done = command(
        database_url,
        "import",
        str(tmp_path),
        "--schema",
        "acme",
        "--table",
        "tasks",
        "--table",
        "task_results",
        "--json",
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["written"] == {"tasks": ROWS, "task_results": ROWS}
    again = tmp_path / "again"
    done = command(database_url, "export", str(again), "--schema", "acme")
    assert done.exit_code == 0, done.output
    names = set(json.loads((again / "manifest.json").read_text())["tables"])
    assert "tasks" in names
    assert not {name for name in names if name.startswith(("model_registry", "brk_registry", "auth"))}


def _killed(url: URL, line: str, *arguments: str) -> bool:
    """Run a command in a process that is killed when a file appears, or a table has rows."""
    shown = url.set(drivername="postgresql").render_as_string(hide_password=False)
    code = (
        "import contextlib, os, signal, sys\n"
        "from alfred_db.cli import main\n"
        "from alfred_db.transfer import exporting, importing\n"
        "seen = []\n"
        "def report(so_far):\n"
        "    seen.append(so_far)\n"
        f"    if len(seen) == {line}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "import alfred_db.cli.transfer as command\n"
        "command.progress = lambda: contextlib.nullcontext(lambda *so_far: report(so_far))\n"
        f"main({[*arguments, '--url', shown]!r})\n"
    )
    with forked.Program("-c", code, merged=True) as process:
        process.communicate(60)
        return process.returncode == -9


def test_killed_at_any_moment_they_are_continued(filled: URL, database_url: URL, tmp_path: Path) -> None:
    for moment in ("3", "9"):
        assert _killed(filled, moment, "export", str(tmp_path), "--part", "20")
        with pytest.raises(InvalidInputError, match="no complete export"):
            import_tables(tmp_path, database_url)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("agent_registry.*")}
    manifest = export_tables(tmp_path, filled, part=20)
    assert manifest.runs == 3
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("agent_registry.*")}
    for moment in ("2", "15"):
        assert _killed(database_url, moment, "import", str(tmp_path))
    written = import_tables(tmp_path, database_url)
    assert written["agent_registry"] == 0  # done by the process that was killed
    assert content(database_url) == content(filled)
    with create_engine(database_url, poolclass=NullPool).connect() as connection:
        assert connection.scalar(text("SELECT to_regnamespace('alfred_db_import')")) is None


@pytest.fixture
def exported(filled: URL, tmp_path: Path) -> Path:
    export_tables(tmp_path / "export", filled, tables=["memory_banks", "documents"], part=25)
    return tmp_path / "export"


def change(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_damaged_or_newer_is_refused(exported: Path, database_url: URL, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(exported, tmp_path / name))

    newer = copy("newer")
    change(newer, revision="alfred_9999_future")
    with pytest.raises(SchemaTooNewError, match="alfred_9999_future"):
        import_tables(newer, database_url)
    for file in ("documents.000002.jsonl", "documents.000001.embedding.384.npy"):
        damaged = copy(f"damaged-{file}")
        data = bytearray((damaged / file).read_bytes())
        data[-5] ^= 1
        (damaged / file).write_bytes(bytes(data))
        with pytest.raises(InvalidInputError, match=f"{file}: its checksum"):
            import_tables(damaged, database_url)
        (damaged / file).unlink()
        with pytest.raises(InvalidInputError, match=f"{file}: the file is missing"):
            import_tables(damaged, database_url)
    other = copy("other")
    change(other, format=7)
    with pytest.raises(InvalidInputError, match="expected format 1"):
        import_tables(other, database_url)
    change(other, format=1, tables={"documents": None})
    with pytest.raises(InvalidInputError, match="not the manifest"):
        import_tables(other, database_url)
    with pytest.raises(InvalidInputError, match="no complete export"):
        import_tables(tmp_path / "nothing", database_url)
    with pytest.raises(NotFoundError, match="not in the export"):
        import_tables(exported, database_url, tables=["tasks"])
    with pytest.raises(ConflictError, match="export of other tables"):
        export_tables(exported, database_url, tables=["tasks"])
    with pytest.raises(NotFoundError, match="table nonsense: not one"):
        export_tables(tmp_path / "new", database_url, tables=["nonsense"])
    migrate.downgrade(database_url, migrate.history()[-2].id)
    with pytest.raises(SchemaOutdatedError, match="alfred-db upgrade"):
        import_tables(exported, database_url)


def test_a_row_with_other_content_is_refused_left_or_replaced(exported: Path, database_url: URL) -> None:
    def title(connection: Connection) -> str | None:
        found: str | None = connection.scalar(text("SELECT title FROM documents WHERE id = 2"))
        return found

    import_tables(exported, database_url)
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.begin() as connection:
        was = title(connection)
        connection.execute(text("UPDATE documents SET title = 'mine' WHERE id = 2"))
        connection.execute(text("DELETE FROM documents WHERE id = 4"))
    with pytest.raises(ConflictError, match="documents: the row 2 exists with other content"):
        import_tables(exported, database_url)
    assert import_tables(exported, database_url, on_conflict="skip")["documents"] == 1
    with engine.connect() as connection:
        assert title(connection) == "mine"
    assert import_tables(exported, database_url, on_conflict="update")["documents"] == 1
    with engine.connect() as connection:
        assert title(connection) == was
    with pytest.raises(InvalidInputError, match="on_conflict"):
        import_tables(exported, database_url, on_conflict="replace")


def test_vectors_are_files_of_numpy(exported: Path, filled: URL) -> None:
    vectors = np.load(exported / "documents.000001.embedding.384.npy")
    rows = [json.loads(line) for line in (exported / "documents.000001.jsonl").read_text().splitlines()]
    assert vectors.shape == (sum(row["$embedding"] is not None for row in rows), 384)
    assert vectors.dtype == np.float32
    with Database(filled) as database, database.begin() as uow:
        first = next(row for row in rows if row["$embedding"] is not None)
        stored = uow.session.scalar(
            text("SELECT CAST(embedding AS text) FROM documents WHERE id = :id"), {"id": first["id"]}
        )
    assert np.array_equal(np.array(json.loads(str(stored)), np.float32), vectors[0])


def test_every_table_of_the_models_is_exported(filled: URL, tmp_path: Path) -> None:
    manifest = export_tables(tmp_path, filled, tables=["tasks"])
    assert list(manifest.tables) == ["tasks"]
    whole = export_tables(tmp_path / "whole", filled)
    assert set(whole.tables) == {table.fullname for table in TABLES}
    for name, table in whole.tables.items():
        assert table.columns == [column.name for column in columns_of(Base.metadata.tables[name])]
