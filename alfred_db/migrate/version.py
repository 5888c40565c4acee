"""The revisions that this library knows, and the one that a database is at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, text

from ..engine.pool import refuse_tenant_in_path
from ..errors import ConfigurationError
from ..server.databases import VERSION_TABLE, VERSION_TABLES
from ..sql import qualified

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory


@dataclass(frozen=True, slots=True)
class Revision:
    """One step of the schema's history."""

    id: str
    summary: str


def location() -> Path:
    """Return the folder of the revisions: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    for folder in (package / "migrations", package.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigurationError(
        f"no revisions found in {package / 'migrations'}: the installation is incomplete; install alfred-db again"
    )


def alembic_config(url: str | URL | None = None, **options: Any) -> Config:
    """Return the configuration of Alembic for a run on this database."""
    from alembic.config import Config

    config = Config(attributes={"url": url, **options})
    config.set_main_option("script_location", str(location()).replace("%", "%%"))
    return config


def scripts() -> ScriptDirectory:
    """Return the folder of the revisions, as Alembic reads it: once, which takes a tenth of a second."""
    return _scripts(location())


@cache
def _scripts(folder: Path) -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(folder))


def head() -> str:
    """Return the newest revision that this version of the library knows."""
    found = scripts().get_current_head()
    assert found is not None
    return found


def history() -> list[Revision]:
    """Return all revisions, oldest first."""
    steps = list(scripts().walk_revisions())
    return [Revision(step.revision, step.doc.splitlines()[0]) for step in reversed(steps)]


def reached(revision: str, found: str | None) -> bool:
    """Return whether a database at the revision `found` has run `revision`, by ancestry: ids have no order.

    One that this version does not know comes from a newer version, which has run all that this one knows.
    """
    if found is None:
        return False
    directory = scripts()
    if found not in {step.revision for step in directory.walk_revisions()}:
        return True
    return revision in {step.revision for step in directory.iterate_revisions(found, "base")}


def current(connection: Connection, schema: str | None = None) -> str | None:
    """Return the revision that the database is at; None before the first."""
    table = qualified(schema if schema is not None else home(connection), VERSION_TABLE)
    if connection.scalar(text("SELECT pg_catalog.to_regclass(:table)"), {"table": table}) is None:
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {table}"))
    return found


def home(connection: Connection) -> str | None:
    """Return the schema of the default tenant's unqualified tables: where they are, or where they would be created.

    Returns:
        The schema's name, or None if this role may use no schema of its search_path.

    Raises:
        ConfigurationError: The search_path finds another tenant's tables first, or not the schema where the default
            tenant is.
    """
    # One that is neither in the path nor the default tenant's does not matter here, and there may be thousands.
    found = connection.execute(
        text(
            f"SELECT * FROM ({VERSION_TABLES}) AS versions WHERE place IS NOT NULL OR NOT tenant ORDER BY place"
        )
    ).all()
    if not found:
        schema: str | None = connection.scalar(text("SELECT pg_catalog.current_schema()"))
        return schema
    first = found[0]
    refuse_tenant_in_path(first.schema if first.place is not None and first.tenant else None)
    if first.place is None:
        raise ConfigurationError(
            f"search_path: the default tenant is in the schema {first.schema!r}, which it does not hold; add that schema to"
            " it for this role, database or URL"
        )
    return str(first.schema)
