"""Files read with bounded memory; errors report the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ..checks import kind
from ..errors import InvalidInputError
from ..vectors.formats import Matrix

__all__ = [
    "MAX_FILE",
    "MAX_LINE",
    "binary_lines",
    "json_object",
    "limited",
    "matrix",
    "npy_header",
    "numbered",
    "utf8",
]

MAX_LINE = 32 << 20
"""Maximum bytes of a line of JSON lines: about 1,500 points of 1,536 dimensions."""

MAX_FILE = 64 << 20
"""Maximum bytes of a file that is read as a whole."""


def binary_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file; only one line is in memory at a time.

    Raises:
        InvalidInputError: The file cannot be read, or a line is too long.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise InvalidInputError(_too_long(f"{path}, line {number}"))
                yield line
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from None


def numbered(lines: Iterable[object], name: str) -> Iterator[tuple[str, str | bytes]]:
    """Yield the lines that are not blank, each after its name for messages.

    Raises:
        InvalidInputError: A line is not text, or is too long.
    """
    for number, line in enumerate(lines, start=1):
        where = f"{name}line {number}"
        if not isinstance(line, str | bytes):
            raise InvalidInputError(f"{where}: expected a line of text, got {kind(line)}")
        if len(line) > MAX_LINE:
            raise InvalidInputError(_too_long(where))
        if line.strip():
            yield where, line


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object of a text.

    Raises:
        InvalidInputError: The text is not a JSON object.
    """
    try:
        found: Any = json.loads(text)
    except UnicodeDecodeError:
        raise InvalidInputError(f"{where}: not JSON (expected UTF-8 text, got other bytes)") from None
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{where}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise InvalidInputError(f"{where}: expected an object, got {kind(found)}")
    return cast("dict[str, Any]", found)


def limited(file: BinaryIO, name: str) -> bytes:
    """Return the content of a file.

    Raises:
        InvalidInputError: The file has more than MAX_FILE bytes.
    """
    found = file.read(MAX_FILE + 1)
    if len(found) > MAX_FILE:
        raise InvalidInputError(f"{name}: has more than {MAX_FILE:,} bytes; split it")
    return found


def utf8(content: bytes, name: str) -> str:
    """Return the text of a file.

    Raises:
        InvalidInputError: The file is not UTF-8; the message names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(f"{name}, line {line}: expected UTF-8 text, got other bytes") from None


def matrix(path: Path) -> Matrix:
    """Return the vectors of a .npy file, one a row, memory-mapped: only the rows that are used are read.

    Raises:
        InvalidInputError: The file does not contain vectors.
    """
    try:
        with path.open("rb") as file:
            if file.read(6) != b"\x93NUMPY":
                raise ValueError("not a .npy file")
        found: Any = np.load(path, mmap_mode="r")
    except (
        Exception
    ) as error:  # numpy evaluates the header as a Python literal, and any error of that can occur
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InvalidInputError(f"{path}: no array of vectors ({reason}); export again") from None
    array = cast("Matrix", found)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise InvalidInputError(
            f"{path}: expected floats in two dimensions, a vector a row, got {array.dtype} of shape {array.shape}"
        )
    return array


NPY_HEADER = 128
"""Bytes before the vectors of a .npy file; fixed, because their number is known only at the end."""


def npy_header(rows: int, dimensions: int, *, half: bool = False) -> bytes:
    """Return the header of a .npy file with a fixed length; that of numpy depends on the number of rows."""
    kind = "<f2" if half else "<f4"
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {dimensions}), }}"
    return (
        b"\x93NUMPY\x01\x00"
        + (NPY_HEADER - 10).to_bytes(2, "little")
        + header.ljust(NPY_HEADER - 11).encode()
        + b"\n"
    )


def _too_long(where: str) -> str:
    return f"{where}: has more than {MAX_LINE:,} bytes; write fewer points to a line"
