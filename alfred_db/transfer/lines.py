"""Parts as JSON lines: a file of rows, and one of vectors for each column and length."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputError
from ..interchange.files import binary_lines, matrix, npy_header
from ..vectors.formats import Embedding
from .tables import VECTOR

__all__ = ["LineReader", "LineWriter", "unpacked"]


def unpacked(digits: bytes, *, half: bool) -> Embedding | None:
    """Return a vector from the hexadecimal digits of its binary form."""
    if not digits:
        return None
    return np.frombuffer(bytes.fromhex(digits.decode()), ">f2" if half else ">f4", -1, 4)


class LineWriter:
    """Writes one part.

    Args:
        folder: The folder.
        name: The beginning of the names of its files.
        halves: The columns with vectors -> whether they are of half precision.
    """

    def __init__(self, folder: Path, name: str, halves: dict[str, bool]) -> None:
        self._folder, self._name, self._halves = folder, name, halves
        self._rows = self._open(f"{name}.jsonl")
        self._vectors: dict[tuple[str, int], list[Any]] = {}

    def _open(self, name: str) -> BufferedWriter:
        return (self._folder / name).open("wb")

    def add(self, line: bytes, vectors: Sequence[bytes]) -> None:
        """Write a row."""
        self._rows.write(line + b"\n")
        for (column, half), digits in zip(self._halves.items(), vectors, strict=True):
            vector = unpacked(digits, half=half)
            if vector is None:
                continue
            place = column, len(vector)
            if place not in self._vectors:
                file = self._open(f"{self._name}.{column}.{len(vector)}.npy")
                file.write(npy_header(0, len(vector), half=half))
                self._vectors[place] = [file, 0, half]
            entry = self._vectors[place]
            entry[0].write(vector.astype("<f2" if half else "<f4").tobytes())
            entry[1] += 1

    def finish(self) -> list[str]:
        """Complete the files, and return their names, the rows first."""
        names = [f"{self._name}.jsonl"]
        files = [self._rows]
        for (column, length), (file, count, half) in self._vectors.items():
            file.seek(0)
            file.write(npy_header(count, length, half=half))
            files.append(file)
            names.append(f"{self._name}.{column}.{length}.npy")
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        return names


def _rows(path: Path) -> Iterator[Embedding]:
    """Yield the rows of a .npy file; read, not mapped, so that they do not count as memory of the process."""
    mapped: Any = matrix(path)
    size, kind, start = mapped.shape[1] * mapped.dtype.itemsize, mapped.dtype, mapped.offset
    del mapped
    with path.open("rb") as file:
        file.seek(start)
        while len(row := file.read(size)) == size:
            yield np.frombuffer(row, kind)


class LineReader:
    """Reads one part.

    Args:
        folder: The folder.
        files: The names of its files, the rows first.
        columns: The columns with vectors.
    """

    def __init__(self, folder: Path, files: Sequence[str], columns: Sequence[str]) -> None:
        self._path = folder / files[0]
        self._columns = columns
        self._matrices: dict[tuple[str, int], Any] = {}
        for name in files[1:]:
            column, length = name.removesuffix(".npy").split(".")[-2:]
            self._matrices[column, int(length)] = _rows(folder / name)

    def __iter__(self) -> Iterator[tuple[bytes, list[Embedding | None]]]:
        for number, line in enumerate(binary_lines(self._path), start=1):
            if not self._columns:
                yield line.rstrip(b"\n"), []
                continue
            where = f"{self._path}, line {number}"
            try:
                row: dict[str, Any] = json.loads(line)
                lengths = [row.get(VECTOR + column) for column in self._columns]
                vectors = [
                    None if length is None else next(self._matrices[column, length])
                    for column, length in zip(self._columns, lengths, strict=True)
                ]
            except (ValueError, AttributeError, KeyError, StopIteration, TypeError):
                raise InvalidInputError(f"{where}: it has no row, or no vector; export again") from None
            yield line.rstrip(b"\n"), vectors
