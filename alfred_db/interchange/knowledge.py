"""Knowledge in files: dumps of Qdrant, and exports that restore exactly what was stored.

An export is a folder: `points.jsonl` has a line for each point, `vectors.npy` their vectors as float32, and
`collection.json` describes the collection. It is written last, so that a folder without it is incomplete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from io import BufferedWriter
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..checks import json_text, kind
from ..errors import InvalidInputError, shown
from ..values.knowledge import is_array, is_object
from ..vectors.formats import Embedding
from .files import binary_lines, json_object, limited, matrix, npy_header, numbered

__all__ = ["ExportWriter", "batches", "read_export", "read_qdrant"]

_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|NaN|Infinity|\xed[\xa0-\xbf]")

_DESCRIBED: Mapping[str, Any] = {
    "points": (int, "a whole number"),
    "vectors": (int, "a whole number"),
    "dimensions": (int, "a whole number"),
    "description": (str | None, "text"),
    "embedding_model": (str | None, "text"),
    "metadata": (dict, "an object"),
}

T = TypeVar("T")

FORMAT = 1
COLLECTION, POINTS, VECTORS = "collection.json", "points.jsonl", "vectors.npy"


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class ExportWriter:
    """Writes an export into a folder in batches; an export that the folder already has is replaced.

    Args:
        folder: The folder; it is created if it does not exist.
        dimensions: Dimensions of the vectors.
    """

    def __init__(self, folder: str | Path, dimensions: int) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / COLLECTION).unlink(missing_ok=True)
        self._dimensions = dimensions
        self._points = (self._folder / POINTS).open("w", encoding="utf-8", newline="\n")
        self._vectors = (self._folder / VECTORS).open("wb")
        self._vectors.write(npy_header(0, dimensions))
        self.points = self.vectors = 0

    def add(self, rows: Iterable[tuple[str, Mapping[str, Any], Embedding | None, datetime | None]]) -> None:
        """Write points: id, payload, vector and expiry of each."""
        for id_, payload, vector, expires_at in rows:
            place = None if vector is None else self.vectors
            line: dict[str, Any] = {"id": id_, "payload": payload, "vector": place}
            if expires_at is not None:
                line["expires_at"] = expires_at.astimezone(UTC).isoformat()
            self._points.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
            self.points += 1
            if vector is not None:
                self._vectors.write(np.ascontiguousarray(vector, dtype="<f4").tobytes())
                self.vectors += 1

    def finish(self, collection: Mapping[str, Any]) -> None:
        """Write the description of the collection, which completes the export."""
        self._vectors.seek(0)
        self._vectors.write(npy_header(self.vectors, self._dimensions))
        self.close()
        document = {"format": FORMAT, "points": self.points, "vectors": self.vectors, **collection}
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        (self._folder / COLLECTION).write_text(text, encoding="utf-8")

    def close(self) -> None:
        """Close the files."""
        files: tuple[Any, BufferedWriter] = (self._points, self._vectors)
        for file in files:
            file.close()

    def __enter__(self) -> ExportWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_export(folder: str | Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Return the description of an exported collection, and an iterator over its points.

    Raises:
        InvalidInputError: The export is incomplete or damaged.
    """
    place = Path(folder)
    missing = [name for name in (COLLECTION, POINTS, VECTORS) if not (place / name).is_file()]
    if missing:
        raise InvalidInputError(f"{place}: no complete export, {', '.join(missing)} missing; export again")
    with (place / COLLECTION).open("rb") as file:
        described = json_object(limited(file, f"{place / COLLECTION}"), f"{place / COLLECTION}")
    if described.get("format") != FORMAT:
        raise InvalidInputError(f"{place / COLLECTION}: expected format {FORMAT}; export with this version")
    for name, (known, what) in _DESCRIBED.items():
        if described.get(name) is not None and not isinstance(described[name], known):
            raise InvalidInputError(
                f"{place / COLLECTION}: {name}: expected {what}, got {kind(described.get(name))}; export again"
            )
    return described, _exported(place, described)


def _exported(place: Path, described: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    path = place / POINTS
    vectors = matrix(place / VECTORS) if described.get("vectors") else np.empty((0, 0), np.float32)
    number = 0
    for number, line in enumerate(binary_lines(path), start=1):
        where = f"{path}, line {number}"
        point = json_object(line, where)
        row = point.get("vector")
        if row is not None and not (row.__class__ is int and 0 <= row < len(vectors)):
            raise InvalidInputError(f"{where}: vector {str(row)[:20]} does not exist; export again")
        vector = None if row is None else np.array(vectors[row])
        yield {
            "id": _id(point.get("id"), where),
            "payload": _payload(point, line, where),
            "vector": vector,
            "expires_at": _expiry(point.get("expires_at"), where),
        }
    if number != described.get("points"):
        raise InvalidInputError(
            f"{path}: {number} points of {described.get('points')}; the file is incomplete, export again"
        )


def read_qdrant(
    source: str | Path | Iterable[str | bytes], vector_name: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the points of a dump of the scroll API of Qdrant.

    Args:
        source: A file of JSON lines, or its lines; a line is a point or a page of points.
        vector_name: The vector to read if points have named vectors; None if they have only one.

    Raises:
        InvalidInputError: A line is invalid; the message names the line.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise InvalidInputError(f"{path}: no such file; expected a dump as JSON lines")
        yield from _points(binary_lines(path), f"{path}, ", vector_name)
    else:
        yield from _points(source, "", vector_name)


def _points(lines: Iterable[str | bytes], name: str, vector_name: str | None) -> Iterator[dict[str, Any]]:
    for where, line in numbered(lines, name):
        given = json_object(line, where)
        page: Any = given.get("result", given)
        found: Any = page.get("points", [given]) if is_object(page) else page
        if not is_array(found):
            raise InvalidInputError(f"{where}: expected a point, or a page of points")
        for point in found:
            if not is_object(point) or "id" not in point:
                raise InvalidInputError(f"{where}: expected a point with id, payload and vector")
            yield {
                "id": _id(point["id"], where),
                "payload": _payload(point, line, where),
                "vector": _vector(point.get("vector"), vector_name, where),
            }


def _vector(given: Any, name: str | None, where: str) -> Any:
    if not is_object(given):
        return given
    if name is None and len(given) == 1:
        (name,) = given
    if name is not None and name in given:
        return given[name]
    known = ", ".join(map(shown, sorted(map(str, given))[:5]))
    raise InvalidInputError(f"{where}: several vectors; name the one to take by vector_name, of: {known}")


def _id(given: Any, where: str) -> str | int:
    if given.__class__ not in (str, int):
        raise InvalidInputError(f"{where}: id: expected a number or a text, got {kind(given)}")
    found: str | int = given
    return found


def _expiry(given: Any, where: str) -> datetime | None:
    if given is None:
        return None
    try:
        time = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        time = None
    if time is None or time.tzinfo is None:
        raise InvalidInputError(f"{where}: expires_at: expected a time with its zone; export again")
    return time


def _payload(point: Mapping[str, Any], line: str | bytes, where: str) -> Any:
    given = point.get("payload")
    if given is None:
        return None
    if not is_object(given):
        raise InvalidInputError(f"{where}: payload: expected an object, got {kind(given)}")
    # Only what JSON lines can hold and jsonb cannot; everything else is checked when it is sent.
    if _SUSPICIOUS.search(line.encode(errors="surrogatepass") if isinstance(line, str) else line):
        json_text(f"{where}: point {shown(point['id'])}: payload", dict(given))
    return given
