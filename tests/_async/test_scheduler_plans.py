from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from plans import SIZES, Explain
from sqlalchemy import Select, func, insert, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import (
    ScheduledExecution,
    ScheduledTask,
)
from alfred_db.queries import lease_endings
from alfred_db.queries import scheduler as queries
from alfred_db.queries import scheduler_executions as executions
from alfred_db.repositories import AsyncUnitOfWork

pytestmark = pytest.mark.not_on_citus("EXPLAIN shows the plan of the coordinator")

CLAIM = {"worker": "w", "token": uuid.uuid4(), "lease": timedelta(seconds=60), "seconds": 60.0}
PLANS: dict[str, Any] = {
    "idx_scheduler_tasks_due": queries.due(limit=100, after=None),
    "idx_scheduler_tasks_due ": queries.unscheduled(limit=100, after=None),
    "idx_scheduler_executions_ready": executions.claim(limit=100),
    "idx_scheduler_executions_running": lease_endings.reap(executions.EXECUTIONS, 100),
    "idx_scheduler_executions_finished": executions.purge(3600, limit=100),
}


@pytest.mark.parametrize("rows", SIZES)
async def test_the_hot_statements_have_their_index(
    uow: AsyncUnitOfWork, schema: str | None, rows: int
) -> None:
    session = uow.session
    await fill(session, rows if schema is None else min(rows, 10_000))
    await session.execute(text(f"ANALYZE {schema or 'public'}.scheduler_tasks"))
    await session.execute(text(f"ANALYZE {schema or 'public'}.scheduler_executions"))
    if rows == 0:  # an empty table is read as a whole unless that is forbidden
        await session.execute(text("SET LOCAL enable_seqscan = off"))
    for index, built in PLANS.items():
        statement = getattr(built, "built", built)  # the statement of SQLAlchemy, where the driver runs it
        selected = statement if isinstance(statement, Select) else select(statement.cte().c.id)
        given = {name: CLAIM[name] for name in CLAIM.keys() & selected.compile().params.keys()}
        plan = "\n".join(await session.scalars(Explain(selected), given))
        assert "Seq Scan on scheduler_" not in plan, plan
        assert rows == 0 or index.strip() in plan, plan


async def fill(session: AsyncSession, rows: int) -> None:
    """So many tasks, a tenth of them active and due, and executions, of which three in ten wait."""
    number = func.generate_series(1, rows).column_valued("number")
    task = {
        "id": number,
        "name": literal_column("'n'"),
        "command": literal_column("'c'"),
        "schedule": literal_column("'* * * * *'"),
        "is_active": number % 10 == 0,
        "next_run_at": literal_column("now() - number * interval '1 second'"),
    }
    await session.execute(insert(ScheduledTask).from_select([*task], select(*task.values())))
    execution = {
        "task_id": number,
        "status": literal_column(
            "CASE WHEN number % 10 < 3 THEN 'pending' WHEN number % 10 = 3 THEN 'running' ELSE 'completed' END"
        ),
        "end_time": literal_column("CASE WHEN number % 10 > 3 THEN now() - number * interval '1 second' END"),
        "scheduled_at": func.now(),
    }
    await session.execute(insert(ScheduledExecution).from_select([*execution], select(*execution.values())))
