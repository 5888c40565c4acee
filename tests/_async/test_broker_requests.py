from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import delete, exc, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from alfred_db import AsyncDatabase, BrokerRequest, BrokerRequestStatus, HostedModel
from alfred_db.errors import (
    ConflictError,
    InvalidInputError,
    InvalidTransition,
    NotFoundError,
)
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.broker import AsyncBrokerCatalogRepository
from alfred_db.repositories._async.broker_requests import AsyncBrokerRequestRepository
from alfred_db.values.broker import TokenUsageKey

HOSTILE = "'; DROP TABLE brk_tracking.broker_request; -- \" % %s :name :: \\ 日本 🜚"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
COMPLETED, FAILED = BrokerRequestStatus.COMPLETED, BrokerRequestStatus.FAILED


@pytest.fixture
def requests(uow: AsyncUnitOfWork) -> AsyncBrokerRequestRepository:
    return AsyncBrokerRequestRepository(uow.session)


async def host(session: AsyncSession, *, currency: str = "USD") -> int:
    """A hosted model, which is free before 2020, costs 5 and 15 from then on, and 3, 15 and 0.3 from 2024 on."""
    catalog = AsyncBrokerCatalogRepository(session)
    await catalog.put_provider("azure", name="Azure")
    await catalog.put_maker("openai", name="OpenAI")
    await catalog.put_family("gpt", maker="openai", name="GPT")
    await catalog.put_model("gpt-4o", family="gpt", name="GPT-4o")
    hosted = await catalog.put_hosted_model("azure", "deployment-1", model="gpt-4o")
    for year, prices in ((2020, ("5", "15", None)), (2024, ("3", "15", "0.3")), (2999, ("99", "99", "99"))):
        await catalog.put_price(
            "azure",
            "deployment-1",
            input_price=Decimal(prices[0]),
            output_price=Decimal(prices[1]),
            cached_input_price=None if prices[2] is None else Decimal(prices[2]),
            currency=currency,
            valid_from=datetime(year, 1, 1, tzinfo=UTC),
        )
    return hosted.id


async def table(session: AsyncSession) -> str:
    """The name of the tenant's log."""
    return AsyncBrokerRequestRepository(session)._table


# One request


