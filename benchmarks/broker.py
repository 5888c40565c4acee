"""The broker's request log: bulk writes beside raw COPY of the same rows, and roll-ups that read only their months."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any

import psycopg
from harness import Page, Server, Target, at_least, at_most, interleaved, publish, table, targets
from sqlalchemy import inspect, text

from alfred_db import BrokerRequest, Database
from alfred_db.queries.broker_requests import usage
from alfred_db.queries.shapes.explain import Explain
from alfred_db.repositories import BrokerCatalogRepository, BrokerRequestRepository

RUNS = 5
ROWS = 20_000
LOGGED = 1_000_000
LEAST_OF_RAW_COPY = 0.5
MOST_TIMES_RAW_QUERY = 1.5
COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "total_tokens", "latency_ms")
TYPES = {"id": "int8", "created_at": "timestamptz", "finished_at": "timestamptz", "hosted_model_id": "int8"}
TYPES |= {"cost": "numeric", "metadata": "jsonb"} | dict.fromkeys(COUNTS, "int4")
COPIED = (
    "request_id, created_at, status, finished_at, hosted_model_id, model, provider, prompt_tokens,"
    " completion_tokens, cached_tokens, total_tokens, latency_ms, cost, currency, agent_name, session_id, metadata"
)
ROLL_UP = """
    SELECT model, provider, currency, count(*), count(*) FILTER (WHERE status = 'failed'),
        sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(total_tokens), sum(cost), avg(latency_ms)
    FROM brk_tracking.broker_request WHERE created_at >= %s AND created_at < %s GROUP BY 1, 2, 3
"""


def priced_model(database: Database) -> int:
    """A hosted model with a price."""
    with database.begin() as uow:
        catalog = BrokerCatalogRepository(uow.session)
        catalog.put_provider("azure", name="Azure")
        catalog.put_maker("openai", name="OpenAI")
        catalog.put_family("gpt", maker="openai", name="GPT")
        catalog.put_model("gpt-4o", family="gpt", name="GPT-4o")
        hosted = catalog.put_hosted_model("azure", "gpt-4o", model="gpt-4o")
        start = datetime(2020, 1, 1, tzinfo=UTC)
        prices = {"input_price": Decimal("2.5"), "output_price": Decimal(10)}
        catalog.put_price("azure", "gpt-4o", **prices, valid_from=start)
        return hosted.id


def rows_of(hosted: int, count: int) -> list[dict[str, Any]]:
    """What a broker keeps of its requests, all told."""
    now = datetime.now(UTC)
    return [
        {
            "request_id": f"request-{number}",
            "created_at": now - timedelta(seconds=number % 600),
            "hosted_model_id": hosted,
            "prompt_tokens": number % 5000,
            "completion_tokens": number % 700,
            "cached_tokens": number % 5000 // 2,
            "latency_ms": number % 9000,
            "agent_name": f"agent-{number % 20}",
            "session_id": f"session-{number % 1000}",
            "metadata": {"attempt": 1},
        }
        for number in range(count)
    ]


def emptied(database: Database, run: Callable[[], None]) -> Callable[[], float]:
    """Times `run` on an empty log."""

    def timed() -> float:
        with database.session() as session:
            session.execute(text("TRUNCATE brk_tracking.broker_request"))
            session.commit()
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return timed


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """Times `run`."""

    def measured() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return measured


def raw_copy(address: str, values: Sequence[Sequence[Any]]) -> Callable[[], None]:
    """psycopg's own COPY BINARY of rows that are complete already."""
    names = COPIED.split(", ")

    def run() -> None:
        with (
            psycopg.connect(address) as connection,
            connection.cursor() as cursor,
            cursor.copy(f"COPY brk_tracking.broker_request ({COPIED}) FROM STDIN (FORMAT binary)") as copy,
        ):
            copy.set_types([TYPES.get(name, "text") for name in names])
            for row in values:
                copy.write_row(row)

    return run


def log_many(database: Database, rows: Sequence[dict[str, Any]]) -> Callable[[], None]:
    """The library: it looks the prices up, works the costs out, and copies."""

    def run() -> None:
        with database.begin() as uow:
            BrokerRequestRepository(uow.session).log_many(rows)

    return run


def completed(database: Database) -> list[tuple[Any, ...]]:
    """The rows in the log, as raw COPY wants them."""
    columns = inspect(BrokerRequest).columns
    names = {column.name: name for name, column in columns.items()}
    with database.begin() as uow:
        found = BrokerRequestRepository(uow.session).recent(limit=1)
        assert found.items[0].cost is not None
        rows = uow.session.query(BrokerRequest).all()
        jsonb = psycopg.types.json.Jsonb
        return [
            tuple(
                jsonb(row.metadata_) if name == "metadata" else getattr(row, names[name])
                for name in COPIED.split(", ")
            )
            for row in rows
        ]


