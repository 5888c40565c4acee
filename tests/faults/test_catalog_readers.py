"""Readers of the catalogs beside one who writes: each sees all of the other's transaction or nothing, and never waits."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import URL, event, text, update

from alfred_db import Base, BrokerRequest, Database, TestCaseStatus, TestSuite
from alfred_db.errors import NotFoundError
from alfred_db.repositories import UnitOfWork
from alfred_db.values import Page

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Made:
    """What the readers ask for."""

    request: tuple[int, datetime]
    node: uuid.UUID
    edge: uuid.UUID
    far: uuid.UUID
    suite: int
    case: int
    runs: tuple[int, int]
    """Both have ended; the baseline is one of them."""
    running: int
    user: uuid.UUID
    record: uuid.UUID


def make(uow: UnitOfWork) -> Made:
    """What stays; all else is made by the writers."""
    request = uow.broker_requests.start("r")
    node, far = (uow.entities.upsert_node("t", key).id for key in ("a", "z"))
    for key in "bcd":
        uow.entities.upsert_edge(uow.entities.upsert_node("t", key).id, far, "next")
    edge = uow.entities.upsert_edge(node, far, "same", valid_from=START, valid_to=START + DAY)
    suite = uow.validation.create_suite("s").id
    case = uow.validation.add_case(suite, "c").id
    runs = [uow.validation.start_run(suite).id for _ in range(3)]
    for value, run in enumerate(runs[:2]):
        uow.validation.record(case, "m", value, run_id=run)
        uow.validation.finish_run(run)
    user = uuid.uuid4()
    uow.session.execute(
        text("INSERT INTO auth.users (id, email) VALUES (:id, 'ada@example.org')"), {"id": user}
    )
    uow.storage.create_bucket("b")
    uow.storage.put("b", "even")
    return Made(
        request=(request.id, request.created_at),
        node=node,
        edge=edge.id,
        far=far,
        suite=suite,
        case=case,
        runs=(runs[0], runs[1]),
        running=runs[2],
        user=user,
        record=uow.working_memory.store("w", "file").id,
    )


# Who writes: all that the readers of a noun see depends on the number


def write_registry(uow: UnitOfWork, made: Made, n: int) -> None:
    uow.model_registry.register(
        "m",
        display_name=f"{n}",
        provider="p",
        model_type="t",
        endpoints=[{"endpoint_type": "rest", "endpoint_url": f"https://{n}/{k}"} for k in range(2)],
        capabilities={"chat": n, "code": n},
    )


def write_catalog(uow: UnitOfWork, made: Made, n: int) -> None:
    broker, name = uow.broker_catalog, f"{n}"
    broker.put_provider("p", name=name)
    broker.put_maker("m", name=name)
    broker.put_family("f", maker="m", name=name)
    broker.put_model("m", family="f", name=name)
    broker.put_snapshot("m", "s", name=name)
    broker.put_hosted_model("p", "h", model="m", snapshot="s", name=name)
    broker.put_price("p", "h", input_price=Decimal(n), output_price=Decimal(n), valid_from=START)


def write_requests(uow: UnitOfWork, made: Made, n: int) -> None:
    uow.session.execute(update(BrokerRequest).values(prompt_tokens=n))
    uow.broker_requests.log_many([{"request_id": "r", "prompt_tokens": n}] * 2)


def write_graph(uow: UnitOfWork, made: Made, n: int) -> None:
    """The way goes on from one node or from another, and never from both."""
    graph = uow.entities
    graph.upsert_node("t", "a", properties={"n": n})
    graph.upsert_edge(
        made.node, made.far, "same", weight=n, valid_from=START, valid_to=START + DAY, properties={"n": n}
    )
    for fact in graph.facts(made.node, edge_types=["next"]):
        graph.end_edge(fact.id)
    through = graph.upsert_node("t", "bcd"[n % 3], properties={"n": n})
    graph.upsert_edge(made.node, through.id, "next")


def write_validation(uow: UnitOfWork, made: Made, n: int) -> None:
    validation = uow.validation
    uow.session.execute(update(TestSuite).values(description=f"{n}"))
    validation.finish_case(made.case, TestCaseStatus.PASSED, result=f"{n}")
    validation.record(made.case, "m", n, run_id=made.running)
    validation.set_baseline(made.runs[n % 2])


def write_users(uow: UnitOfWork, made: Made, n: int) -> None:
    uow.session.execute(text("UPDATE auth.users SET phone = :n"), {"n": f"{n}"})


def write_storage(uow: UnitOfWork, made: Made, n: int) -> None:
    """The record refers to the blob that is in the bucket, or to one that is not."""
    uow.session.execute(text("UPDATE storage.buckets SET file_size_limit = :n"), {"n": n})
    uow.storage.put("b", "x", version=f"{n}")
    uow.working_memory.set_blob(made.record, provider=f"{n}", blob_key=("even", "odd")[n % 2])


WRITES: Mapping[str, Callable[[UnitOfWork, Made, int], None]] = {
    "model_registry": write_registry,
    "broker_catalog": write_catalog,
    "broker_requests": write_requests,
    "entities": write_graph,
    "validation": write_validation,
    "users": write_users,
    "storage": write_storage,
    "working_memory": write_storage,
}

READS: Mapping[str, Callable[[UnitOfWork, Made], Any]] = {
    "model_registry.get": lambda uow, made: uow.model_registry.get("m"),
    "model_registry.capabilities": lambda uow, made: uow.model_registry.capabilities("m"),
    "model_registry.find_best": lambda uow, made: uow.model_registry.find_best("chat"),
    "model_registry.rank": lambda uow, made: uow.model_registry.rank("chat"),
    "model_registry.endpoints": lambda uow, made: uow.model_registry.endpoints("m"),
    "model_registry.select_endpoint": lambda uow, made: uow.model_registry.select_endpoint("m"),
    "model_registry.export_catalog": lambda uow, made: uow.model_registry.export_catalog(),
    "model_registry.list": lambda uow, made: uow.model_registry.list(),
    "broker_catalog.get_provider": lambda uow, made: uow.broker_catalog.get_provider("p"),
    "broker_catalog.get_maker": lambda uow, made: uow.broker_catalog.get_maker("m"),
    "broker_catalog.get_family": lambda uow, made: uow.broker_catalog.get_family("f"),
    "broker_catalog.get_model": lambda uow, made: uow.broker_catalog.get_model("m"),
    "broker_catalog.get_snapshot": lambda uow, made: uow.broker_catalog.get_snapshot("m", "s"),
    "broker_catalog.get_hosted_model": lambda uow, made: uow.broker_catalog.get_hosted_model("p", "h"),
    "broker_catalog.get_price": lambda uow, made: uow.broker_catalog.get_price("p", "h"),
    "broker_catalog.list_providers": lambda uow, made: uow.broker_catalog.list_providers(),
    "broker_catalog.list_makers": lambda uow, made: uow.broker_catalog.list_makers(),
    "broker_catalog.list_families": lambda uow, made: uow.broker_catalog.list_families(),
    "broker_catalog.list_models": lambda uow, made: uow.broker_catalog.list_models(),
    "broker_catalog.list_snapshots": lambda uow, made: uow.broker_catalog.list_snapshots("m"),
    "broker_catalog.list_prices": lambda uow, made: uow.broker_catalog.list_prices("p", "h"),
    "broker_catalog.find_offers": lambda uow, made: uow.broker_catalog.find_offers(),
    "broker_catalog.export_catalog": lambda uow, made: uow.broker_catalog.export_catalog(),
    "broker_requests.get": lambda uow, made: uow.broker_requests.get(*made.request),
    "broker_requests.attempts": lambda uow, made: uow.broker_requests.attempts("r"),
    "broker_requests.recent": lambda uow, made: uow.broker_requests.recent(limit=1000),
    "broker_requests.usage": lambda uow, made: uow.broker_requests.usage(
        made.request[1] - DAY, made.request[1] + DAY
    ),
    "entities.get_node": lambda uow, made: uow.entities.get_node(made.node),
    "entities.find_node": lambda uow, made: uow.entities.find_node("t", "a"),
    "entities.list_nodes": lambda uow, made: uow.entities.list_nodes(),
    "entities.get_edge": lambda uow, made: uow.entities.get_edge(made.edge),
    "entities.facts": lambda uow, made: uow.entities.facts(made.node),
    "entities.history": lambda uow, made: uow.entities.history(made.node, made.far, "same"),
    "entities.neighbours": lambda uow, made: uow.entities.neighbours(made.node, depth=3),
    "entities.shortest_path": lambda uow, made: uow.entities.shortest_path(made.node, made.far),
    "entities.subgraph": lambda uow, made: uow.entities.subgraph([made.node], depth=3, direction="out"),
    "validation.get_suite": lambda uow, made: uow.validation.get_suite(made.suite),
    "validation.list_suites": lambda uow, made: uow.validation.list_suites(),
    "validation.get_case": lambda uow, made: uow.validation.get_case(made.case),
    "validation.list_cases": lambda uow, made: uow.validation.list_cases(made.suite),
    "validation.get_run": lambda uow, made: uow.validation.get_run(made.runs[0]),
    "validation.list_runs": lambda uow, made: uow.validation.list_runs(made.suite),
    "validation.list_results": lambda uow, made: uow.validation.list_results(made.running, limit=1000),
    "validation.get_baseline": lambda uow, made: uow.validation.get_baseline(made.suite),
    "validation.regression": lambda uow, made: uow.validation.regression(made.runs[0]),
    "validation.trend": lambda uow, made: uow.validation.trend(made.case, "m", limit=1000),
    "users.get": lambda uow, made: uow.users.get(made.user),
    "users.get_by_email": lambda uow, made: uow.users.get_by_email("ada@example.org"),
    "users.list": lambda uow, made: uow.users.list(),
    "storage.get_bucket": lambda uow, made: uow.storage.get_bucket("b"),
    "storage.list_buckets": lambda uow, made: uow.storage.list_buckets(),
    "storage.get": lambda uow, made: uow.storage.get("b", "x"),
    "storage.list": lambda uow, made: uow.storage.list("b"),
    "storage.list_references": lambda uow, made: uow.storage.list_references("even"),
    "storage.list_dangling": lambda uow, made: uow.storage.list_dangling("b"),
    "storage.list_unreferenced": lambda uow, made: uow.storage.list_unreferenced("b"),
    "working_memory.list": lambda uow, made: uow.working_memory.list(with_blob=True),
}
"""An operation, as the unit of work has it, and a call of it."""


@dataclass
class Pair:
    """A writer and a reader of one database, on connections of their own."""

    writer: Database
    reader: Database
    made: Made

    def __post_init__(self) -> None:
        self.numbers = itertools.count(1)

    def write(self, noun: str, uow: UnitOfWork | None = None) -> None:
        """Write what the next number makes of it, in a transaction of its own or in that of `uow`."""
        if uow is not None:
            return WRITES[noun](uow, self.made, next(self.numbers))
        with self.writer.begin() as own:
            return self.write(noun, own)

    def read(self, operation: str, uow: UnitOfWork | None = None) -> Any:
        if uow is not None:
            return plain(READS[operation](uow, self.made))
        with self.reader.begin() as own:
            return self.read(operation, own)


@pytest.fixture(scope="module")
def pair(template: URL, new_database: Callable[..., URL]) -> Iterator[Pair]:
    url = new_database(template.database)
    no_waiting = url.update_query_dict({"options": "-c lock_timeout=100ms"})
    with Database(url) as writer, Database(no_waiting) as reader:
        with writer.begin() as uow:
            made = make(uow)
        pair = Pair(writer, reader, made)
        for noun in WRITES:
            pair.write(noun)
        yield pair


def plain(value: Any) -> Any:
    """What a read gave, as values that can be compared."""
    if isinstance(value, Base):
        return {name: plain(one) for name, one in vars(value).items() if name != "_sa_instance_state"}
    if isinstance(value, Page | list | tuple):
        return [plain(one) for one in value]
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


@contextmanager
def after_statement(database: Database, number: int, work: Callable[[], None]) -> Iterator[list[int]]:
    """Work when so many statements of the database have run; return the numbers of all that have."""
    ran: list[int] = []

    def count(*_: object) -> None:
        ran.append(len(ran) + 1)
        if len(ran) == number:
            work()

    event.listen(database.engine, "after_cursor_execute", count)
    try:
        yield ran
    finally:
        event.remove(database.engine, "after_cursor_execute", count)


def test_a_month_that_is_dropped_between_the_statements_has_no_readers(pair: Pair) -> None:
    with pair.writer.begin() as uow:
        uow.session.execute(
            text(
                "CREATE TABLE events_2020_01 PARTITION OF events"
                " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')"
            )
        )

    def drop() -> None:
        with pair.writer.begin() as uow:
            uow.events.detach_partition("public.events_2020_01", drop=True)

    # The statement before reads the catalog alone, and releases its locks.
    gone = pytest.raises(NotFoundError, match=r"'public\.events_2020_01': no monthly partition of events")
    with after_statement(pair.reader, 1, drop), gone, pair.reader.begin() as uow:
        uow.events.partition_readers("public.events_2020_01")


@pytest.mark.parametrize("operation", READS)
def test_what_is_not_committed_is_not_seen_and_not_waited_for(pair: Pair, operation: str) -> None:
    noun = operation.partition(".")[0]
    old = pair.read(operation)
    with pair.writer.begin() as uow:
        pair.write(noun, uow)
        assert pair.read(operation) == old
        new = pair.read(operation, uow)
    assert new != old
    assert pair.read(operation) == new


@pytest.mark.parametrize("operation", READS)
def test_what_is_committed_between_the_statements_of_a_read_is_seen_whole(pair: Pair, operation: str) -> None:
    noun = operation.partition(".")[0]
    for number in itertools.count(1):
        old = pair.read(operation)
        with after_statement(pair.reader, number, lambda: pair.write(noun)) as ran:
            seen = pair.read(operation)
        if len(ran) < number:
            break
        assert seen in (old, pair.read(operation)), f"after statement {number} of {len(ran)}"