async def test_a_request_is_logged_from_start_to_finish(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    hosted = await host(uow.session)
    started = await requests.start(
        "r-1",
        hosted_model_id=hosted,
        request={"messages": ["hello"]},
        agent_name="writer",
        session_id="s-1",
        trace_id="t-1",
        metadata={"team": "a"},
    )
    assert (started.model, started.provider, started.status) == (
        "gpt-4o",
        "azure",
        BrokerRequestStatus.PENDING,
    )
    assert (started.finished_at, started.cost, started.metadata_) == (None, None, {"team": "a"})
    finished = await requests.finish(
        started.id,
        started.created_at,
        prompt_tokens=1000,
        completion_tokens=500,
        cached_tokens=400,
        latency_ms=1234,
        response={"text": "hi"},
    )
    assert (finished.id, finished.status, finished.total_tokens) == (started.id, COMPLETED, 1500)
    assert (finished.latency_ms, finished.response) == (1234, {"text": "hi"})
    assert finished.cost == (600 * Decimal(3) + 400 * Decimal("0.3") + 500 * Decimal(15)) / 1_000_000
    assert finished.currency == "USD"
    assert finished.finished_at is not None
    found = await requests.get(started.id, started.created_at)
    assert found is not None
    assert (found.request, found.agent_name) == ({"messages": ["hello"]}, "writer")


async def test_the_price_is_the_one_that_held_when_the_request_was_made(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    hosted = await host(uow.session, currency="EUR")
    moment = timedelta(microseconds=1)
    expected = {
        datetime(2020, 1, 1, tzinfo=UTC) - moment: None,
        datetime(2020, 1, 1, tzinfo=UTC): Decimal("20"),
        datetime(2024, 1, 1, tzinfo=UTC) - moment: Decimal("20"),
        datetime(2024, 1, 1, tzinfo=UTC): Decimal("18"),
    }
    for created, cost in expected.items():
        started = await requests.start("r", hosted_model_id=hosted)
        await uow.session.execute(
            update(BrokerRequest).where(BrokerRequest.id == started.id).values(created_at=created)
        )
        tokens = {"prompt_tokens": 10**6, "completion_tokens": 10**6}
        finished = await requests.finish(started.id, created, **tokens)  # type: ignore[arg-type]
        assert (finished.cost, finished.currency) == (cost, "USD" if cost is None else "EUR")
        row = {"request_id": "r", "hosted_model_id": hosted, "created_at": created, **tokens}
        await requests.log_many([row])  # type: ignore[list-item]
        (copied,) = [one for one in await requests.attempts("r") if one.id != started.id]
        assert (copied.cost, copied.currency) == (finished.cost, finished.currency)
        await uow.session.execute(text(f"DELETE FROM {await table(uow.session)}"))


async def test_costs_are_exact_and_the_same_by_copy(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    hosted = await host(uow.session)
    catalog = AsyncBrokerCatalogRepository(uow.session)
    numbers = random.Random(7)
    for trial in range(40):
        prices = [Decimal(numbers.randrange(10 ** numbers.randrange(1, 14))).scaleb(-9) for _ in range(3)]
        prompt, completion = (numbers.randrange(2 ** numbers.randrange(1, 21)) for _ in range(2))
        cached = numbers.randint(0, prompt)
        await catalog.put_price(
            "azure",
            "deployment-1",
            input_price=prices[0],
            output_price=prices[1],
            cached_input_price=prices[2],
        )
        tokens = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
        started = await requests.start(f"r-{trial}", hosted_model_id=hosted)
        finished = await requests.finish(started.id, started.created_at, **tokens)  # type: ignore[arg-type]
        exact = (prices[0] * (prompt - cached) + prices[1] * completion + prices[2] * cached) / 1_000_000
        assert finished.cost is not None
        assert abs(finished.cost - exact) <= Decimal("0.5e-9")
        await requests.log_many([{"request_id": f"c-{trial}", "hosted_model_id": hosted, **tokens}])  # type: ignore[typeddict-item]
        assert (await requests.attempts(f"c-{trial}"))[0].cost == finished.cost


async def test_without_price_or_tokens_there_is_no_cost(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    started = await requests.start("r-1", model="local", provider="here")
    finished = await requests.finish(started.id, started.created_at, prompt_tokens=3)
    assert (finished.cost, finished.total_tokens, finished.model) == (None, 3, "local")
    started = await requests.start("r-2", hosted_model_id=await host(uow.session))
    finished = await requests.finish(
        started.id, started.created_at, status=FAILED, error_code="429", error_message="slow down"
    )
    assert (finished.cost, finished.total_tokens, finished.error_code) == (None, None, "429")


async def test_the_latency_is_measured_by_the_databases_clock(uow: AsyncUnitOfWork) -> None:
    requests = AsyncBrokerRequestRepository(uow.session)
    started = await requests.start("r-1")
    created = started.created_at - timedelta(seconds=90)
    await uow.session.execute(
        update(BrokerRequest).where(BrokerRequest.id == started.id).values(created_at=created)
    )
    finished = await requests.finish(started.id, created)
    assert finished.latency_ms is not None
    assert 90_000 <= finished.latency_ms < 95_000


async def test_a_request_ends_once(requests: AsyncBrokerRequestRepository) -> None:
    started = await requests.start("r-1")
    await requests.finish(started.id, started.created_at, status=BrokerRequestStatus.TIMEOUT)
    with pytest.raises(InvalidTransition, match="it has ended already, as timeout"):
        await requests.finish(started.id, started.created_at)
    with pytest.raises(NotFoundError, match="not in the log"):
        await requests.finish(started.id, started.created_at + timedelta(microseconds=1))
    with pytest.raises(NotFoundError, match="not in the log"):
        await requests.finish(started.id + 1, started.created_at)


async def test_of_two_who_finish_at_once_one_is_refused(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        started = await AsyncBrokerRequestRepository(uow.session).start("r-1")
    async with committed.session() as one, committed.session() as two:
        await AsyncBrokerRequestRepository(one).finish(started.id, started.created_at, latency_ms=1)
        await two.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError) as caught:
            await AsyncBrokerRequestRepository(two).finish(started.id, started.created_at, latency_ms=2)
        assert caught.value.retryable
        await two.rollback()
        await one.commit()
        with pytest.raises(InvalidTransition):
            await AsyncBrokerRequestRepository(two).finish(started.id, started.created_at, latency_ms=2)
        found = await AsyncBrokerRequestRepository(two).get(started.id, started.created_at)
        assert found is not None
        assert found.latency_ms == 1


async def test_the_log_outlives_the_catalog(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    hosted = await host(uow.session)
    started = await requests.start("r-1", hosted_model_id=hosted)
    await uow.session.execute(text("DELETE FROM brk_registry.hosted_model"))
    finished = await requests.finish(started.id, started.created_at, prompt_tokens=1)
    assert (finished.hosted_model_id, finished.model, finished.cost) == (hosted, "gpt-4o", None)
    with pytest.raises(NotFoundError, match=f"hosted model {hosted}: not in the catalog"):
        await requests.start("r-2", hosted_model_id=hosted)


@pytest.mark.parametrize(
    "tokens",
    [
        {"prompt_tokens": -1},
        {"prompt_tokens": 1, "completion_tokens": -1},
        {"prompt_tokens": 1, "cached_tokens": 2},
        {"completion_tokens": 1, "cached_tokens": 1},
    ],
)
async def test_impossible_tokens_are_refused(
    requests: AsyncBrokerRequestRepository, tokens: Mapping[str, int]
) -> None:
    started = await requests.start("r-1")
    with pytest.raises(InvalidInputError, match="tokens: expected 0 or more, and cached_tokens among"):
        await requests.finish(started.id, started.created_at, **tokens)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="row 0: tokens: expected 0 or more"):
        await requests.log_many([{"request_id": "r", **tokens}])  # type: ignore[typeddict-item]


async def test_bad_input_is_one_clear_error(requests: AsyncBrokerRequestRepository) -> None:
    started = await requests.start("r-1")
    now = datetime.now(UTC)
    with pytest.raises(InvalidInputError, match="status: a request ends as"):
        await requests.finish(started.id, started.created_at, status=BrokerRequestStatus.PENDING)
    with pytest.raises(InvalidInputError, match="expected one of pending, completed"):
        await requests.finish(started.id, started.created_at, status="done")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="created_at: a time without time zone"):
        await requests.get(started.id, datetime(2025, 1, 1))
    with pytest.raises(InvalidInputError, match="since: a time without time zone"):
        await requests.recent(since=datetime(2025, 1, 1))
    with pytest.raises(InvalidInputError, match="since: a time without time zone"):
        await requests.attempts("r-1", since=datetime(2025, 1, 1))
    with pytest.raises(InvalidInputError, match="is not before until"):
        await requests.usage(now, now)
    with pytest.raises(InvalidInputError, match="by: 'hour': expected some of model, provider, agent, day"):
        await requests.usage(LONG_AGO, now, by=["hour"])  # type: ignore[list-item]
    for zone in ("Mars/Olympus", "../etc/passwd", "", "a\0b"):
        with pytest.raises(InvalidInputError, match="timezone: "):
            await requests.usage(LONG_AGO, now, timezone=zone)
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
        await requests.recent(limit=0)
    with pytest.raises(InvalidInputError):
        await requests.start("a\0b")


# Many requests


async def test_what_is_left_out_of_many_is_filled_in(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    hosted = await host(uow.session)
    created = datetime(2024, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    assert await requests.log_many([]) == 0
    written = await requests.log_many(
        [
            {"request_id": "full", "hosted_model_id": hosted, "prompt_tokens": 1000, "completion_tokens": 100,
             "cached_tokens": 1000, "latency_ms": 1500, "created_at": created, "metadata": {"a": 1}},
            {"request_id": "plain", "model": "local"},
            {"request_id": "own cost", "hosted_model_id": hosted, "prompt_tokens": 1, "cost": Decimal("1.5"),
             "currency": "EUR", "model": "alias", "total_tokens": 7},
            {"request_id": "failed", "status": FAILED, "error_code": "500", "finished_at": created},
            {"request_id": "open", "status": "pending", "prompt_tokens": 5, "hosted_model_id": hosted},
        ]
    )  # fmt: skip
    assert written == 5
    found = {row.request_id: row for row in await requests.recent(contents=True)}
    full, plain, own, failed, pending = (
        found[name] for name in ("full", "plain", "own cost", "failed", "open")
    )
    assert (full.cost, full.currency, full.total_tokens) == (Decimal("0.0018"), "USD", 1100)
    assert (full.model, full.provider, full.metadata_) == ("gpt-4o", "azure", {"a": 1})
    assert (full.created_at, full.finished_at) == (created, created + timedelta(milliseconds=1500))
    assert (plain.status, plain.model, plain.cost, plain.metadata_) == (COMPLETED, "local", None, {})
    assert plain.finished_at == plain.created_at == await uow.session.scalar(select(func.now()))
    assert (own.cost, own.currency, own.model, own.provider) == (Decimal("1.5"), "EUR", "alias", "azure")
    assert own.total_tokens == 7
    assert (failed.status, failed.error_code, failed.finished_at) == (FAILED, "500", created)
    assert (pending.status, pending.finished_at, pending.cost) == (BrokerRequestStatus.PENDING, None, None)
    priced = await requests.finish(pending.id, pending.created_at, prompt_tokens=5)
    assert priced.cost == Decimal("0.000015")
    assert len({row.id for row in found.values()}) == 5


@pytest.mark.parametrize(
    ("row", "error", "says"),
    [
        ({"colour": 1}, InvalidInputError, "BrokerRequest: 'colour': no such attribute"),
        ({"id": 1}, InvalidInputError, "BrokerRequest: 'id': no such attribute"),
        ({"created_at": datetime(2025, 1, 1)}, InvalidInputError, "row 1: created_at: a time without"),
        ({"created_at": "today"}, InvalidInputError, "row 1: "),
        ({"finished_at": datetime(2025, 1, 1)}, InvalidInputError, "row 1: .*finished_at: .*time without"),
        ({"hosted_model_id": -7}, NotFoundError, "row 1: hosted model -7: not in the catalog"),
        ({"hosted_model_id": "x"}, NotFoundError, "row 1: hosted model x: not in the catalog"),
        ({"hosted_model_id": []}, InvalidInputError, "row 1: "),
        ({"hosted_model_id": 2**70}, NotFoundError, "row 1: hosted model 118.*: not in the catalog"),
        ({"status": "done"}, InvalidInputError, "row 1: .*expected one of"),
        ({"prompt_tokens": "many"}, InvalidInputError, "row 1: "),
        ({"prompt_tokens": 2**40}, InvalidInputError, "row 1: "),
        ({"latency_ms": -1}, InvalidInputError, "latency_ms"),
        ({"model": "a\0b"}, InvalidInputError, "row 1: broker_request.model"),
        ({"request": {"a": "\0"}}, InvalidInputError, "row 1: broker_request.request"),
        ({"cost": "cheap"}, InvalidInputError, "row 1: "),
        ({"cost": Decimal("NaN")}, InvalidInputError, "row 1: cost: expected a finite number"),
        ({"cost": Decimal("1e12")}, InvalidInputError, "numeric field overflow"),
        ({"request_id": None}, InvalidInputError, "request_id"),
    ],
)
async def test_a_wrong_row_of_many_is_one_clear_error(
    uow: AsyncUnitOfWork,
    requests: AsyncBrokerRequestRepository,
    row: Mapping[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    await requests.log_many([{"request_id": "before"}])
    with pytest.raises(error, match=says):
        await requests.log_many([{"request_id": "good"}, {"request_id": "bad", **row}])  # type: ignore[typeddict-item]
    assert [found.request_id for found in await requests.recent()] == ["before"]


@pytest.mark.parametrize("value", [HOSTILE, "x" * 1_000_000], ids=["hostile", "a megabyte"])
async def test_hostile_text_is_stored_and_never_run(
    requests: AsyncBrokerRequestRepository, value: str
) -> None:
    code = value[:1000]
    started = await requests.start(
        code, model=code, provider=value, agent_name=value, session_id=value, request={code: value}
    )
    await requests.finish(started.id, started.created_at, error_message=value, response={code: value})
    row = {"request_id": code, "model": code, "provider": value, "agent_name": value, "error_message": value}
    await requests.log_many([{**row, "request": {code: value}}])  # type: ignore[typeddict-item]
    found = await requests.attempts(code)
    assert [(one.model, one.provider, one.request, one.error_message) for one in found] == [
        (code, value, {code: value}, value)
    ] * 2
    assert len(await requests.recent(model=code, provider=value, agent_name=value)) == 2
    (used,) = await requests.usage(LONG_AGO, datetime(2999, 1, 1, tzinfo=UTC), model=code, agent_name=value)
    assert (used.model, used.provider, used.requests) == (code, value, 2)


# Reading


async def log(requests: AsyncBrokerRequestRepository, created: datetime, **values: Any) -> None:
    await requests.log_many([{"request_id": "r", "created_at": created, **values}])  # type: ignore[typeddict-item]


async def test_the_recent_ones_come_newest_first_a_page_at_a_time(
    requests: AsyncBrokerRequestRepository,
) -> None:
    now = datetime.now(UTC).replace(microsecond=123456)
    times = [now - timedelta(days=20 * (number // 2)) for number in range(9)]  # each but one twice
    await requests.log_many(
        [{"request_id": f"r-{number}", "created_at": time} for number, time in enumerate(times)]
    )
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await requests.recent(after=after, limit=2)
        seen += [row.request_id for row in page]
        after = page.next
        if after is None:
            break
    assert seen == ["r-1", "r-0", "r-3", "r-2", "r-5", "r-4", "r-7", "r-6", "r-8"]
    some = await requests.recent(since=times[4], until=times[0])
    assert [row.request_id for row in some] == ["r-3", "r-2", "r-5", "r-4"]


async def test_the_recent_ones_are_found_by_what_they_are(requests: AsyncBrokerRequestRepository) -> None:
    now = datetime.now(UTC)
    await log(requests, now, model="a", provider="p", agent_name="x", session_id="s")
    await log(requests, now, model="b", provider="p", status=FAILED, request={"q": 1})
    for asked in ({"model": "a"}, {"agent_name": "x"}, {"session_id": "s"}, {"status": COMPLETED}):
        assert [row.model for row in await requests.recent(**asked)] == ["a"]
    assert len(await requests.recent(provider="p")) == 2
    assert len(await requests.recent(provider="p", model="c")) == 0


async def test_contents_are_read_only_when_asked_for(requests: AsyncBrokerRequestRepository) -> None:
    await log(requests, datetime.now(UTC), request={"q": 1}, response={"a": 2})
    (row,) = await requests.recent()
    with pytest.raises(exc.InvalidRequestError):
        _ = row.request
    (row,) = await requests.recent(contents=True)
    assert (row.request, row.response) == ({"q": 1}, {"a": 2})


async def test_attempts_are_all_that_have_the_brokers_id(requests: AsyncBrokerRequestRepository) -> None:
    now = datetime.now(UTC)
    for days in (0, 40, 1):
        await log(requests, now - timedelta(days=days))
    found = await requests.attempts("r")
    assert [(now - row.created_at).days for row in found] == [0, 1, 40]
    assert len(await requests.attempts("r", since=now - timedelta(days=2))) == 2
    assert list(await requests.attempts("x")) == []


async def test_usage_is_added_up_by_what_is_asked_for(requests: AsyncBrokerRequestRepository) -> None:
    first, second = datetime(2025, 3, 1, 12, tzinfo=UTC), datetime(2025, 3, 2, tzinfo=UTC)
    tokens = {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 2}
    await log(requests, first, model="a", provider="p", cost=Decimal("0.1"), latency_ms=100, **tokens)
    await log(requests, first, model="a", provider="q", cost=Decimal("0.2"), latency_ms=300, **tokens)
    await log(requests, second, model="a", provider="q", cost=Decimal("0.4"), currency="EUR", **tokens)
    await log(requests, second, model="b", provider="q", agent_name="x", **tokens)
    await log(requests, second, model="b", provider="q", status=FAILED)
    await log(requests, second, model="b", provider="q", status="pending")
    end = datetime(2025, 3, 3, tzinfo=UTC)

    async def sums(*by: TokenUsageKey, **asked: Any) -> list[tuple[object, ...]]:
        found = await requests.usage(asked.pop("since", first), asked.pop("until", end), by=by, **asked)
        return [
            (*(getattr(one, key) for key in by), one.currency, one.requests, one.cost, one.prompt_tokens)
            for one in found
        ]

    cost = Decimal
    assert await sums("model") == [
        ("a", "EUR", 1, cost("0.4"), 10),
        ("a", "USD", 2, cost("0.3"), 20),
        ("b", "USD", 3, 0, 10),
    ]
    assert await sums("provider") == [
        ("p", "USD", 1, cost("0.1"), 10),
        ("q", "EUR", 1, cost("0.4"), 10),
        ("q", "USD", 4, cost("0.2"), 20),
    ]
    days = date(2025, 3, 1), date(2025, 3, 2)
    assert await sums("day") == [
        (days[0], "USD", 2, cost("0.3"), 20),
        (days[1], "EUR", 1, cost("0.4"), 10),
        (days[1], "USD", 3, 0, 10),
    ]
    assert await sums("agent", model="b") == [("x", "USD", 1, 0, 10), (None, "USD", 2, 0, 0)]
    assert await sums("model", "provider", "day", until=second) == [
        ("a", "p", days[0], "USD", 1, cost("0.1"), 10),
        ("a", "q", days[0], "USD", 1, cost("0.2"), 10),
    ]
    assert await sums(provider="p") == [("USD", 1, cost("0.1"), 10)]
    assert await sums(since=end, until=end + timedelta(days=1)) == []
    (b,) = await requests.usage(first, end, by=("model",), provider="q", model="b")  # type: ignore[arg-type]
    assert (b.requests, b.failed, b.unpriced, b.total_tokens, b.completion_tokens, b.cached_tokens) == (
        3,
        1,
        1,
        15,
        5,
        2,
    )
    assert (b.provider, b.agent, b.day, b.mean_latency_ms) == (None, None, None, None)
    (usd,) = [found for found in await requests.usage(first, second, by=()) if found.currency == "USD"]
    assert usd.mean_latency_ms == 200


async def test_days_are_those_of_the_time_zone(
    uow: AsyncUnitOfWork, requests: AsyncBrokerRequestRepository
) -> None:
    # The clock in Berlin goes from 2:00 to 3:00 on 30 March 2025.
    for hour in (datetime(2025, 3, 29, 22, 30, tzinfo=UTC), datetime(2025, 3, 29, 23, 30, tzinfo=UTC),
                 datetime(2025, 3, 30, 21, 30, tzinfo=UTC), datetime(2025, 3, 30, 22, 30, tzinfo=UTC)):  # fmt: skip
        await log(requests, hour)
    await uow.session.execute(text("SET LOCAL TimeZone = 'Asia/Kathmandu'"))
    span = datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 4, 1, tzinfo=UTC)
    berlin = await requests.usage(*span, by=("day",), timezone="Europe/Berlin")  # type: ignore[arg-type]
    assert [(one.day, one.requests) for one in berlin] == [
        (date(2025, 3, 29), 1),
        (date(2025, 3, 30), 2),
        (date(2025, 3, 31), 1),
    ]
    utc = await requests.usage(*span, by=("day",))  # type: ignore[arg-type]
    assert [(one.day, one.requests) for one in utc] == [(date(2025, 3, 29), 2), (date(2025, 3, 30), 2)]


@pytest.mark.parametrize(
    "zone",
    [
        "UTC",
        "Europe/Berlin",
        "Asia/Kolkata",
        "America/Havana",
        "America/Sao_Paulo",
        "Pacific/Apia",
        "America/St_Johns",
    ],
)
async def test_days_follow_the_calendar_of_their_zone(
    requests: AsyncBrokerRequestRepository, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """Days that are longer and shorter, with a midnight that is twice or never, or that do not exist."""
    spans = [datetime(2025, 3, 8, tzinfo=UTC), datetime(2025, 11, 1, tzinfo=UTC), datetime(2018, 11, 3, tzinfo=UTC),
             datetime(2018, 2, 17, tzinfo=UTC), datetime(2011, 12, 29, tzinfo=UTC), datetime(2010, 11, 6, tzinfo=UTC)]  # fmt: skip
    steps = [begin + timedelta(minutes=20 * number) for begin in spans for number in range(3 * 72)]
    await requests.log_many([{"request_id": "r", "created_at": at, "prompt_tokens": 1} for at in steps])
    expected = Counter(at.astimezone(ZoneInfo(zone)).date() for at in steps)
    for begin in spans:
        span = begin + timedelta(minutes=7), begin + timedelta(days=3, minutes=-7)
        inside = [at for at in steps if span[0] <= at < span[1]]
        found = await requests.usage(*span, by=("day",), timezone=zone)  # type: ignore[arg-type]
        days = Counter(at.astimezone(ZoneInfo(zone)).date() for at in inside)
        assert {one.day: one.requests for one in found} == days
        assert [one.day for one in found] == sorted(days)
    whole = min(spans), max(spans) + timedelta(days=3)
    found = await requests.usage(*whole, by=("day", "model"), timezone=zone)
    assert {one.day: one.requests for one in found} == expected
    monkeypatch.setattr(f"{type(requests).__module__}.MAX_DAYS", 1)
    assert await requests.usage(*whole, by=("day", "model"), timezone=zone) == found
    assert (
        await requests.usage(
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            by=("day", "model"),
            timezone=zone,
        )
        == found
    )


async def test_usage_includes_late_requests(requests: AsyncBrokerRequestRepository) -> None:
    """A request of a day that has been summed before: logged, finished, and deleted."""
    day = datetime(2025, 3, 1, 12, tzinfo=UTC)

    async def now() -> list[tuple[date | None, int, int, Decimal]]:
        found = await requests.usage(day - timedelta(days=1), day + timedelta(days=2), by=("day",))  # type: ignore[arg-type]
        return [(one.day, one.requests, one.failed, one.cost) for one in found]

    await log(requests, day, cost=Decimal("0.1"))
    await log(requests, day, status="pending")
    assert await now() == [(day.date(), 2, 0, Decimal("0.1"))]
    await log(requests, day, cost=Decimal("0.2"))
    assert await now() == [(day.date(), 3, 0, Decimal("0.3"))]
    (pending,) = await requests.recent(status=BrokerRequestStatus.PENDING)
    await requests.finish(pending.id, pending.created_at, status=FAILED)
    assert await now() == [(day.date(), 3, 1, Decimal("0.3"))]
    await requests._session.execute(delete(BrokerRequest).where(BrokerRequest.id == pending.id))
    assert await now() == [(day.date(), 2, 0, Decimal("0.3"))]


async def test_requests_of_one_tenant_are_not_seen_by_the_other(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        hosted = await host(uow.session)
        requests = AsyncBrokerRequestRepository(uow.session)
        await requests.start("r-1", hosted_model_id=hosted)
        await requests.log_many([{"request_id": "r-2", "hosted_model_id": hosted, "prompt_tokens": 1}])
    other = AsyncDatabase(committed.url, schema="acme" if committed.schema is None else None)
    async with other, other.begin() as uow:
        assert len(await AsyncBrokerRequestRepository(uow.session).recent()) == 0
        assert await uow.session.scalar(select(func.count()).select_from(HostedModel)) == 1
    async with committed.begin() as uow:
        assert len(await AsyncBrokerRequestRepository(uow.session).recent()) == 2
