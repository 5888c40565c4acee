"""The broker's request log: bulk writes beside raw COPY of the same rows, and roll-ups that read only their months."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from harness import FOUNDATION, interleaved, publish_times
from sqlalchemy import inspect, text

from alfred_db import BrokerRequest, Database, embedded
from alfred_db.repositories._sync.broker import BrokerCatalogRepository
from alfred_db.repositories._sync.broker_requests import BrokerRequestRepository

RUNS = 5
ROWS = 20_000
LOGGED = 1_000_000
MOST_TIMES_RAW_COPY = 2.0
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


def rows_of(hosted: int) -> list[dict[str, Any]]:
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
            "metadata_": {"attempt": 1},
        }
        for number in range(ROWS)
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


def fill_a_year(database: Database) -> datetime:
    """A million requests, over this month and the eleven after it; gives the first time."""
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
            {"first": first, "last": last, "rows": LOGGED},
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


def bulk(database: Database, address: str) -> bool:
    rows = rows_of(priced_model(database))
    log_many(database, rows)()
    contenders = {
        "psycopg, COPY BINARY of complete rows": raw_copy(address, completed(database)),
        "`log_many`, which works out the costs": log_many(database, rows),
    }
    times = interleaved(RUNS, {name: emptied(database, run) for name, run in contenders.items()})
    notes = f"{ROWS:,} requests with model, tokens and cost into an empty log in turn, {RUNS} of each."
    return publish_times(FOUNDATION, "Broker: bulk log", notes, times, MOST_TIMES_RAW_COPY)


def roll_ups(database: Database, address: str) -> bool:
    since = fill_a_year(database)
    until, end = since + timedelta(days=59), since + timedelta(days=400)
    with psycopg.connect(address, autocommit=True) as connection:
        contenders = {
            "two months, psycopg, SQL by hand": raw_roll_up(connection, since, until),
            "twelve months, `usage`": roll_up(database, since, end),
            "two months, `usage`": roll_up(database, since, until),
        }
        times = interleaved(RUNS, {name: timed(run) for name, run in contenders.items()})
    notes = f"{LOGGED:,} requests over 12 partitions, by model and provider, {RUNS} of each."
    return publish_times(FOUNDATION, "Broker: roll-up", notes, times, MOST_TIMES_RAW_QUERY)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="alfred-db-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        address = embedded.start(folder / "server").url or ""
        try:
            with Database(address) as database:
                database.upgrade()
                within = [bulk(database, address), roll_ups(database, address)]
        finally:
            embedded.stop(folder / "server")
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
