"""The manifest of an export: what it contains, from which revision, and the checksum of each file."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import migrate
from ..checks import kind
from ..errors import InvalidInputError, SchemaTooNewError
from ..interchange.files import json_object, limited

__all__ = ["MANIFEST", "Manifest", "Part", "TableExport", "checksum_of"]

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass
class Part:
    """A part of a table: a file of rows, and the files of their vectors."""

    rows: int
    last: list[str]
    """The key of its last row."""
    files: dict[str, str]
    """Name -> sha256; the rows come first."""


@dataclass
class TableExport:
    """What is exported of one table."""

    columns: list[str]
    rows: int = 0
    done: bool = False
    parts: list[Part] = field(default_factory=list[Part])


@dataclass
class Manifest:
    """The manifest of an export."""

    revision: str
    kind: str
    """`jsonl` or `parquet`."""
    tables: dict[str, TableExport]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    format: int = FORMAT
    library: str = field(default_factory=lambda: version("alfred-db"))
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    runs: int = 0
    """Runs that have written it; the rows of one run are those of one moment."""

    @property
    def complete(self) -> bool:
        """Whether all tables are done."""
        return all(table.done for table in self.tables.values())

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(table.rows for table in self.tables.values())

    def save(self, folder: Path) -> None:
        """Replace the file at once, so that there is a whole one at any moment."""
        document = {**asdict(self), "complete": self.complete}
        written = folder / f"{MANIFEST}.new"
        with written.open("w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        written.replace(folder / MANIFEST)

    @classmethod
    def load(cls, folder: Path) -> Manifest | None:
        """Read the manifest of a folder; None if it has none.

        Raises:
            InvalidInputError: It is not a manifest that this version reads.
        """
        path = folder / MANIFEST
        if not path.is_file():
            return None
        with path.open("rb") as file:
            found = json_object(limited(file, str(path)), str(path))
        if found.get("format") != FORMAT:
            raise InvalidInputError(
                f"{path}: expected format {FORMAT}; import it with the version that wrote it"
            )
        try:
            return _read(found)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise InvalidInputError(f"{path}: not the manifest of an export; export again") from None

    def refuse_newer(self, folder: Path) -> None:
        """Refuse an export of a schema that this version does not know.

        Raises:
            SchemaTooNewError: Its revision is newer.
        """
        if self.revision not in {step.id for step in migrate.history()}:
            raise SchemaTooNewError(
                f"{folder}: it was exported at revision {self.revision!r}, which this version of alfred-db does not know;"
                " upgrade alfred-db"
            )


def _read(found: Mapping[str, Any]) -> Manifest:
    tables: dict[str, TableExport] = {}
    for name, table in found["tables"].items():
        parts = [Part(int(one["rows"]), list(one["last"]), dict(one["files"])) for one in table["parts"]]
        tables[name] = TableExport(list(table["columns"]), int(table["rows"]), bool(table["done"]), parts)
    for name in ("revision", "kind", "id", "library", "created_at"):
        if not isinstance(found[name], str):
            raise TypeError(kind(found[name]))
    return Manifest(
        found["revision"],
        found["kind"],
        tables,
        found["id"],
        FORMAT,
        found["library"],
        found["created_at"],
        int(found["runs"]),
    )


def checksum_of(path: Path) -> str:
    """Return the sha256 of a file, which is read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
