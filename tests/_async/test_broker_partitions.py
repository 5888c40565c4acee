"""The log by month: what a query reads of it, and the upkeep of its partitions."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from plans import Explain
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, BrokerRequest, BrokerRequestStatus
from alfred_db.errors import (
    ConflictError,
    ExtensionMissingError,
    InvalidInputError,
    NotFoundError,
)
from alfred_db.queries import broker_requests as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.broker_requests import AsyncBrokerRequestRepository

MONTHS = [date(2023, month, 1) for month in range(1, 13)]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def requests(uow: AsyncUnitOfWork) -> AsyncBrokerRequestRepository:
    return AsyncBrokerRequestRepository(uow.session)


async def table(session: AsyncSession) -> str:
    """The name of the tenant's log."""
    return AsyncBrokerRequestRepository(session)._table


async def month(session: AsyncSession, first: date) -> str:
    """Make a partition for a month, as the migration does; return its name."""
    parent = await table(session)
    after = (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    name = f"{parent}_{first:%Y_%m}"
    bounds = f"FROM ('{first} 00:00:00+00') TO ('{after} 00:00:00+00')"
    await session.execute(text(f"CREATE TABLE {name} PARTITION OF {parent} FOR VALUES {bounds}"))
    return name.replace('"', "")


async def log(requests: AsyncBrokerRequestRepository, created: datetime, **values: Any) -> None:
    await requests.log_many([{"request_id": "r", "created_at": created, **values}])  # type: ignore[typeddict-item]


async def fill_a_year(session: AsyncSession, rows: int) -> None:
    for first in MONTHS:
        await month(session, first)
    await session.execute(
        text(
            f"INSERT INTO {await table(session)} (request_id, created_at, status, finished_at, model, provider,"
            " prompt_tokens, completion_tokens, total_tokens, cost, latency_ms)"
            " SELECT 'r' || n, t, 'completed', t, 'm' || n % 5, 'p' || n % 3, n % 1000, 10, n % 1000 + 10,"
            " 0.001, 5 FROM (SELECT n, timestamptz '2023-01-01 00:00+00' + n * (interval '365 days' / :rows) AS t"
            " FROM generate_series(0, :rows - 1) AS n) AS made"
        ),
        {"rows": rows},
    )
    await session.execute(text(f"ANALYZE {await table(session)}"))


async def read_by(session: AsyncSession, statement: Any) -> set[str]:
    """The partitions that the plan of a statement reads or writes."""
    plan = "\n".join(await session.scalars(Explain(statement)))
    return set(re.findall(r"broker_request_(\d{4}_\d\d|default)\b", plan))


def written_out(session: AsyncSession, statement: Any) -> str:
    """The SQL of a statement that changes rows, where the tenant has them, with its values in it."""
    bind = session.get_bind()
    return str(
        statement.compile(
            dialect=bind.dialect,
            schema_translate_map=bind.get_execution_options().get("schema_translate_map", {None: None}),
            render_schema_translate=True,
            compile_kwargs={"literal_binds": True},
        )
    )


async def test_a_roll_up_reads_only_the_months_asked_for(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    await fill_a_year(uow.session, 200_000)
    since, until = datetime(2023, 3, 1, tzinfo=UTC), datetime(2023, 5, 1, tzinfo=UTC)
    asked = {
        "by": ("model", "provider", "day"),
        "timezone": "UTC",
        "model": None,
        "provider": None,
        "agent_name": None,
    }
    roll_up = queries.usage(since=since, until=until, **asked)  # type: ignore[arg-type]
    assert await read_by(uow.session, roll_up) == {"2023_03", "2023_04"}
    day = queries.usage(since=since, until=since + timedelta(days=1), **asked)  # type: ignore[arg-type]
    assert await read_by(uow.session, day) == {"2023_03"}
    await uow.session.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
    found = await requests.usage(since, until, by=("model", "provider", "day"))
    assert sum(one.requests for one in found) == await uow.session.scalar(
        select(func.count()).where(BrokerRequest.created_at >= since, BrokerRequest.created_at < until)
    )
    assert len(found) == 15 * 61
    assert sum(one.cost for one in found) == sum(one.requests for one in found) * Decimal("0.001")
    per_month = await requests.usage(since, until, by=("model",))  # type: ignore[arg-type]
    assert [one.model for one in per_month] == [f"m{number}" for number in range(5)]


async def test_a_request_is_found_in_its_month_alone(uow: AsyncUnitOfWork) -> None:
    await fill_a_year(uow.session, 1200)
    created = datetime(2023, 7, 4, tzinfo=UTC)
    assert await read_by(uow.session, queries.get(1, created)) == {"2023_07"}
    finish = queries.finish(1, created, {"status": BrokerRequestStatus.COMPLETED}, (1, 2, 0))
    assert await read_by(uow.session, text(written_out(uow.session, finish))) == {"2023_07"}
    nothing: dict[str, Any] = dict.fromkeys(
        ("model", "provider", "agent_name", "session_id", "status", "after")
    )
    recent = queries.recent(
        since=created, until=datetime(2023, 9, 1, tzinfo=UTC), contents=False, limit=10, **nothing
    )
    assert await read_by(uow.session, recent) == {"2023_07", "2023_08"}


async def test_the_coming_months_are_made_and_rows_move_in(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    assert await requests.due_partitions(3) == []
    assert await requests.make_partitions(3) == 0
    now = datetime.now(UTC)
    fifth = (now.replace(day=15) + timedelta(days=152)).replace(day=10)
    await log(requests, fifth)
    await log(requests, LONG_AGO)
    assert await requests.count_default() == 2
    due = await requests.due_partitions(6)
    assert len(due) == 3
    assert due[1].endswith(f"broker_request_{fifth:%Y_%m}")
    assert await requests.make_partitions(6) == 3
    assert await requests.due_partitions(6) == []
    assert await requests.count_default() == 1
    parts = await requests.partitions()
    assert [part.name for part in parts[-4:-1]] == due
    assert [part.is_default for part in parts] == [False] * 7 + [True]
    assert all(part.ends_at == after.starts_at for part, after in pairwise(parts[:-1]))
    assert parts[0].starts_at == now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert await read_by(uow.session, queries.get(1, fifth)) == {f"{fifth:%Y_%m}"}


async def test_old_months_are_detached_or_dropped_and_never_the_default_one(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    this = datetime.now(UTC).date().replace(day=1)
    months = [this]
    for _ in range(4):
        months.append((months[-1] - timedelta(days=1)).replace(day=1))
    names = [await month(uow.session, first) for first in months[1:]]
    for first in (*months, LONG_AGO.date()):
        await log(requests, datetime(first.year, first.month, 1, tzinfo=UTC))
    old = await requests.old_partitions(2)
    assert [part.name for part in old] == [names[3], names[2]]
    await requests.detach_partition(names[3])
    await requests.detach_partition(names[2], drop=True)
    assert list(await requests.old_partitions(2)) == []
    assert len(await requests.recent()) == 4
    assert await uow.session.scalar(text(f"SELECT count(*) FROM {names[3]}")) == 1
    assert await uow.session.scalar(text(f"SELECT to_regclass('{names[2]}')")) is None
    assert [part.name for part in await requests.old_partitions(0)] == [names[1], names[0]]
    assert await requests.count_default() == 1
    (default,) = [part.name for part in await requests.partitions() if part.is_default]
    assert list(await requests.partition_readers(names[1])) == []
    for name in (default, names[3], "broker_request", "x; DROP TABLE y"):
        with pytest.raises(NotFoundError, match="no monthly partition of"):
            await requests.detach_partition(name, drop=True)
        with pytest.raises(NotFoundError, match="no monthly partition of"):
            await requests.partition_readers(name)


async def test_times_of_partitions_are_read_in_any_session(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    before = await requests.partitions()
    for setting in ("TimeZone = 'America/New_York'", "DateStyle = 'ISO, DMY'"):
        await uow.session.execute(text(f"SET LOCAL {setting}"))
        assert await requests.partitions() == before


async def test_upkeep_stops_at_a_table_that_is_busy(
    committed: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alfred_db.queries.shapes.partitions.LOCK_TIMEOUT", "100ms")
    async with committed.session() as one, committed.session() as two:
        name = await month(one, date(2023, 1, 1))
        await one.commit()
        reader, keeper = AsyncBrokerRequestRepository(one), AsyncBrokerRequestRepository(two)
        await reader.recent()
        with pytest.raises(ConflictError) as caught:
            await keeper.detach_partition(name)
        assert caught.value.retryable
        await two.rollback()
        await one.rollback()
        await keeper.detach_partition(name)
        with pytest.raises(ConflictError):
            await reader.detach_partition(name)
        await one.rollback()
        await two.commit()
        with pytest.raises(NotFoundError, match="no monthly partition"):
            await reader.detach_partition(name)


async def test_of_two_who_make_the_coming_months_one_finds_them_made(committed: AsyncDatabase) -> None:
    async with committed.session() as one, committed.session() as two:
        assert await AsyncBrokerRequestRepository(one).make_partitions(5) == 2
        await two.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError):
            await AsyncBrokerRequestRepository(two).make_partitions(5)
        await two.rollback()
        await one.commit()
        assert await AsyncBrokerRequestRepository(two).make_partitions(5) == 0


@pytest.mark.parametrize("months", [-1, 1201])
async def test_months_are_checked(requests: AsyncBrokerRequestRepository, months: int) -> None:
    for call in (requests.make_partitions, requests.due_partitions, requests.old_partitions):
        with pytest.raises(InvalidInputError, match=r"expected 0 to 1,200, got"):
            await call(months)
    for wrong in ({"months_ahead": months}, {"keep_months": months}):
        with pytest.raises(InvalidInputError, match=r"(months_ahead|keep_months): expected 0 to 1,200, got"):
            await requests.schedule_maintenance(**wrong)  # type: ignore[arg-type]


async def test_without_pg_cron_the_error_states_what_to_do_instead(
    requests: AsyncBrokerRequestRepository,
) -> None:
    with pytest.raises(ExtensionMissingError, match="have cron run `alfred-db maintain"):
        await requests.schedule_maintenance()
    with pytest.raises(ExtensionMissingError, match="pg_cron is not installed in this database"):
        await requests.unschedule_maintenance()
