"""Maintenance of a table that is partitioned by month: create coming partitions, detach or drop old ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sqlalchemy import Row
from sqlalchemy.sql.base import Executable
from sqlalchemy.sql.selectable import TextualSelect

from ...checks import within
from ...config import command
from ...errors import (
    ConflictError,
    ExtensionMissingError,
    NotFoundError,
    SchemaOutdatedError,
    shown,
    translated,
)
from ...models import Base
from ...models.base import table_of
from ...queries.shapes import partitions as queries
from ...values.partitions import MonthlyPartition
from .base import AsyncRepository
from .copy import table_name
from .ownership import as_owner, function_of

MAX_MONTHS = 1200


class AsyncPartitions(AsyncRepository):
    """Base class of a repository whose table is partitioned by month.

    Maintenance needs the owner of the table, or a role with the grants of an `app`. Concurrent calls wait for each other.
    """

    _partitioned: ClassVar[type[Base]]
    _read_by: ClassVar[type[Base] | None] = None
    """The model of the consumers that must have read a partition before it is detached."""

    async def partitions(self) -> Sequence[MonthlyPartition]:
        """Return all partitions, the oldest first and the default partition last.

        The default partition takes the rows of months that have no partition.
        """
        rows = await self._read(queries.partitions(self._table))
        return [MonthlyPartition(*row) for row in rows]

    async def due_partitions(self, months_ahead: int = 3) -> Sequence[str]:
        """Return the names of the partitions that `make_partitions` would create."""
        within("months_ahead", months_ahead, 0, MAX_MONTHS)
        return [row[0] for row in await self._read(queries.due(self._table, months_ahead))]

    async def make_partitions(self, months_ahead: int = 3) -> int:
        """Create the missing partitions of this month and of the `months_ahead` months after it.

        Rows of those months that are in the default partition move to the new ones.

        Returns:
            The number of partitions created.
        """
        within("months_ahead", months_ahead, 0, MAX_MONTHS)
        made = await self._owned(
            "alfred_make_partitions", months_ahead, queries.make(self._table, months_ahead)
        )
        return int(made)

    async def old_partitions(self, keep_months: int) -> Sequence[MonthlyPartition]:
        """Return the partitions older than the `keep_months` months before this one, without the default one."""
        within("keep_months", keep_months, 0, MAX_MONTHS)
        rows = await self._read(queries.old(self._table, keep_months))
        return [MonthlyPartition(*row) for row in rows]

    async def detach_partition(self, name: str, *, drop: bool = False) -> None:
        """Detach a partition from the table, or drop it.

        Locks the table until the transaction ends.

        Args:
            name: The `MonthlyPartition.name`.
            drop: Drop the partition with its rows; otherwise it remains as a table.

        Raises:
            NotFoundError: The name is that of the default partition, or not of a partition.
            ConflictError: The lock was not available within five seconds, or consumers have not read all
                events of the partition; the message names them.
        """
        await self._lock()
        with translated():
            await self._require_partition(name)
            async with self._session.begin_nested():
                await self._refuse_readers(name)
                await self._owned("alfred_detach_partition", name, queries.detach(self._table, name))
                # Events may have been committed until DETACH locked the table. From here on none can be.
                await self._refuse_readers(name)
            if drop:
                await self._owned("alfred_drop_partition", name, queries.drop(name))

    async def partition_readers(self, name: str) -> Sequence[str]:
        """Return the names of the consumers that have not read all events of a partition.

        Raises:
            NotFoundError: There is no such partition.
        """
        await self._require_partition(name)
        try:
            return await self._readers(name)
        except SchemaOutdatedError:  # dropped meanwhile
            raise self._no_partition(name) from None

    async def _readers(self, name: str) -> Sequence[str]:
        consumers = self._consumers
        if consumers is None:
            return []
        return [row[0] for row in await self._read(queries.readers(consumers, name))]

    async def _refuse_readers(self, name: str) -> None:
        if waiting := await self._readers(name):
            raise ConflictError(
                f"{name}: has events that are still to be read by {', '.join(map(repr, waiting))}; let them catch"
                " up, or `seek` or `unsubscribe` those that are not wanted"
            )

    async def _require_partition(self, name: str) -> None:
        if not any(part.name == name and not part.is_default for part in await self.partitions()):
            raise self._no_partition(name)

    def _no_partition(self, name: str) -> NotFoundError:
        return NotFoundError(f"{shown(name)}: no monthly partition of {self._table}; `partitions` lists them")

    async def count_default(self) -> int:
        """Return the number of rows in the default partition; reads all of it."""
        for part in await self.partitions():
            if part.is_default:
                return int((await self._read(queries.count(part.name)))[0][0])
        return 0

    async def schedule_maintenance(
        self,
        *,
        months_ahead: int = 3,
        keep_months: int | None = None,
        drop: bool = False,
        schedule: str = "17 3 * * *",
    ) -> int:
        """Schedule the maintenance with pg_cron, or replace the existing schedule.

        Args:
            months_ahead: Coming months that get a partition.
            keep_months: Full months to keep before this one; None keeps all.
            drop: Drop old partitions instead of detaching them.
            schedule: The cron expression; by default each night.

        Returns:
            The id of the pg_cron job.

        Raises:
            ExtensionMissingError: This database has no pg_cron.
        """
        within("months_ahead", months_ahead, 0, MAX_MONTHS)
        within("keep_months", keep_months or 0, 0, MAX_MONTHS)
        await self._require_cron()
        await self._lock()
        command = queries.upkeep(
            self._table,
            months_ahead,
            keep_months,
            dropped=drop,
            consumers=self._consumers,
            functions=await self._functions(),
        )
        return int((await self._read(queries.schedule(self._table, schedule, command)))[0][0])

    async def unschedule_maintenance(self) -> bool:
        """Remove the pg_cron job of the maintenance; return whether it existed.

        Raises:
            ExtensionMissingError: This database has no pg_cron.
        """
        await self._require_cron()
        await self._lock()
        return bool(await self._read(queries.unschedule(self._table)))

    async def _lock(self) -> None:
        """Block concurrent maintenance until the transaction ends."""
        with translated():
            for statement in queries.lock(self._table):
                await self._session.execute(statement)

    async def _require_cron(self) -> None:
        if not (await self._read(queries.cron_installed()))[0][0]:
            engine = self._session.get_bind().engine
            mapping: dict[str | None, str] = engine.get_execution_options().get("schema_translate_map") or {}
            raise ExtensionMissingError(
                f"pg_cron is not installed in this database: have cron run {command('maintain', engine.url, mapping.get(None))}"
                " once a night instead, or CREATE EXTENSION pg_cron in the database that cron.database_name names"
            )

    async def _owned(self, function: str, argument: str | int, statement: Executable) -> Any:
        log = table_of(self._partitioned).name
        with translated():
            return await as_owner(self._session, self._table, function, [log, argument], [statement])

    async def _functions(self) -> queries.OwnerCalls | None:
        """Return what a job calls that runs as this role; None if that owns the table, or may not call it."""
        found = [
            await function_of(self._session, self._table, function)
            for function in ("alfred_make_partitions", "alfred_detach_partition", "alfred_drop_partition")
        ]
        names = [name for name in found if name is not None]
        return (
            queries.OwnerCalls(table_of(self._partitioned).name, *names) if len(names) == len(found) else None
        )

    async def _read(self, statement: TextualSelect) -> Sequence[Row[*tuple[Any, ...]]]:
        with translated():
            return (await self._session.execute(statement)).all()

    @property
    def _table(self) -> str:
        return table_name(self._session, table_of(self._partitioned))

    @property
    def _consumers(self) -> str | None:
        return None if self._read_by is None else table_name(self._session, table_of(self._read_by))
