"""Migrations: where the revisions live, and how they are run safely whoever starts them.

Every door (plain `alembic`, `alfred-db upgrade`, `Database.upgrade()`) leads to alfred_db/runner.py, so all share
one lock, one fast path and one set of time limits. Alembic is imported only when something is to be migrated.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, text

from .config import command as command_line
from .config import migration_url
from .engines import refuse_tenant_in_path
from .errors import (
    AlfredDBError,
    ConfigurationError,
    InvalidInputError,
    SchemaDriftError,
    SchemaOutdatedError,
)
from .facts import OTHERS
from .models import Base
from .models.base import MADE_HERE, SHARED_SCHEMAS, TENANT_SCHEMAS
from .statements import VERSION_TABLE, VERSION_TABLES, qualified

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

__all__ = [
    "VERSION_TABLE",
    "Revision",
    "check",
    "current",
    "downgrade",
    "head",
    "history",
    "home",
    "include_name",
    "include_object",
    "location",
    "sql",
    "upgrade",
]

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Revision:
    """One step of the schema's history."""

    id: str
    summary: str


# Where the revisions are


def location() -> Path:
    """The folder of the revisions: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "migrations", package.parent / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigurationError(
        f"no revisions found in {package / 'migrations'}: the installation is incomplete; install alfred-db again"
    )


def _config(url: str | URL | None = None, **options: Any) -> Config:
    from alembic.config import Config

    config = Config(attributes={"url": url, **options})
    config.set_main_option("script_location", str(location()).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def head() -> str:
    """The newest revision that this version of the library knows."""
    found = _scripts().get_current_head()
    assert found is not None
    return found


def history() -> list[Revision]:
    """All revisions, oldest first."""
    steps = list(_scripts().walk_revisions())
    return [Revision(step.revision, step.doc.splitlines()[0]) for step in reversed(steps)]


# What can be done


def upgrade(
    url: str | URL | None = None, revision: str = "head", *, schema: str | None = None, triggers: bool = True
) -> None:
    """Bring the database to `revision`: safe to run twice, from many threads and from many processes at once.

    `schema` makes or upgrades the tables of the tenant of that name; its database must have the shared
    catalogs already. `triggers=False` leaves out the `updated_at` triggers, which Citus cannot distribute.
    """
    from alembic import command

    with _one_at_a_time, _explained(revision):
        command.upgrade(_config(url, schema=schema, triggers=None if triggers else "off"), revision)


def downgrade(
    url: str | URL | None, revision: str, *, schema: str | None = None, allow_data_loss: bool = False
) -> None:
    """Take the database back to `revision` (`base` for nothing of ours); refuses to drop rows unless allowed.

    Extensions stay, and so do schemas that this library did not make.
    """
    from alembic import command

    with _one_at_a_time, _explained(revision):
        command.downgrade(_config(url, schema=schema, allow_data_loss=allow_data_loss or None), revision)


def current(connection: Connection, schema: str | None = None) -> str | None:
    """The revision that the database is at; None before the first."""
    table = qualified(schema if schema is not None else home(connection), VERSION_TABLE)
    if connection.scalar(text("SELECT pg_catalog.to_regclass(:table)"), {"table": table}) is None:
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {table}"))
    return found


def home(connection: Connection) -> str | None:
    """The schema of the default tenant's unqualified tables: where they are, or where they would be created.

    None if this role may use no schema of its search_path. Raises ConfigurationError when the search_path finds
    another tenant's tables first, or not the schema where the default tenant is.
    """
    # One that is neither in the path nor the default tenant's says nothing about it, and there may be thousands.
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


def sql(revision: str = "head", *, schema: str | None = None, triggers: bool = True) -> str:
    """The SQL of an upgrade to `revision` (or `from:to`), for those who run it by hand; needs no database."""
    from alembic import command

    output = io.StringIO()
    config = _config(schema=schema, triggers=None if triggers else "off")
    config.output_buffer = output
    with _one_at_a_time, _explained(revision):
        command.upgrade(config, revision, sql=True)
    return output.getvalue()


def check(url: str | URL | None = None, *, schema: str | None = None) -> None:
    """Raise SchemaDriftError when Alembic would generate a revision from the models."""
    from alembic import command
    from alembic.util import AutogenerateDiffsDetected, CommandError

    with _one_at_a_time, _explained("head"):
        try:
            command.check(_config(url, schema=schema))
        except AutogenerateDiffsDetected as error:
            raise SchemaDriftError(
                f"the database differs from the models ({_summary(error.diffs)}): restore what was changed, or downgrade"
                " below the revision that made it and upgrade again"
            ) from None
        except CommandError as error:
            run = command_line("upgrade", migration_url(url), schema)
            raise SchemaOutdatedError(f"{_sentence(error)}: run {run} first") from None


@contextmanager
def _explained(revision: str) -> Generator[None]:
    """Raise what Alembic says of the revision that was named as an error of this library."""
    from alembic.util import CommandError

    if not revision.strip():
        raise InvalidInputError("revision: it is empty; `alfred-db history` lists the revisions")
    try:
        yield
    except CommandError as error:
        if isinstance(error.__cause__, AlfredDBError):
            raise error.__cause__ from None
        raise InvalidInputError(
            f"revision: {_sentence(error)}; `alfred-db history` lists the revisions"
        ) from None


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _summary(diffs: Any) -> str:
    flat: list[Any] = []
    for group in diffs:
        flat += group if isinstance(group, list) else [group]
    named: list[str] = []
    for diff in flat[:10]:
        parts: list[Any] = [part for part in diff[:4] if part is not None]
        named.append(" ".join(str(getattr(part, "name", part)) for part in parts))
    return "; ".join(named) + (f"; and {len(flat) - 10} more" if len(flat) > 10 else "")


# Living beside another application's Alembic


def include_object(item: Any, name: str | None, type_: str, reflected: bool, compare_to: Any) -> bool:
    """For a host application's `context.configure`: its autogenerate leaves our tables alone.

    A table that only the database has, in any schema, passes for a tenant's when its name is one of ours. A table of
    `auth` or `storage` that the host models and that this library did not make is the host's to compare.
    """
    if type_ != "table":
        return True
    live = item if reflected else compare_to
    if item.schema in OTHERS and live is not None and compare_to is not None and live.comment != MADE_HERE:
        return True
    if reflected and compare_to is None and any(is_ours(item.name, home) for home in (None, *TENANT_SCHEMAS)):
        return False
    return not is_ours(item.name, item.schema)


def include_name(name: str | None, type_: str, parent_names: Any) -> bool:
    """For a host application's `context.configure` with `include_schemas`: our schemas are not read at all."""
    if type_ == "schema":
        return name not in (*SHARED_SCHEMAS, *TENANT_SCHEMAS)
    return type_ != "table" or not is_ours(name or "", parent_names.get("schema_name"))


def is_ours(table: str, schema: str | None) -> bool:
    """Whether a table, or a partition of one, belongs to this library."""
    if table == VERSION_TABLE:
        return True
    known = [found for found in Base.metadata.tables.values() if found.schema == schema]
    parents = [found.name for found in known if found.dialect_options["postgresql"]["partition_by"]]
    return table in {found.name for found in known} or any(table.startswith(f"{name}_") for name in parents)
