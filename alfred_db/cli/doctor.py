"""The doctor: server, extensions, revision and schema of one database, in one report."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import URL, Connection, Select, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from .. import cron, migrate
from ..checks import MAX_LIMIT
from ..config import command
from ..engine.pool import RELIED_ON, passing_engine
from ..engine.poolers import recognise_pooler
from ..errors import AlfredDBError, shown, translated
from ..execution._sync.unreadable import Unreadable, unreadable
from ..migrate.grants import lacking
from ..migrate.verify import problems, verify
from ..models import (
    Event,
    EventConsumer,
    ExecutionStatus,
    ScheduledExecution,
    ScheduledTask,
    SpaceKind,
    Task,
    TaskStatus,
    WorkflowExecution,
    WorkflowExecutionStatus,
)
from ..queries import event_consumers, events, scheduler, spaces
from ..server import requirements
from ..server.citus import cluster
from ..sql import SHARED_SCHEMAS, quoted, schema_translate_map

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
    """Shared schemas whose tables another service made, which are mapped and left alone."""
    warnings: list[str]
    errors: list[str]
    citus: list[str] | None = None
    """The nodes of the cluster; None without Citus."""
    pooler: str | None = None
    """The pooler in front of the server, and its mode as far as it was seen; None without one."""

    @property
    def exit_status(self) -> int:
        """The exit status of `alfred-db doctor`."""
        return 2 if self.errors else 1 if self.warnings else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the report as values for JSON."""
        return {**asdict(self), "exit_status": self.exit_status}

    def as_text(self) -> str:
        """Return the report as text."""
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
        lines += [f"left alone  schema {name}, which is another service's" for name in self.external]
        lines += [f"citus       {node}" for node in self.citus or ()]
        lines += [f"pooler      {self.pooler}"] if self.pooler is not None else []
        lines += [f"warning     {warning}" for warning in self.warnings]
        lines += [f"error       {error}" for error in self.errors]
        verdict = ("all is well", "it works, with warnings", "it does not work")[self.exit_status]
        return "\n".join([*lines, f"verdict     {verdict}"])


def examine(url: URL, schema: str | None = None) -> Report:
    """Examine a database; raise only when it cannot be reached."""
    engine = passing_engine(url, "alfred-db doctor", any_encoding=True)
    with translated(), engine.connect() as connection:
        pooler = recognise_pooler(connection)
        # A limit too short for the doctor is one that it has to name; one transaction reads all that follows.
        connection.execute(text(_UNLIMITED))
        facts = requirements.probe(connection)
        errors, revision = _errors(connection, schema, facts)
        nodes = cluster(connection)
        return Report(
            url=url.render_as_string(hide_password=True),
            server=facts.version,
            platform=facts.platform,
            role=facts.role + (" (superuser)" if facts.superuser else ""),
            schema=schema,
            revision=revision,
            newest=migrate.head(),
            extensions=_extensions(connection, facts),
            external=[name for name in SHARED_SCHEMAS if requirements.external(facts, name)],
            pooler=None if pooler is None else str(pooler),
            citus=None if nodes is None else list(map(str, nodes.nodes)),
            warnings=[
                *requirements.warnings(facts),
                *(() if nodes is None else nodes.warnings),
                *_functions(connection, quoted(facts.database)),
                *_settings(connection, facts),
                *([] if errors else _rights(connection, schema, facts)),
                *([] if errors else _rows(connection, schema)),
            ],
            errors=errors,
        )


def _errors(
    connection: Connection, schema: str | None, facts: requirements.Facts
) -> tuple[list[str], str | None]:
    """What keeps the library from working, and the revision that the database is at."""
    try:
        home = migrate.home(connection) if schema is None else None
        found = migrate.current(connection, schema)
    except AlfredDBError as error:
        return [str(error)], None
    try:
        verify(connection, schema)
    except AlfredDBError as error:
        details = [str(problem) for problem in problems(connection, schema, facts, home)] if found else []
        return [str(error), *details], found
    return [], found


