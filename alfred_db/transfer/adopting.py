"""The adoption of a platform's database: planned, then done in batches, which a later run continues."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import URL

from .. import migrate
from ..config import migration_url, tenant_schema
from ..errors import ConflictError, NotFoundError, translated
from ..sql import MADE_HERE, quoted
from . import state
from .casts import Reading
from .copying import checksum, copy_batch, make_parents, not_stand_in, raise_sequence
from .driver import Driver, connected
from .places import places_of
from .plans import AdoptedTable, AdoptionPlan, AdoptionProgress, PlannedTable
from .platforms import TABLES
from .reading import Found, TableReading, read_table
from .source import LEGACY, find, move_aside, refuse_old, stand_in_functions, zone_of

__all__ = ["BATCH", "Adoption"]

BATCH = 5_000
"""Rows of a transaction."""


class Adoption:
    """The adoption of a platform's tables by a database of this library.

    `plan` changes nothing. `run` can be killed at any moment, and called again.

    Args:
        url: The database that the rows go to; None is that of the environment.
        source: The database of the platform; None is the same one.
        source_schema: The schema that has all tables of the platform; None looks for each where the platform has it.
        schema: The tenant that the rows go to; None is the default tenant.
        only: The tables to adopt, such as `tasks` or `wm.working_memory`; empty is all.
        zone: The time zone of times without one; None is that of the source's server.
        batch: Rows of a transaction.

    Raises:
        NotFoundError: A table of `only` is not one that the platforms have.
    """

    def __init__(
        self,
        url: str | URL | None = None,
        *,
        source: str | URL | None = None,
        source_schema: str | None = None,
        schema: str | None = None,
        only: Collection[str] = (),
        zone: str | None = None,
        batch: int = BATCH,
    ) -> None:
        self.url = migration_url(url)
        self.source_url = self.url if source is None else migration_url(source)
        self.schema = None if schema is None else tenant_schema(schema)
        self._elsewhere = source is not None and _place(self.source_url) != _place(self.url)
        self._source_schema, self._zone, self._batch = source_schema, zone, batch
        known = {table.fullname for table in TABLES}
        for name in only:
            if name not in known:
                raise NotFoundError(
                    f"table {name}: not one that the platforms have; choose from {', '.join(sorted(known))}"
                )
        self._only = frozenset(only)

    def plan(self) -> AdoptionPlan:
        """Read the source and return what would be done.

        Raises:
            NotFoundError: The source has no table of a platform.
            ConflictError: The target has rows already, or another adoption was begun there.
        """
        with translated(), self._connected() as (source, target):
            return self._planned(source, target)[0]

    def run(self, progress: Callable[[AdoptionProgress], None] | None = None) -> list[AdoptedTable]:
        """Adopt the rows, and compare what was adopted with the source.

        Args:
            progress: Called after each batch.

        Raises:
            NotFoundError: The source has no table of a platform.
            ConflictError: The target has rows already, or another adoption runs or was begun there.
        """
        with translated(), self._connected() as (source, target), self._alone(target):
            plan, readings = self._planned(source, target)
            if plan.done_at is None:
                self._prepare(source, target, plan, readings)
        migrate.upgrade(self.url)
        if self.schema is not None:
            migrate.upgrade(self.url, schema=self.schema)
        with translated(), self._connected() as (source, target), self._alone(target):
            plan, readings = self._planned(source, target)
            places = places_of(target, self.schema)
            for planned, reading in zip(plan.tables, readings, strict=True):
                self._adopt(source, target, places, planned, reading, progress)
            return [_compared(source, target, places, reading) for reading in readings]

    @contextmanager
    def _connected(self) -> Generator[tuple[Driver, Driver]]:
        with (
            connected(self.source_url, "alfred-db adopt: source", snapshot=True) as source,
            connected(self.url, "alfred-db adopt") as target,
        ):
            refuse_old(source)
            yield source, target

    @contextmanager
    def _alone(self, target: Driver) -> Generator[None]:
        """Hold a lock that ends with the connection, however it ends."""
        free = target.one("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext(%s))", [state.SCHEMA])
        target.rollback()
        if not free:
            raise ConflictError("adoption: another one runs on this database; wait until it has ended")
        yield

    # Where everything is

    def _found(self, source: Driver, target: Driver) -> tuple[list[Found], bool]:
        """Return the tables of the platform, and whether they stand where those of the models will."""
        if self._elsewhere or self._source_schema is not None:
            return find(source, homes=source.homes, schema=self._source_schema, only=self._only), False
        upgraded = target.one(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relname = 'alfred_db_version' AND relkind IN ('r', 'p'))"
        )
        if upgraded or state.load(target, self.schema) is not None:
            return find(source, homes=[], schema=LEGACY, only=self._only), False
        return find(source, homes=source.homes, only=self._only, ours=True), True

    def _name_of_source(self) -> str:
        schema = self._source_schema
        if not self._elsewhere:
            return f"schema {schema or LEGACY}"
        host, port, name = _place(self.source_url)
        return f"{host}:{port}/{name}" + ("" if schema is None else f", schema {schema}")

    def _planned(self, source: Driver, target: Driver) -> tuple[AdoptionPlan, list[TableReading]]:
        begun = state.load(target, self.schema)
        name = self._name_of_source()
        found, in_place = self._found(source, target)
        if not found:
            raise NotFoundError(
                "adoption: the source has no table of a platform; name its database with --from, or the schema of its tables"
                " with --from-schema"
            )
        state.refuse_another(begun, name)
        left: dict[str, str] = {}
        found = _without_users(target, found, left)
        zone = self._zone or (begun.zone if begun else zone_of(source))
        moment: datetime = begun.began_at if begun else target.one("SELECT pg_catalog.statement_timestamp()")
        sources = {table.target.fullname: table for table in found}
        reading = Reading(zone, source.version, moment.isoformat())
        readings = [read_table(table, sources, reading) for table in found]
        done_at = begun.done_at(sources) if begun else None
        if not in_place and done_at is None:
            self._refuse_rows(target, found, begun)
        tables = tuple(
            _counted(source, how, begun.rows_of(how.target.fullname) if begun else 0, done_at is not None)
            for how in readings
        )
        self._moment = moment
        moved = tuple(table.label for table in found) if in_place else ()
        return AdoptionPlan(name, zone, moved, left, tables, done_at), readings

    def _refuse_rows(self, target: Driver, found: list[Found], begun: state.State | None) -> None:
        """Refuse a target whose tables have rows of their own: their keys could be the same."""
        places = places_of(target, self.schema)
        for table in found:
            name = table.target.fullname
            if begun is not None and begun.has_begun(name):
                continue
            if target.one("SELECT pg_catalog.to_regclass(%s)", [places[name]]) is None:
                continue
            if target.one(f"SELECT EXISTS (SELECT FROM {places[name]} WHERE {not_stand_in(table.target)})"):
                raise ConflictError(
                    f"table {name}: it has rows already, whose keys could be those of the platform; adopt into an empty"
                    " database, or into a new tenant with --schema, or leave the table out with --table"
                )

    # What is changed

    def _prepare(
        self, source: Driver, target: Driver, plan: AdoptionPlan, readings: list[TableReading]
    ) -> None:
        """Store that the adoption begins; in the same transaction, move the tables that stand in the way."""
        source.rollback()  # it holds locks on them
        target.rollback()
        with target.transaction():
            target.run("SET LOCAL lock_timeout = '10s'")
            if plan.moved:
                target.run(f"CREATE SCHEMA IF NOT EXISTS {quoted(LEGACY)}")
                for reading in readings:
                    target.run(move_aside(reading.found, LEGACY))
                for function in stand_in_functions(target):
                    target.run(f"ALTER FUNCTION {function} SET SCHEMA {quoted(LEGACY)}")
            names = [table.table for table in plan.tables]
            state.create(target, self.schema, plan.source, plan.zone, names, self._moment)

    def _adopt(
        self,
        source: Driver,
        target: Driver,
        places: Mapping[str, str],
        planned: PlannedTable,
        reading: TableReading,
        progress: Callable[[AdoptionProgress], None] | None,
    ) -> None:
        name = planned.table
        begun = state.load(target, self.schema)
        target.rollback()
        assert begun is not None
        known = begun.tables[name]
        if known.done_at is not None:
            return
        rows, last, ended = known.rows, known.last_key, False
        with target.transaction():
            raise_sequence(source, target, places[name], reading)
            make_parents(source, target, places, reading)
        while not ended:
            with target.transaction():
                read, last = copy_batch(source, target, places, reading, after=last, limit=self._batch)
                state.save(target, self.schema, name, last, read)
                ended = reading.whole or read < self._batch
                if ended:
                    state.finish(target, self.schema, name)
            rows += read
            if progress is not None:
                progress(AdoptionProgress(name, rows, planned.rows))


def _place(url: URL) -> tuple[str, str, str]:
    """Return the server and the name of a database, to tell whether two URLs are the same."""
    host = str(url.query.get("host") or url.host or "localhost")
    return host, str(url.port or url.query.get("port") or 5432), url.database or url.username or ""


def _without_users(target: Driver, found: list[Found], left: dict[str, str]) -> list[Found]:
    """Leave out the users where another service owns their table."""
    theirs = target.one(
        "SELECT pg_catalog.to_regclass('auth.users') IS NOT NULL AND"
        " pg_catalog.obj_description(pg_catalog.to_regclass('auth.users'), 'pg_class') IS DISTINCT FROM %s",
        [MADE_HERE],
    )
    if not theirs:
        return found
    left["auth.users"] = "another service owns it; it is read where it is"
    return [table for table in found if table.target.schema != "auth"]


def _counted(source: Driver, reading: TableReading, done: int, all_done: bool) -> PlannedTable:
    """Count the rows of a table, and those that are changed."""
    conditions = [] if all_done else [*reading.changes.values(), *reading.losses.values()]
    counts = ", ".join(["count(*)", *(f"count(*) FILTER (WHERE {one})" for one in conditions)])
    rows, *numbers = source.rows(f"SELECT {counts} FROM {reading.counted}")[0]
    counted = dict(zip([*reading.changes, *reading.losses], numbers, strict=False))
    return PlannedTable(
        reading.target.fullname,
        reading.found.label,
        rows,
        done,
        {what: counted[what] for what in reading.changes if counted.get(what)},
        {what: counted[what] for what in reading.losses if counted.get(what)},
    )


def _compared(
    source: Driver, target: Driver, places: Mapping[str, str], reading: TableReading
) -> AdoptedTable:
    table = reading.target
    (there,) = source.rows(checksum(reading, f"({reading.select})"))
    rows = f"(SELECT * FROM {places[table.fullname]} WHERE {not_stand_in(table)})"
    (here,) = target.rows(checksum(reading, rows))
    target.rollback()
    return AdoptedTable(table.fullname, there[0], here[0], there == here)
