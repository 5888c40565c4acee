"""Spans and measurements by OpenTelemetry: each call has a span, none has a value, and traces go on in tasks and workflows."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from injection.ground import Ground
from injection.signatures import methods, repositories
from injection.specimens import SPECIMENS
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_trace_id
from sqlalchemy import URL

import alfred_db.repositories
from alfred_db import (
    AsyncDatabase,
    AsyncLease,
    AsyncWorker,
    Base,
    BrokerRequestStatus,
    CacheRepository,
    ClaimedTask,
    Database,
    TaskRepository,
    Worker,
)
from alfred_db.errors import AlfredDBError, NotFoundError
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.telemetry.otel import TRACE_EVENT, _table, instrument, uninstrument, work
from alfred_db.worker import Lease

TABLE_NAMES = {mapper.local_table.fullname for mapper in Base.registry.mappers}  # type: ignore[attr-defined]
CALLS = {name.partition(",")[0]: make for name, make in SPECIMENS.items()}


class Collected:
    """Providers that keep what they are given in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def instrument(self, db: Database | AsyncDatabase) -> None:
        instrument(db, tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self) -> list[ReadableSpan]:
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found

    def named(self, operation: str) -> list[ReadableSpan]:
        return [one for one in self.spans() if attributes(one).get("db.operation.name") == operation]

    def metrics(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


@pytest.fixture
def collected() -> Collected:
    return Collected()


@pytest.fixture
def db(database_url: URL, collected: Collected) -> Iterator[Database]:
    with Database(database_url) as database:
        collected.instrument(database)
        yield database


def leaves(value: Any) -> Iterator[str]:
    """The texts in the arguments of a call."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value[:10]:
            yield from leaves(inner)


def check(span: ReadableSpan, name: str, arguments: Any) -> None:
    found = attributes(span)
    assert found["db.operation.name"] == name
    assert found["db.system.name"] == "postgresql"
    assert found["db.collection.name"] in TABLE_NAMES
    assert isinstance(found["db.response.returned_rows"], int)
    assert found["alfred.path"]
    assert span.events == ()
    known = {
        "hnsw",
        "exact",
        "driver",
        "sqlalchemy",
        "autocommit",
        *name.split("."),
        found["db.collection.name"],
    }
    for text in leaves(arguments):
        assert text in known or all(text != value for value in found.values()), f"{name}: {text}"
        if len(text) > 40:
            assert all(text not in str(value) for value in found.values())


def test_every_public_method_of_every_repository_has_a_span(
    grounds: tuple[URL, dict[str | None, Ground]], collected: Collected
) -> None:
    """The calls are those of all methods that take a text; the others are wrapped in the same way."""
    url, ground = grounds
    with Database(url) as db:
        collected.instrument(db)
        for name, make in CALLS.items():
            noun, _, method = name.partition(".")
            with db.begin() as uow:
                arguments = make(ground[None])
                given = dict(arguments)
                savepoint = uow.session.begin_nested()
                with suppress(AlfredDBError):
                    getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
                savepoint.rollback()
                uow.session.rollback()
            (span,) = [one for one in collected.spans() if "db.operation.name" in attributes(one)]
            check(span, name, arguments)
        with db.begin() as uow:
            for noun, repository in repositories().items():
                made = type(getattr(uow, noun))
                assert issubclass(made, repository)
                assert made.__name__ == repository.__name__
                for name, function in methods(repository):
                    assert name in vars(made)
                    assert inspect.signature(vars(made)[name]) == inspect.signature(function)


async def test_of_asyncio_too(grounds: tuple[URL, dict[str | None, Ground]], collected: Collected) -> None:
    url, ground = grounds
    async with AsyncDatabase(url, schema="acme") as db:
        collected.instrument(db)
        for name, make in CALLS.items():
            noun, _, method = name.partition(".")
            async with db.begin() as uow:
                arguments = make(ground["acme"])
                given = dict(arguments)
                savepoint = await uow.session.begin_nested()
                with suppress(AlfredDBError):
                    await getattr(getattr(uow, noun), method)(*given.pop("names", ()), **given)
                await savepoint.rollback()
                await uow.session.rollback()
            (span,) = [one for one in collected.spans() if "db.operation.name" in attributes(one)]
            check(span, name, arguments)
            assert str(attributes(span)["db.namespace"]).endswith("|acme")
        await db.cache.get("k")
        assert [attributes(span)["alfred.path"] for span in collected.named("cache.get")] == ["autocommit"]


def test_every_method_has_a_table_of_its_noun() -> None:
    """A new repository has that of its first model, unless another one is named."""
    for repository in (*repositories().values(), *map(asynchronous, repositories().values())):
        for name, _ in methods(repository):
            home = next(base for base in repository.__mro__ if name in vars(base))
            assert (_table(home.__module__) or _table(repository.__module__)) in TABLE_NAMES, name


def asynchronous(repository: type) -> type:
    found: type = getattr(alfred_db.repositories, f"Async{repository.__name__}")
    return found


def test_rows_and_paths(db: Database, collected: Collected) -> None:
    vector = [1.0] + [0.0] * 383
    with db.begin() as uow:
        uow.documents.add_many([{"content": f"d{n}", "embedding": vector} for n in range(3)])
        uow.documents.search(vector, limit=2)
        uow.documents.list(limit=2)
        uow.tasks.enqueue("i")
        uow.tasks.claim(worker="w", limit=5)
        uow.tasks.get_by_task_id("nothing")
        uow.tasks.purge(older_than=0)
    with db.autocommit() as uow:
        uow.tasks.claim(worker="w")
    db.cache.set("k", b"v")
    found = {attributes(span)["db.operation.name"]: attributes(span) for span in collected.spans()}
    rows = {name: one["db.response.returned_rows"] for name, one in found.items()}
    assert rows == {
        "documents.add_many": 3,
        "documents.search": 2,
        "documents.list": 2,
        "tasks.enqueue": 1,
        "tasks.claim": 0,
        "tasks.get_by_task_id": 0,
        "tasks.purge": 0,
        "cache.set": rows["cache.set"],
    }
    assert found["documents.search"]["alfred.path"] in ("exact", "hnsw", "hnsw-iterative")
    assert found["cache.set"]["alfred.path"] == "autocommit"


def test_an_error_is_its_type_and_nothing_else(db: Database, collected: Collected) -> None:
    with pytest.raises(NotFoundError), db.begin() as uow:
        uow.events.read("a consumer whose name is a secret")
    (span,) = collected.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "NotFoundError"
    assert "secret" not in span.to_json()
    (point,) = collected.metrics()["db.client.operation.duration"]
    assert point.attributes["error.type"] == "NotFoundError"


def test_calls_are_measured(db: Database, collected: Collected) -> None:
    with db.begin() as uow:
        for _ in range(3):
            uow.tasks.enqueue("i")
    found = collected.metrics()
    (point,) = found["db.client.operation.duration"]
    assert (point.count, point.attributes["db.operation.name"]) == (3, "tasks.enqueue")
    states = {point.attributes["db.client.connection.state"] for point in found["db.client.connection.count"]}
    assert states == {"used", "idle"}


# Traces that go on


def handle(task: ClaimedTask, lease: Lease) -> None:
    if task.intent == "parent":
        with CURRENT[0].begin() as uow:
            uow.tasks.enqueue("child", parent_task_id=task.id, metadata={"mine": 1})
    if task.intent == "fails":
        raise ValueError("a secret")


CURRENT: list[Database] = []


def test_a_trace_goes_on_in_the_handlers(db: Database, collected: Collected) -> None:
    CURRENT[:] = [db]
    tracer = collected.tracers.get_tracer("test")
    with tracer.start_as_current_span("request") as root, db.begin() as uow:
        uow.tasks.enqueue("parent", {"secret": "content"}, task_id="p")
        uow.tasks.enqueue_many(
            [{"intent": "fails", "max_retries": 0}, {"intent": "many", "metadata": {"a": 1}}]
        )
    with db.begin() as uow:
        uow.tasks.enqueue("alone")
    Worker(db, dict.fromkeys(("parent", "child", "fails", "many", "alone"), handle)).run(
        drain=True, signals=False
    )
    spans = collected.spans()
    processed = {span.name: span for span in spans if span.name.startswith("process ")}
    assert processed.keys() == {
        "process parent",
        "process child",
        "process fails",
        "process many",
        "process alone",
    }
    ids = {span.context.span_id: span for span in spans if span.context is not None}
    for name, span in processed.items():
        assert span.context is not None
        assert (span.context.trace_id == root.get_span_context().trace_id) is (name != "process alone"), name
        if span.parent is not None:
            assert attributes(ids[span.parent.span_id])["db.operation.name"] in (
                "tasks.enqueue",
                "tasks.enqueue_many",
            )
        assert attributes(span)["messaging.destination.name"] == "default"
    child = processed["process child"].parent
    assert child is not None
    enqueued = ids[child.span_id].parent
    assert enqueued is not None
    assert ids[enqueued.span_id] is processed["process parent"]
    assert attributes(processed["process fails"])["error.type"] == "ValueError"
    assert not any("secret" in span.to_json() for span in spans)
    with db.begin() as uow:
        stored = {task.intent: dict(task.metadata_) for task in uow.tasks.list().items}
    assert stored["many"].keys() == {"a", "traceparent"}
    assert stored["child"].keys() == {"mine", "traceparent"}
    assert stored["alone"].keys() == {"traceparent"}, "the span of the call itself"
    points = collected.metrics()["messaging.process.duration"]
    assert {point.attributes["alfred.intent"]: point.count for point in points} == dict.fromkeys(stored, 1)


async def handle_too(task: ClaimedTask, lease: AsyncLease) -> None:
    """Complete the task."""


async def test_and_in_those_of_asyncio(database_url: URL, collected: Collected) -> None:
    async with AsyncDatabase(database_url) as db:
        collected.instrument(db)
        async with db.begin() as uow:
            await uow.tasks.enqueue("i")
        await AsyncWorker(db, {"i": handle_too}).run(drain=True, signals=False)
    spans = {span.name: span for span in collected.spans()}
    enqueued, processed = spans["tasks.enqueue tasks"], spans["process i"]
    assert processed.parent is not None
    assert enqueued.context is not None
    assert processed.parent.span_id == enqueued.context.span_id


def test_a_trace_goes_on_in_workflows_and_loops(db: Database, collected: Collected) -> None:
    tracer = collected.tracers.get_tracer("test")
    with db.begin() as uow:
        workflow = uow.workflows.activate(uow.workflows.define("w", {})[0].id).id
    with tracer.start_as_current_span("request") as root, db.begin() as uow:
        execution, _ = uow.workflows.start("w", idempotency_key="k")
        assert uow.workflows.start("w", idempotency_key="k")[1] is False
        uow.tasks.enqueue("i")
    with db.begin() as uow:
        (run,) = uow.workflows.claim("worker", [workflow])
        (task,) = uow.tasks.claim(worker="worker")
        assert [event.name for event in uow.workflows.events(execution.id)] == [TRACE_EVENT]
    collected.spans()
    for claimed in (run, task):
        with work(claimed), tracer.start_as_current_span("step"):
            pass
        (span,) = collected.spans()
        assert span.context is not None
        assert span.context.trace_id == root.get_span_context().trace_id
    with work(task._replace(metadata={"traceparent": 1})), work(task._replace(metadata={"traceparent": "x"})):
        pass


def test_requests_of_the_broker_have_the_names_for_generative_ai(db: Database, collected: Collected) -> None:
    tracer = collected.tracers.get_tracer("test")
    with tracer.start_as_current_span("agent") as root, db.begin() as uow:
        request = uow.broker_requests.start(
            "r", model="gpt", provider="openai", session_id="s", agent_name="a", request={"secret": "prompt"}
        )
        assert request.trace_id == format_trace_id(root.get_span_context().trace_id)
        uow.broker_requests.finish(
            request.id,
            request.created_at,
            prompt_tokens=10,
            completion_tokens=5,
            cached_tokens=3,
            response={"secret": "r"},
        )
        other = uow.broker_requests.start("r", model="gpt", trace_id="mine")
        assert other.trace_id == "mine"
        uow.broker_requests.finish(
            other.id, other.created_at, status=BrokerRequestStatus.FAILED, error_code="429"
        )
    done, failed = [span for span in collected.spans() if span.name == "chat gpt"]
    assert dict(attributes(done)) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.conversation.id": "s",
        "gen_ai.agent.name": "a",
    }
    assert done.parent is not None
    assert done.parent.span_id == root.get_span_context().span_id
    assert attributes(failed)["error.type"] == "429"
    assert done.start_time is not None
    assert done.end_time is not None
    assert done.end_time >= done.start_time
    found = collected.metrics()
    tokens = {one.attributes["gen_ai.token.type"]: one.sum for one in found["gen_ai.client.token.usage"]}
    assert tokens == {"input": 10, "output": 5}


# Off


def test_a_database_that_is_not_instrumented_runs_the_classes_themselves(
    database_url: URL, collected: Collected
) -> None:
    with Database(database_url) as db:
        for on in (False, True, False):
            (instrument if on else uninstrument)(db)
            instrument(db) if on else None
            with db.begin() as uow:
                assert (type(uow.tasks) is TaskRepository) is not on
                uow.tasks.enqueue("i")
            assert (type(db.cache) is CacheRepository) is not on
            assert (db.wrap_handler is None) is not on
    program = "import sys, alfred_db.telemetry, alfred_db.worker, alfred_db; alfred_db.TaskRepository; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_repository_made_with_a_session_is_not_instrumented(db: Database, collected: Collected) -> None:
    with db.session() as session:
        TaskRepository(session).count()
    assert collected.spans() == []
    assert AsyncUnitOfWork.__name__ == "AsyncUnitOfWork"