def _rights(connection: Connection, schema: str | None, facts: requirements.Facts) -> list[str]:
    """Return a warning if the role lacks rights of its kind."""
    kind, lacks = lacking(connection, schema)
    if not lacks:
        return []
    missing = "; ".join(f"{noun}: {', '.join(rights)}" for noun, rights in lacks.items())
    return [
        f"role {facts.role}: it is of the kind {kind} but lacks rights ({missing}): have the owner run"
        f" {command('grants apply', connection.engine.url, schema, '--role', f'{kind}={facts.role}')}"
    ]


NAMED = 10
"""Rows that the report names; of more only the number."""


def _rows(connection: Connection, schema: str | None) -> list[str]:
    """Return warnings about rows that cannot be processed: workers and consumers skip them silently."""
    found: list[str] = []
    connection.execution_options(schema_translate_map=schema_translate_map(schema))
    for examined in (_schedules, _events, _models, _unreadable):
        with suppress(SQLAlchemyError), connection.begin_nested():  # a role that may not read the table
            found += examined(connection)
    return found


def _models(connection: Connection) -> list[str]:
    """Return warnings about vectors of several models in one column, which cannot be compared."""
    found: list[str] = []
    for kind in SpaceKind:
        models = {name: rows for name, rows in connection.execute(spaces.models_in_column(kind)) if name}
        if len(models) > 1:
            named = ", ".join(f"{shown(name)} ({rows} rows)" for name, rows in list(models.items())[:NAMED])
            found.append(
                f"{kind}: the space 'builtin' has vectors of {len(models)} models, which cannot be compared: {named};"
                " embed all rows with one of them, in another space, by the command `spaces reembed`"
            )
    return found


def _schedules(connection: Connection) -> list[str]:
    """Return the active scheduled tasks whose slots this machine cannot compute."""
    found: list[str] = []
    last, now = 0, datetime.now(UTC)
    while rows := connection.execute(scheduler.active(after=last, limit=MAX_LIMIT)).all():
        for last, schedule, timezone in rows:
            try:
                cron.first_slot(schedule or "", timezone, after=now)
            except Exception as error:  # `tick` skips it too
                found.append(f"scheduled task {last} has no slots: {error}")
    left = len(found) - NAMED
    return [*found[:NAMED], *([f"{left:,} more scheduled tasks have no slots"] if left > 0 else [])]


LOOKED_AT = 200
"""Rows of each table that are read, those that come next: to read all would take as long as the tables are large."""


def _unreadable(connection: Connection) -> list[str]:
    """Return unfinished work and unread events that other programs wrote and Python cannot read."""
    waiting: list[Select[Any]] = [
        select(Task).where(Task.status == TaskStatus.PENDING).order_by(Task.available_at),
        select(ScheduledExecution).where(ScheduledExecution.status == ExecutionStatus.PENDING),
        select(WorkflowExecution).where(WorkflowExecution.status == WorkflowExecutionStatus.PENDING),
        select(ScheduledTask).where(ScheduledTask.is_active),
        select(EventConsumer),
        select(Event).order_by(Event.id.desc()),
    ]
    found: list[Unreadable] = []
    driver = connection.connection.driver_connection
    with Session(connection) as session:
        for statement in waiting:
            found += unreadable(session, driver, statement.limit(LOOKED_AT))
    named = [f"{one}; correct the value by SQL, or delete the row" for one in found[:NAMED]]
    left = len(found) - NAMED
    return [*named, *([f"{left:,} more rows cannot be read"] if left > 0 else [])]


