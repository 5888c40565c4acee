"""The steps of the drill, each timed."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, text

from ..config import migration_url
from ..database import Database
from ..engine.pool import passing_engine
from ..errors import InvalidInputError, translated
from ..tenants.catalog import list_tenants
from ..tenants.dumping import create_database, drop_database, dump, restore
from .comparing import Answers, answers, differences

__all__ = ["DrillReport", "drill"]

Progress = Callable[[str, float], None]
"""Called after each step with its name and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class DrillReport:
    """How a drill has ended."""

    database: str
    """The name of the database that the dump was restored into."""
    kept: bool
    """Whether it is still there."""
    size: int
    """The bytes of the dump."""
    seconds: Mapping[str, float]
    """The duration of each step."""
    tenants: int
    """How many tenants were compared; the default tenant is one of them."""
    rows: int
    """How many rows were counted."""
    searches: int
    """How many searches were compared."""
    renumbered: int
    """How many events `after_restore` renumbered."""
    differences: Sequence[str]
    """What the copy answers differently; empty if the backup can be relied on."""


def drill(
    url: str | URL | None = None,
    *,
    into: str | URL | None = None,
    schema: str | None = None,
    existing: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> DrillReport:
    """Dump a database, restore it into a new one, verify that, and compare what both answer.

    The database is only read, in one snapshot: it may be written meanwhile. The copy is dropped at the end.

    Args:
        url: The database; None is ALFRED_DB_MIGRATION_URL, ALFRED_DB_URL, DATABASE_URL, else the embedded server. The
            role has to be able to read all of it.
        into: A database of the server where the new one is made, by a role that may create databases; None is `url`.
            It may be of a newer major version.
        existing: Restore into the database of `into` itself, which has to be empty and is kept: for a role that may not
            create databases, or not the extension `vector` in one.
        schema: Dump this tenant alone, with the catalogs that it shares.
        keep: Keep the copy.
        progress: Called after each step.

    Raises:
        InvalidInputError: `existing` is set without `into`.
        NotFoundError: There is no such tenant.
        ConflictError: The existing database is not empty.
        ConfigurationError: pg_dump or pg_restore is not installed, or the role lacks a right.
        SchemaError: The copy is not what the models need.
    """
    if existing and into is None:
        raise InvalidInputError("existing: pass the empty database as `into`")
    source = migration_url(url)
    target = source if into is None else migration_url(into)
    name = f"alfred_drill_{secrets.token_hex(6)}"
    seconds: dict[str, float] = {}

    @contextmanager
    def step(of: str) -> Generator[None]:
        start = time.monotonic()
        yield
        seconds[of] = time.monotonic() - start
        if progress is not None:
            progress(of, seconds[of])

    engine = passing_engine(source, "alfred-db drill")
    with translated(), tempfile.TemporaryDirectory(prefix="alfred-db-drill-") as folder:
        file = Path(folder, "dump")
        with Database(source) as db:
            snapshot = engine.connect().execution_options(isolation_level="REPEATABLE READ")
            with snapshot, snapshot.begin():
                exported = str(snapshot.scalar(text("SELECT pg_catalog.pg_export_snapshot()")))
                tenants = [schema] if schema is not None else [None, *_names(source)]
                with step("dump"):
                    dump(source, file, schema=schema, snapshot=exported)
                with step("ask the database"):
                    before = {tenant: _ask(db, tenant, exported, shared=schema is None) for tenant in tenants}
        size = file.stat().st_size
        if existing:
            copy, name, keep = target, str(target.database), True
        else:
            with step("create a database"):
                copy = create_database(target, name)
        try:
            with step("restore"):
                restore(file, copy)
            with Database(copy) as db:
                with step("verify"):
                    for tenant in tenants:
                        (db if tenant is None else db.tenant(tenant)).verify()
                with step("ask the copy"):
                    after = {tenant: _ask(db, tenant, None, shared=schema is None) for tenant in tenants}
                with step("after_restore"):
                    renumbered = sum(_renumber(db if one is None else db.tenant(one)) for one in tenants)
        except BaseException:
            if not keep:
                drop_database(target, name)
            raise
        if not keep:
            with step("drop the copy"):
                drop_database(target, name)
    return DrillReport(
        database=name,
        kept=keep,
        size=size,
        seconds=seconds,
        tenants=len(tenants),
        rows=sum(sum(one.rows.values()) for one in before.values()),
        searches=sum(len(one.distances) + len(one.found) for one in before.values()),
        renumbered=renumbered,
        differences=[
            f"{'default tenant' if tenant is None else tenant}: {one}"
            for tenant in tenants
            for one in differences(before[tenant], after[tenant])
        ],
    )


def _ask(db: Database, tenant: str | None, snapshot: str | None, *, shared: bool) -> Answers:
    with (db if tenant is None else db.tenant(tenant)).session() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        if snapshot is not None:
            session.execute(text(f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
        return answers(session, shared=shared)


def _names(url: URL) -> list[str]:
    with passing_engine(url, "alfred-db drill").connect() as connection:
        return [tenant.name for tenant in list_tenants(connection, "")]


def _renumber(db: Database) -> int:
    with db.begin() as uow:
        return uow.events.after_restore()
