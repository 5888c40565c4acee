"""The doctor: server, extensions, revision and schema of one database, in one report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import URL, Connection, text

from . import extensions, migrate
from .engines import passing_engine
from .errors import AlfredDBError, translated
from .models.base import SHARED_SCHEMAS
from .verify import problems, verify

__all__ = ["Report", "examine"]


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; `exit_status` sums it up: 0 well, 1 works with warnings, 2 does not work."""

    url: str
    server: str
    platform: str
    role: str
    schema: str | None
    revision: str | None
    newest: str
    extensions: list[dict[str, Any]]
    external: list[str]
    """Shared schemas that another service owns, which are mapped and left alone."""
    warnings: list[str]
    errors: list[str]

    @property
    def exit_status(self) -> int:
        """The exit status of `alfred-db doctor`."""
        return 2 if self.errors else 1 if self.warnings else 0

    def as_dict(self) -> dict[str, Any]:
        """The report for programs."""
        return {**asdict(self), "exit_status": self.exit_status}

    def as_text(self) -> str:
        """The report for people."""
        lines = [
            f"database    {self.url}",
            f"server      {self.server}",
            f"platform    {self.platform}",
            f"role        {self.role}",
            f"tenant      {self.schema or 'default'}",
            f"revision    {self.revision or 'none'} (newest: {self.newest})",
            "extensions",
        ]
        for extension in self.extensions:
            version = extension["installed"] or "-"
            home = f"in {extension['schema']}" if extension["schema"] else extension["instead"]
            lines.append(f"  {extension['name']:<20}{extension['tier']:<10}{version:<8}{home}")
        lines += [f"left alone  schema {name}, which another role owns" for name in self.external]
        lines += [f"warning     {warning}" for warning in self.warnings]
        lines += [f"error       {error}" for error in self.errors]
        verdict = ("all is well", "it works, with warnings", "it does not work")[self.exit_status]
        return "\n".join([*lines, f"verdict     {verdict}"])


def examine(url: URL, schema: str | None = None) -> Report:
    """Examine a database; raises only when it cannot be reached."""
    engine = passing_engine(url, "alfred-db doctor")
    with translated(), engine.connect() as connection:
        facts = extensions.probe(connection)
        errors = _errors(connection, schema, facts)
        return Report(
            url=url.render_as_string(hide_password=True),
            server=facts.version,
            platform=facts.platform,
            role=facts.role + (" (superuser)" if facts.superuser else ""),
            schema=schema,
            revision=migrate.current(connection, schema),
            newest=migrate.head(),
            extensions=_extensions(connection, facts),
            external=[name for name in SHARED_SCHEMAS if extensions.external(facts, name)],
            warnings=extensions.warnings(facts),
            errors=errors,
        )


def _errors(connection: Connection, schema: str | None, facts: extensions.Facts) -> list[str]:
    try:
        verify(connection, schema)
    except AlfredDBError as error:
        found = migrate.current(connection, schema)
        details = [str(problem) for problem in problems(connection, schema, facts)] if found else []
        return [str(error), *details]
    return []


def _extensions(connection: Connection, facts: extensions.Facts) -> list[dict[str, Any]]:
    """The live state, and beside it what the first revision chose where one was missing."""
    chosen: dict[str, str] = {}
    if connection.scalar(text("SELECT to_regclass('extensions.alfred_db_capabilities')")) is not None:
        rows = connection.execute(text("SELECT name, provided_by FROM extensions.alfred_db_capabilities"))
        chosen = {row.name: row.provided_by for row in rows}
    instead = {extension.name: extension.without for extension in extensions.EXTENSIONS}
    return [
        {
            "name": status.name,
            "tier": status.tier,
            "installed": status.installed,
            "schema": status.schema,
            "available": status.available,
            "when_migrated": chosen.get(status.name),
            "instead": None if status.installed else instead[status.name],
        }
        for status in facts.extensions
    ]