def _events(connection: Connection) -> list[str]:
    """Return a warning about consumers that wait for transactions of the server that the log was dumped from."""
    horizon, newest = connection.execute(events.snapshot()).one()
    names = connection.scalars(event_consumers.foreign(horizon=horizon, newest=newest)).all()
    if not names:
        return []
    some = ", ".join(map(shown, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
    return [
        f"events: restored from another server, whose transactions are ahead of this one's, so that {some} cannot read"
        " on; call `uow.events.after_restore()` in a transaction, which loses no event"
    ]


def _functions(connection: Connection, database: str) -> list[str]:
    """Return a warning about a function that raw SQL may need: a dump restored elsewhere lacks uuid-ossp's."""
    lost = "SELECT pg_catalog.to_regclass('extensions.alfred_db_capabilities') IS NOT NULL AND pg_catalog.to_regprocedure(:name) IS NULL"
    name = "extensions.uuid_generate_v4()"
    if not connection.scalar(text(lost), {"name": name}):
        return []
    return [
        f"{name} is missing: nothing of alfred-db calls it; for raw SQL that does, run in {database}: CREATE FUNCTION {name}"
        " RETURNS uuid LANGUAGE sql AS 'SELECT pg_catalog.gen_random_uuid()';"
    ]


_LIMITS = ("statement_timeout", "transaction_timeout", "lock_timeout")
_MINUTE = 60_000

_UNLIMITED = """
    SELECT pg_catalog.set_config(name, '0', true) FROM pg_catalog.pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout')
"""

_NAMED = {
    "default_transaction_isolation": (
        "read committed",
        "transactions that meet fail with a retryable ConflictError, where they would wait or go on",
    ),
    "default_transaction_read_only": ("off", "every write fails"),
    "synchronous_commit": ("on", "what was committed last is lost when the server crashes"),
    "session_replication_role": ("origin", "foreign keys are not checked, and triggers do not run"),
    "row_security": ("on", "a statement on a table whose policies filter fails"),
    "default_table_access_method": ("heap", "migrations make tables that may not allow UPDATE or indexes"),
    "ignore_system_indexes": ("off", "the catalog is read without its indexes"),
    "zero_damaged_pages": ("off", "damaged pages are emptied"),
    "ignore_checksum_failure": ("off", "damaged pages are read"),
    "plan_cache_mode": ("auto", "plans are not those that the library counts on"),
}
"""Settings that are the user's to choose: what the library counts on, and what another value does."""

_STRONGER = {"synchronous_commit": ("remote_write", "remote_apply")}

_SETTINGS = """
    SELECT name, reset_val, unit FROM pg_catalog.pg_settings
    WHERE name = ANY (CAST(:names AS text[])) OR name LIKE 'enable\\_%' AND reset_val = 'off' AND boot_val = 'on'
    ORDER BY name
"""


def _settings(connection: Connection, facts: requirements.Facts) -> list[str]:
    """Return warnings about settings of this role and database that differ from what the library relies on.

    What connections of the library have set already is seen past: other programs, and a pooler, do not set it.
    """
    names = [*RELIED_ON, *_NAMED, *_LIMITS, "lc_messages"]
    found: list[str] = []
    for name, value, unit in connection.execute(text(_SETTINGS), {"names": names}):
        if name in RELIED_ON:
            wanted = RELIED_ON[name]
            effect = "alfred-db sets what it needs; other programs, and a transaction pooler, do not"
            right = value.startswith("ISO") if name == "DateStyle" else value == wanted
        elif name in _LIMITS:
            wanted, effect, right = "0", "longer statements fail, in migrations too", True
            if 0 < int(value) < _MINUTE:
                value, right = f"{value} {unit}", False
        elif name == "lc_messages":
            wanted, effect = "C", "some errors of the server are distinguished by their English texts"
            right = re.match(r"(C|POSIX|en)([._]|$)|$", value) is not None
        else:
            wanted, effect = _NAMED.get(name, ("on", "searches and claims may take long"))
            right = value in (wanted, *_STRONGER.get(name, ()))
        if not right:
            found.append(
                f"{name} is {value} for this role and database: {effect}; unless it is meant, run"
                f" ALTER ROLE {quoted(facts.role)} IN DATABASE {quoted(facts.database)} SET {name} = '{wanted}';"
            )
    return found


def _extensions(connection: Connection, facts: requirements.Facts) -> list[dict[str, Any]]:
    """Return the live state of each extension, and the fallback that the first revision chose for a missing one."""
    chosen: dict[str, str] = {}
    if (
        connection.scalar(text("SELECT pg_catalog.to_regclass('extensions.alfred_db_capabilities')"))
        is not None
    ):
        rows = connection.execute(text("SELECT name, provided_by FROM extensions.alfred_db_capabilities"))
        chosen = {row.name: row.provided_by for row in rows}
    instead = {extension.name: extension.without for extension in requirements.EXTENSIONS}
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
