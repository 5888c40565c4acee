"""Files from outside: what is wrong with one is one error that names it, and memory is bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alfred_db.errors import InvalidInputError
from alfred_db.interchange.files import MAX_LINE, matrix
from alfred_db.interchange.knowledge import read_export, read_qdrant


def export(folder: Path) -> Path:
    """An export of two points, one with a vector."""
    folder.mkdir()
    described = {"format": 1, "points": 2, "vectors": 1, "name": "n", "distance": "cosine", "metadata": {}}
    (folder / "collection.json").write_text(json.dumps(described))
    (folder / "points.jsonl").write_text(
        '{"id": "1", "payload": {}, "vector": 0}\n{"id": "2", "payload": {}, "vector": null}\n'
    )
    np.save(folder / "vectors.npy", np.ones((1, 3), np.float32))
    return folder


def as_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones((1, 3)))


def save(array: Any, **options: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, **options)


ARRAYS: dict[str, Callable[[Path], object]] = {
    "npz": as_npz,
    "zero dimensions": save(np.float32(1)),
    "one dimension": save(np.ones(3, np.float32)),
    "texts": save(np.array([["a"]])),
    "objects": save(np.array([[{}]]), allow_pickle=True),
    "complex": save(np.ones((1, 3), complex)),
    "structured": save(np.zeros((1,), [("a", "f4")])),
    "empty": lambda path: path.write_bytes(b""),
    "a zip that is cut": lambda path: path.write_bytes(b"PK\x03\x04"),
    "cut header": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"),
    "wrong header": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"{" * 16),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "text": lambda path: path.write_text("hello"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_file_that_holds_no_vectors_is_named(tmp_path: Path, kind: str) -> None:
    folder = export(tmp_path / "export")
    ARRAYS[kind](folder / "vectors.npy")
    with pytest.raises(InvalidInputError, match=r"vectors\.npy: "):
        matrix(folder / "vectors.npy")
    with pytest.raises(InvalidInputError, match=r"vectors\.npy: "):
        list(read_export(folder)[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metadata", 5),
        ("metadata", [1]),
        ("points", "2"),
        ("vectors", "x"),
        ("description", 5),
        ("embedding_model", {}),
    ],
)
def test_a_description_has_the_types_of_one(tmp_path: Path, name: str, value: Any) -> None:
    folder = export(tmp_path / "export")
    described = json.loads((folder / "collection.json").read_text())
    (folder / "collection.json").write_text(json.dumps({**described, name: value}))
    with pytest.raises(InvalidInputError, match=rf"collection\.json: {name}: expected"):
        list(read_export(folder)[1])


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"5",
        b"[1]",
        b"{",
        b'{"id": 1.5}',
        b'{"id": null}',
        b'{"id": [1]}',
        b'{"id": "1", "payload": 5}',
        b'{"id": "1", "payload": [1]}',
        b'{"id": "1", "payload": {"a": "\\u0000"}}',
        b'{"id": "1", "payload": {"a": "\\ud800"}}',
        b'{"id": "1", "payload": {"a": NaN}}',
        b"[" * 100_000,
        b"1" * 5000,
    ],
    ids=lambda line: repr(line[:40]),
)
def test_a_line_that_is_no_point_is_named(tmp_path: Path, line: bytes) -> None:
    dump = tmp_path / "dump.jsonl"
    dump.write_bytes(b'{"id": 1}\n' + line + b"\n")
    with pytest.raises(InvalidInputError, match=r"dump\.jsonl, line 2"):
        list(read_qdrant(dump))
    folder = export(tmp_path / "export")
    (folder / "points.jsonl").write_bytes(b'{"id": "1", "vector": null}\n' + line + b"\n")
    with pytest.raises(InvalidInputError, match=r"points\.jsonl, line 2"):
        list(read_export(folder)[1])


@pytest.mark.parametrize("line", [5, None, {"id": 1}])
def test_a_line_is_text(line: Any) -> None:
    with pytest.raises(InvalidInputError, match="line 2: expected a line of text"):
        list(read_qdrant(['{"id": 1}', line]))


def test_a_line_without_end_costs_little_memory(tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    with dump.open("wb") as file:
        file.write(b'{"id": 1}\n{"id": 2, "payload": {"a": "')
        for _ in range(200):
            file.write(b"x" * (1 << 20))
    script = (
        "import resource, sys\n"
        "from alfred_db.interchange.knowledge import read_qdrant\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: list(read_qdrant(sys.argv[1]))\n"
        "except Exception as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(dump)], capture_output=True, text=True, check=True
    )
    message, grown = done.stdout.splitlines()
    assert f"dump.jsonl, line 2: has more than {MAX_LINE:,} bytes" in message
    assert int(grown) * 1024 < 4 * MAX_LINE
