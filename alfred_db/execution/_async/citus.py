"""What differs on Citus: which node a session is connected to, and what only the node of a table knows."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, Table
from sqlalchemy.ext.asyncio import AsyncSession

from ...errors import ConfigurationError, DatabaseUnavailable, translated
from ...queries.shapes import citus as queries
from ...queries.shapes.vector_search import extension, table_size
from .copy import table_name
from .driver import bind_of

_citus: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()
"""Whether the database of an engine has Citus; queried once."""

_NUMBERS = 1 << 32
"""How many transactions PostgreSQL numbers before the 32 bits of a row's `xmin` begin again."""


async def on_citus(session: AsyncSession) -> bool:
    """Return whether the database of the session has Citus."""
    engine = bind_of(session).engine
    if engine not in _citus:
        with translated():
            _citus[engine] = bool(await session.scalar(extension("citus")))
    return _citus[engine]


async def check_coordinator(session: AsyncSession, table: Table) -> bool:
    """Return whether the table is distributed.

    Raises:
        ConfigurationError: The session is connected to a worker, whose transactions have other numbers.
    """
    if not await on_citus(session):
        return False
    with translated():
        rows = await session.execute(queries.node(table_name(session, table)))
    for group, distributed in rows:
        if group != 0:
            raise ConfigurationError(
                f"{table.name}: this server is a worker of Citus, whose transactions are numbered apart from those of the"
                " coordinator, so that events would be lost; connect to the coordinator"
            )
        return bool(distributed)
    return False


async def lowered(session: AsyncSession, table: Table, horizon: int) -> int:
    """Return the horizon below which also the node of the table has committed everything.

    A transaction that wrote to a node ends on the coordinator before that node commits it. In between, its rows cannot
    be seen, although it is below the horizon. The node is asked after the horizon was read.

    Args:
        session: The session whose transaction is used.
        table: The table.
        horizon: The oldest open transaction of the coordinator.

    Raises:
        ConfigurationError: The session is connected to a worker.
        DatabaseUnavailable: The node of the table does not answer.
    """
    if not await check_coordinator(session, table):
        return horizon
    with translated():
        answers = (await session.execute(queries.prepared(table_name(session, table)))).all()
        if not all(success for success, _ in answers):
            raise DatabaseUnavailable(
                f"{table.name}: the node of Citus that holds it does not answer; try again", retryable=True
            )
        gids = [gid for _, result in answers for gid in (result or "").split()]
        if not gids:
            return horizon
        # Without a record, a prepared transaction is either still open on the coordinator, or will be rolled back.
        numbers: Any = (await session.scalars(queries.recorded(gids))).all()
    behind = [(horizon - number) % _NUMBERS for number in numbers]
    return min((horizon - passed for passed in behind if passed < _NUMBERS // 2), default=horizon)


async def size_of(session: AsyncSession, name: str) -> tuple[float, int]:
    """Return rows and pages of a table with its partitions, as of the last ANALYZE or VACUUM.

    Under Citus the coordinator has no rows of a distributed table: its node is asked.
    """
    rows, pages = (await session.execute(table_size(name))).one()
    if not pages and await on_citus(session):
        rows, pages = (await session.execute(queries.table_size(name))).one()
    return float(rows), int(pages)
