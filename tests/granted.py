"""A database with a role of each kind that `grants` knows, and what each call of a repository needs of them."""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from injection.ground import Ground, build
from injection.signatures import methods as methods_of
from injection.signatures import repositories
from injection.specimens import SPECIMENS
from sqlalchemy import URL, create_engine, text

from alfred_db import AlfredDBError, Database, UnitOfWork
from alfred_db.migrate.grants import KINDS, apply

ROWS: Mapping[str, Callable[[Ground], Any]] = {
    "tasks.id": lambda g: g.task.id,
    "tasks.claimed": lambda g: g.task,
    "tasks.ids": lambda g: [g.task.id],
    "events.id": lambda _: 1,
    "agents.agent_id": lambda g: g.agent,
    "agents.incarnation": lambda _: uuid.uuid4(),
    "documents.document_id": lambda g: g.document,
    "memory_banks.bank": lambda g: g.bank,
    "memory_banks.bank_id": lambda g: g.bank,
    "memories.memory_id": lambda g: g.memory,
    "memories.memory_ids": lambda g: [g.memory],
    "memories.bank": lambda g: g.bank,
    "memory_entries.entry_id": lambda g: g.entry,
    "working_memory.memory_id": lambda g: g.working_memory,
    "entities.edge_id": lambda _: uuid.uuid4(),
    "entities.node_id": lambda g: g.node,
    "broker_requests.id": lambda g: g.request,
    "broker_requests.created_at": lambda g: g.requested,
    "scheduler.task_id": lambda g: g.scheduled,
    "scheduler.execution_id": lambda g: g.execution.id,
    "scheduler.claimed": lambda g: g.execution,
    "workflows.workflow_id": lambda g: g.workflow,
    "workflows.workflow_ids": lambda g: [g.workflow],
    "workflows.execution_id": lambda g: g.run.id,
    "workflows.claimed": lambda g: g.run,
    "validation.run_id": lambda g: g.test_run,
    "validation.suite_id": lambda g: g.suite,
    "validation.case_id": lambda g: g.case,
    "users.user_id": lambda _: uuid.uuid4(),
    "older_than": lambda _: 1.0,
    "keep_months": lambda _: 1200,
}
"""What a call without a specimen is given for a parameter that it must have."""


def _plain(noun: str, method: Callable[..., Any], ground: Ground) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(method).parameters.items())[1:]:
        if parameter.default is parameter.empty:
            value = (ROWS.get(f"{noun}.{name}") or ROWS[name])(ground)
            given[name] = [value] if name == "claimed" and method.__name__.endswith("_many") else value
    return given


def calls(ground: Ground) -> dict[str, dict[str, Any]]:
    """The arguments of a call of every public method of every repository, by its name; some have several."""
    found = {name: make(ground) for name, make in SPECIMENS.items()}
    known = {name.partition(",")[0] for name in found}
    for noun, repository in repositories().items():
        for name, method in methods_of(repository):
            if f"{noun}.{name}" not in known:
                found[f"{noun}.{name}"] = _plain(noun, method, ground)
    return found


@dataclass
class Roles:
    url: URL
    schema: str | None
    names: dict[str, str]
    ground: Ground

    @property
    def home(self) -> str:
        return self.schema or "public"

    def database(self, kind: str) -> Database:
        return Database(self.url.set(username=self.names[kind]), schema=self.schema)


@contextmanager
def granted(url: URL, schema: str | None, folder: Path) -> Iterator[Roles]:
    """A database with a few rows, and a role of each kind that may log in."""
    names = {kind: f"{kind}_{uuid.uuid4().hex[:12]}" for kind in KINDS if kind != "owner"}
    with Database(url, schema=schema) as database, database.begin() as uow:
        ground = build(uow, folder)
    engine = create_engine(url)
    with engine.begin() as connection:
        assert all(apply(connection, {kind: name}, schema) for kind, name in names.items())
        for name in names.values():
            connection.execute(text(f'ALTER ROLE "{name}" LOGIN'))
    try:
        yield Roles(url, schema, names, ground)
    finally:
        with engine.begin() as connection:
            for name in names.values():
                connection.execute(text(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"'))
        engine.dispose()


def refused(roles: Roles, database: Database, *, read_only: bool = False) -> dict[str, str]:
    """Call every method in a transaction that is rolled back; the errors about rights, or about what only reads."""
    found: dict[str, str] = {}
    for name, given in calls(roles.ground).items():
        noun, _, method = name.partition(",")[0].partition(".")
        with database.session() as session:
            if read_only:
                session.execute(text("SET TRANSACTION READ ONLY"))
            uow = UnitOfWork(session)
            try:
                getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
            except AlfredDBError as error:
                if re.search("read-only" if read_only else "permission denied|owner", str(error)):
                    found[name] = str(error)
    return found


def methods(names: dict[str, str]) -> dict[str, str]:
    """The same by method, whatever the specimen."""
    return {name.partition(",")[0]: error for name, error in names.items()}
