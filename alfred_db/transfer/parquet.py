"""Parts as Parquet files. Needs the extra `parquet`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs]
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, Integer, Table

from ..errors import InvalidInputError
from ..vectors.formats import Embedding
from .lines import unpacked
from .tables import NULLS, VECTOR, columns_of, json_columns

__all__ = ["ParquetReader", "ParquetWriter"]

pa: Any = pyarrow  # it has no types
pq: Any = pyarrow.parquet

GROUP = 100
"""Rows of a row group, which is what is in memory."""


def _type_of(column: Column[Any], *, vector: bool, half: bool) -> Any:
    if vector:
        return pa.list_(pa.float16() if half else pa.float32())
    if isinstance(column.type, DateTime):
        return pa.timestamp("us", tz="UTC")
    for kind, known in (
        (BigInteger, pa.int64()),
        (Integer, pa.int64()),
        (Boolean, pa.bool_()),
        (Double, pa.float64()),
    ):
        if isinstance(column.type, kind):
            return known
    return pa.string()


class ParquetWriter:
    """Writes one part: times, numbers and vectors as such, JSON and all else as text.

    Args:
        folder: The folder.
        name: The beginning of the name of the file.
        table: The table.
        halves: The columns with vectors -> whether they are of half precision.
    """

    def __init__(self, folder: Path, name: str, table: Table, halves: dict[str, bool]) -> None:
        self._name, self._halves = f"{name}.parquet", halves
        self._columns = columns_of(table)
        self._schema = pa.schema(
            [
                (
                    column.name,
                    _type_of(column, vector=column.name in halves, half=halves.get(column.name, False)),
                )
                for column in self._columns
            ]
        )
        self._writer = pq.ParquetWriter(
            folder / self._name, self._schema, compression="zstd", use_dictionary=not halves
        )
        self._rows: list[dict[str, Any]] = []

    def add(self, line: bytes, vectors: Sequence[bytes]) -> None:
        """Write a row."""
        row: dict[str, Any] = json.loads(line)
        for (column, half), digits in zip(self._halves.items(), vectors, strict=True):
            vector = unpacked(digits, half=half)
            row[column] = None if vector is None else vector.astype(np.float16 if half else np.float32)
            row.pop(VECTOR + column, None)
        for column in self._schema:
            value = row.get(column.name)
            if value is None:
                continue
            if pa.types.is_timestamp(column.type):
                row[column.name] = _time(value)
            elif pa.types.is_string(column.type) and not isinstance(value, str):
                row[column.name] = json.dumps(value)
        self._rows.append(row)
        if len(self._rows) >= GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()

    def finish(self) -> list[str]:
        """Complete the file, and return its name."""
        self._flush()
        self._writer.close()
        return [self._name]


class ParquetReader:
    """Reads one part as the lines of JSON that it was written from.

    Args:
        folder: The folder.
        file: The name of the file.
        table: The table.
        vectors: The columns with vectors.
    """

    def __init__(self, folder: Path, file: str, table: Table, vectors: Sequence[str]) -> None:
        self._path = folder / file
        self._vectors = vectors
        self._objects = json_columns(table)
        self._plain = {
            column.name
            for column in columns_of(table)
            if type(column.type).__name__ in ("ARRAY", "Numeric", "TransactionId")
        }

    def __iter__(self) -> Iterator[tuple[bytes, list[Embedding | None]]]:
        try:
            with pq.ParquetFile(self._path, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=GROUP, use_threads=False):
                    columns = [batch.column(name) for name in self._vectors]
                    rows = (batch.drop_columns(self._vectors) if self._vectors else batch).to_pylist()
                    for number, row in enumerate(rows):
                        # A list of numbers would take ten times the memory of the vector.
                        found = [column[number].values for column in columns]
                        yield self._line(row), [None if one is None else one.to_numpy() for one in found]
        except pa.ArrowException as error:
            raise InvalidInputError(f"{self._path}: no Parquet file ({error}); export again") from None

    def _line(self, row: dict[str, Any]) -> bytes:
        parts: list[str] = []
        nulls: list[str] = []
        for name, value in row.items():
            if value == "null" and name in self._objects:
                nulls.append(name)
            if value is not None and (name in self._objects or name in self._plain):
                parts.append(f"{json.dumps(name)}:{value}")
            elif isinstance(value, datetime):
                parts.append(f"{json.dumps(name)}:{json.dumps(value.isoformat())}")
            else:
                parts.append(f"{json.dumps(name)}:{json.dumps(value)}")
        if nulls:
            parts.append(f"{json.dumps(NULLS)}:{json.dumps(nulls)}")
        return ("{" + ",".join(parts) + "}").encode()


def _time(value: str) -> datetime:
    """Return a time of PostgreSQL's JSON.

    Raises:
        InvalidInputError: It has none in Parquet.
    """
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except ValueError:
        raise InvalidInputError(
            f"a time is {value[:40]}, which Parquet has not; export as JSON lines"
        ) from None