def fill_a_year(database: Database, rows: int) -> datetime:
    """So many requests, over this month and the eleven after it; gives the first time."""
    with database.begin() as uow:
        uow.session.execute(text("TRUNCATE brk_tracking.broker_request"))
        requests = BrokerRequestRepository(uow.session)
        requests.make_partitions(11)
        parts = [part for part in requests.partitions() if part.starts_at is not None]
        first, last = parts[0].starts_at, parts[-1].ends_at
        assert first is not None
        assert last is not None
        uow.session.execute(
            text(
                "INSERT INTO brk_tracking.broker_request (request_id, created_at, status, finished_at, model, provider,"
                " prompt_tokens, completion_tokens, cached_tokens, total_tokens, cost, latency_ms)"
                " SELECT 'r' || n, t, 'completed', t, 'm' || n % 20, 'p' || n % 4, n % 5000, n % 700, 0,"
                " n % 5000 + n % 700, 0.001, n % 9000 FROM (SELECT n, :first + n * ((:last - :first) / :rows) AS t"
                " FROM generate_series(0, :rows - 1) AS n) AS made"
            ),
            {"first": first, "last": last, "rows": rows},
        )
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            text("VACUUM (ANALYZE) brk_tracking.broker_request")
        )
    return first


def roll_up(database: Database, since: datetime, until: datetime) -> Callable[[], object]:
    """The library's own."""

    def run() -> object:
        with database.begin() as uow:
            return BrokerRequestRepository(uow.session).usage(since, until)

    return run


def raw_roll_up(connection: psycopg.Connection, since: datetime, until: datetime) -> Callable[[], object]:
    """The same sums, written by hand."""
    return lambda: connection.execute(ROLL_UP, (since, until)).fetchall()


def bulk(database: Database, address: str, page: Page, part: float) -> list[Target]:
    """Rows into an empty log: copied as they are, and by the library."""
    rows = rows_of(priced_model(database), int(ROWS * part))
    log_many(database, rows)()
    contenders = {
        "psycopg, COPY BINARY of complete rows": raw_copy(address, completed(database)),
        "`log_many`, which works out the costs": log_many(database, rows),
    }
    times = interleaved(RUNS, {name: emptied(database, run) for name, run in contenders.items()})
    speeds = {name: len(rows) / median(seconds) for name, seconds in times.items()}
    raw, ours = speeds.values()
    found = [at_least("`log_many` / raw COPY, rows a second", ours / raw, LEAST_OF_RAW_COPY)]
    publish(
        page,
        "Broker: bulk log",
        f"{len(rows):,} requests into an empty log, in turns, {RUNS} of each; medians. The same rows in the same"
        " table, with all its indexes. Raw COPY takes them complete; `log_many` takes a hosted model and the"
        " tokens, looks up codes and prices, and works out model, provider, times, totals and cost of each.",
        table(("", "rows/s"), [(name, f"{speed:,.0f}") for name, speed in speeds.items()]),
        targets(found),
    )
    return found


def roll_ups(database: Database, address: str, page: Page, part: float) -> list[Target]:
    """Sums of two months and of twelve; and which partitions their plans read."""
    rows = int(LOGGED * part)
    since = fill_a_year(database, rows)
    until, end = since + timedelta(days=59), since + timedelta(days=400)
    months, asked = partitions_read(database, since, until)
    with psycopg.connect(address, autocommit=True) as connection:
        contenders = {
            "two months, psycopg, SQL by hand": raw_roll_up(connection, since, until),
            "two months, `usage`": roll_up(database, since, until),
            "twelve months, `usage`": roll_up(database, since, end),
        }
        times = interleaved(RUNS, {name: timed(run) for name, run in contenders.items()})
    medians = {name: median(seconds) for name, seconds in times.items()}
    raw, ours, _ = medians.values()
    found = [
        at_most("two months, `usage` / SQL by hand", ours / raw, MOST_TIMES_RAW_QUERY),
        at_most("partitions read that were not asked for", len(months - asked), 0),
    ]
    publish(
        page,
        "Broker: roll-up",
        f"{rows:,} requests over 12 partitions and an empty default one, by model and provider, in turns, {RUNS} of"
        f" each; medians. The plan of two months reads {', '.join(sorted(months))}, and nothing else.",
        table(("", "median"), [(name, f"{value * 1000:.1f} ms") for name, value in medians.items()]),
        targets(found),
    )
    return found


def partitions_read(database: Database, since: datetime, until: datetime) -> tuple[set[str], set[str]]:
    """The partitions in the plan of a roll-up, and those of the months asked for."""
    statement = usage(
        since=since,
        until=until,
        by=("model", "provider"),
        timezone="UTC",
        model=None,
        provider=None,
        agent_name=None,
    )
    with database.begin() as uow:
        plan = "\n".join(uow.session.scalars(Explain(statement)))
    asked = {f"{since + timedelta(days=days):%Y_%m}" for days in range((until - since).days)}
    return set(re.findall(r"broker_request_(\d{4}_\d\d|default)\b", plan)), asked


def measure(server: Server, page: Page, part: float = 1.0) -> list[Target]:
    """Publish both on the page."""
    address = server.database("broker")
    with Database(address) as database:
        database.upgrade()
        return [*bulk(database, address, page, part), *roll_ups(database, address, page, part)]
