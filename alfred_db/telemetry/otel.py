"""Spans and metrics by OpenTelemetry, for the calls of one database. Needs the extra `otel`.

instrument(db)                     # from here on; a database that is not instrumented runs as if this module were not there
with work(claimed): ...            # in a loop of the application's own: continue the trace of whoever enqueued it

A span has the operation, the table, the number of rows, how it ran, and the type of an error. It never has an argument,
a value of a row, SQL, or the text of an error.
"""

from __future__ import annotations

import inspect
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from functools import cache, cached_property, wraps
from importlib import import_module
from typing import Any, NamedTuple, cast, get_type_hints

from opentelemetry import metrics, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import QueuePool, select

from ..database import AsyncDatabase, Database
from ..engine.session import AloneSession, DirectSession
from ..models import BrokerRequest, BrokerRequestStatus, WorkflowEvent
from ..models.base import table_of
from ..repositories import AsyncUnitOfWork, UnitOfWork
from ..search.results import SearchPath
from ..values.tasks import ClaimedTask
from ..values.workflows import ClaimedWorkflow

__all__ = ["TRACE_EVENT", "instrument", "uninstrument", "work"]

NAME = "alfred_db"
SYSTEM = "postgresql"

TRACE_EVENT = "otel.trace"
"""The event of an execution of a workflow that holds the trace which started it."""

KEPT = 10_000
"""Traces of claimed workflows that are remembered."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)

_TABLES = {
    "broker": "brk_registry.model",
    "broker_requests": "brk_tracking.broker_request",
    "knowledge_collections": "knowledge_collections",
    "knowledge_points": "knowledge_points",
    "knowledge_search": "knowledge_points",
    "memories": "memories",
    "memory_banks": "memory_banks",
    "memory_batches": "memories",
    "memory_consolidation": "memories",
    "memory_entries": "memory_entries",
    "memory_recall": "memories",
    "rag": "rag_queries",
    "scheduler": "scheduler_tasks",
    "scheduler_executions": "scheduler_executions",
    "storage": "storage.objects",
    "tasks": "tasks",
    "task_leases": "tasks",
    "task_maintenance": "tasks",
    "validation": "test_runs",
    "workflow_executions": "workflow_executions",
    "workflow_steps": "workflow_steps",
    "workflows": "workflow_executions",
}
"""The table that the methods of a module of repositories are about, where it is not that of the first model of the noun."""

_ALONE = ("cache", "rate_limits", "web_sessions")
"""The repositories that a database has beside those of its units of work."""

_propagator = TraceContextTextMapPropagator()
_inside: ContextVar[object] = ContextVar("alfred_db_inside", default=None)
_traces: OrderedDict[tuple[int, int], Mapping[str, str]] = OrderedDict()


class _Instruments(NamedTuple):
    """What the spans and measurements of one database are made with."""

    tracer: trace.Tracer
    calls: metrics.Histogram
    handlers: metrics.Histogram
    tokens: metrics.Histogram
    requests: metrics.Histogram
    attributes: Mapping[str, str | int]
    """What all spans of the database have."""


def instrument(
    db: Database | AsyncDatabase,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Make a span and a measurement of each call of the repositories of a database, from its next unit of work on.

    `uow.tasks.enqueue` and `enqueue_many` store the current trace in the metadata of the task, as `traceparent`, and
    `uow.workflows.start` in an event of the execution. Workers that are created afterwards run each handler in a span of
    that trace. Repositories that are created by hand with a session are not instrumented. The tenants that `db.tenant` returns
    are instrumented too. Does nothing if the database is instrumented already.

    Args:
        db: The database.
        tracer_provider: Where the spans go; by default the global provider.
        meter_provider: Where the measurements go; by default the global provider.
    """
    if db.wrap_handler is not None:
        return
    made = _instruments(db, tracer_provider, meter_provider)

    def wrap(handler: Callable[..., Any]) -> Callable[..., Any]:
        return _handler(handler, made)

    db.wrap_handler = wrap
    for noun in _ALONE:
        plain: Any = getattr(db, noun)
        repository: type[Any] = plain.__class__
        traced: Any = object.__new__(_traced(noun, repository, made))
        for name, value in plain.__dict__.items():
            setattr(traced, name, value)
        vars(db)[noun] = traced

    def tenant(of: Database | AsyncDatabase) -> None:
        instrument(of, tracer_provider=tracer_provider, meter_provider=meter_provider)

    db.wrap_tenant = tenant
    for one in db.opened:
        tenant(one)
    if isinstance(db, Database):
        db.unit_of_work = _traced_unit(UnitOfWork, made)
    else:
        db.unit_of_work = _traced_unit(AsyncUnitOfWork, made)


def uninstrument(db: Database | AsyncDatabase) -> None:
    """Take back what `instrument` did, from the next unit of work on; workers that run keep their spans."""
    db.wrap_handler = db.wrap_tenant = None
    for one in db.opened:
        uninstrument(one)
    for noun in _ALONE:
        vars(db).pop(noun, None)
    if isinstance(db, Database):
        db.unit_of_work = UnitOfWork
    else:
        db.unit_of_work = AsyncUnitOfWork


@contextmanager
def work(claimed: ClaimedTask | ClaimedWorkflow) -> Generator[None]:
    """Continue the trace in which a task was enqueued or an execution started; for loops that claim work themselves.

    The handlers of a worker need no such call. An execution is continued in the process that claimed it.
    """
    token = attach(_context_of(claimed))
    try:
        yield
    finally:
        detach(token)


def _context_of(claimed: ClaimedTask | ClaimedWorkflow) -> Context:
    carrier: Mapping[str, Any] = {}
    if isinstance(claimed, ClaimedTask):
        carrier = claimed.metadata
    elif (found := _traces.get((claimed.id, claimed.claim_seq))) is not None:
        carrier = found
    texts = {name: carrier[name] for name in _propagator.fields if isinstance(carrier.get(name), str)}
    return _propagator.extract(texts)


def _carrier() -> dict[str, str]:
    """Return the current trace as texts; empty without one."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


def _instruments(
    db: Database | AsyncDatabase,
    tracer_provider: TracerProvider | None,
    meter_provider: MeterProvider | None,
) -> _Instruments:
    tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
    meter = metrics.get_meter(NAME, meter_provider=meter_provider)
    namespace = db.url.database or ""
    attributes: dict[str, str | int] = {
        "db.system.name": SYSTEM,
        "db.namespace": namespace if db.schema is None else f"{namespace}|{db.schema}",
    }
    if isinstance(db.url.host, str):
        attributes["server.address"] = db.url.host
        attributes["server.port"] = db.url.port or 5432
    pool = db.engine.pool
    if isinstance(pool, QueuePool) and not db.shares_pool:
        named = {**attributes, "db.client.connection.pool.name": namespace}

        def counted(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(pool.checkedout(), {**named, "db.client.connection.state": "used"})
            yield Observation(pool.checkedin(), {**named, "db.client.connection.state": "idle"})

        meter.create_observable_up_down_counter(
            "db.client.connection.count", [counted], "{connection}", "Connections of the pool, by state."
        )

    def histogram(name: str, unit: str, words: str, bounds: Sequence[float]) -> metrics.Histogram:
        return meter.create_histogram(name, unit, words, explicit_bucket_boundaries_advisory=bounds)

    return _Instruments(
        tracer,
        histogram("db.client.operation.duration", "s", "Duration of calls of repositories.", SECONDS),
        histogram("messaging.process.duration", "s", "Duration of handlers.", LONG_SECONDS),
        histogram("gen_ai.client.token.usage", "{token}", "Tokens of requests of the broker.", TOKENS),
        histogram(
            "gen_ai.client.operation.duration", "s", "Duration of requests of the broker.", LONG_SECONDS
        ),
        attributes,
    )


# Calls of repositories


def _traced_unit(unit: type[Any], made: _Instruments) -> Any:
    """Return a class of units of work whose repositories are traced."""
    traced: dict[str, Any] = {}
    for noun, attribute in vars(unit).items():
        if isinstance(attribute, cached_property):
            function: Any = cast("Any", attribute).func
            traced[noun] = _property(noun, _traced(noun, get_type_hints(function)["return"], made))
    return type(unit.__name__, (unit,), traced)


def _property(noun: str, repository: type[Any]) -> Any:
    made: Any = cached_property(lambda unit: repository(unit.session))
    made.__set_name__(None, noun)
    return made


def _traced(noun: str, repository: type[Any], made: _Instruments) -> type[Any]:
    """Return a subclass of a repository with a span in each public method."""
    traced = type(repository.__name__, (repository,), {"__module__": repository.__module__})
    for name, method in inspect.getmembers(repository, inspect.isfunction):
        if not name.startswith("_"):
            # Set afterwards: the base class checks the arguments of methods that the class is made with.
            setattr(traced, name, _method(noun, repository, name, method, made))
    return traced


def _method(
    noun: str, repository: type[Any], name: str, method: Callable[..., Any], made: _Instruments
) -> Callable[..., Any]:
    home = next(base for base in repository.__mro__ if name in vars(base))
    about = _table(home.__module__) or _table(repository.__module__) or noun
    attributes = {**made.attributes, "db.operation.name": f"{noun}.{name}", "db.collection.name": about}
    before = _BEFORE.get((noun, name))
    after = _AFTER.get((noun, name))

    def given(kwargs: dict[str, Any], args: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (args, kwargs) if before is None else before(args, kwargs)

    if inspect.iscoroutinefunction(method):

        @wraps(method)
        async def awaited(self: Any, *args: Any, **kwargs: Any) -> Any:
            call = getattr(repository, name)  # its compiled form, once there is one
            if _inside.get() is self:
                return await call(self, *args, **kwargs)
            with _call(self, attributes, made) as ended:
                args, kwargs = given(kwargs, args)
                result = await call(self, *args, **kwargs)
                if (name, noun) == ("start", "workflows") and result[1] and (carrier := _carrier()):
                    await repository.deliver(self, result[0].id, TRACE_EVENT, carrier)
                if (name, noun) == ("claim", "workflows") and result:
                    _remember(result, await _rows(self, result))
                ended(result)
            if after is not None:
                after(result, made)
            return result

        return awaited

    @wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = getattr(repository, name)
        if _inside.get() is self:
            return call(self, *args, **kwargs)
        with _call(self, attributes, made) as ended:
            args, kwargs = given(kwargs, args)
            result = call(self, *args, **kwargs)
            if (name, noun) == ("start", "workflows") and result[1] and (carrier := _carrier()):
                repository.deliver(self, result[0].id, TRACE_EVENT, carrier)
            if (name, noun) == ("claim", "workflows") and result:
                _remember(result, _rows(self, result))
            ended(result)
        if after is not None:
            after(result, made)
        return result

    return called


@cache
def _table(module_name: str) -> str | None:
    """Return the table that the methods of a class of this module are about."""
    stem = module_name.rpartition(".")[2]
    if stem in _TABLES:
        return _TABLES[stem]
    with suppress(ModuleNotFoundError):
        module: Any = import_module(f"..models.{stem}", __package__)
        for name in module.__all__:
            if hasattr(getattr(module, name), "__table__"):
                return table_of(getattr(module, name)).fullname
    return None


@contextmanager
def _call(
    repository: Any, attributes: Mapping[str, Any], made: _Instruments
) -> Generator[Callable[[Any], None]]:
    """Make the span of a call; what is yielded takes its result."""
    name = f"{attributes['db.operation.name']} {attributes['db.collection.name']}"
    began = time.perf_counter()
    measured = {key: attributes[key] for key in ("db.system.name", "db.operation.name", "db.collection.name")}
    token = _inside.set(repository)
    try:
        with made.tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def ended(result: Any) -> None:
                if span.is_recording():
                    span.set_attribute("db.response.returned_rows", _count(result))
                    span.set_attribute("alfred.path", _path(repository, result))

            try:
                yield ended
            except BaseException as error:
                measured["error.type"] = _failed(span, error)
                span.set_attribute("db.response.returned_rows", 0)
                span.set_attribute("alfred.path", _path(repository, None))
                raise
    finally:
        _inside.reset(token)
        made.calls.record(time.perf_counter() - began, measured)


def _failed(span: Span, error: BaseException) -> str:
    """Mark a span as failed; the text of an error may have values."""
    kind = type(error).__qualname__
    span.set_status(Status(StatusCode.ERROR, kind))
    span.set_attribute("error.type", kind)
    return kind


def _count(result: Any) -> int:
    """Return the number of rows that a result stands for."""
    if result is None:
        return 0
    if isinstance(result, int):  # a number of rows, or whether there was one
        return int(result)
    if isinstance(result, Mapping | list):
        return len(cast("Sized", result))
    for name in ("hits", "items", "rows"):
        inside = getattr(result, name, None)
        if isinstance(inside, Sized):
            return len(inside)
    # A tuple is a row, and whether it was created.
    several = isinstance(result, Sequence) and not isinstance(result, str | bytes | tuple)
    return len(cast("Sized", result)) if several else 1


def _path(repository: Any, result: Any) -> str:
    """Return how a search ran, or what sent the statements."""
    path = getattr(result, "path", None)
    if isinstance(path, SearchPath):
        return str(path)
    session = repository._session
    own = getattr(session, "sync_session", session)
    if isinstance(own, AloneSession):
        return "autocommit"
    return "driver" if isinstance(own, DirectSession) and own.direct else "sqlalchemy"


# Traces of tasks and workflows


def _in_metadata(metadata: object) -> Any:
    """Return the metadata with the current trace, unless it has one; what is no mapping is refused later."""
    if metadata is not None and not isinstance(metadata, Mapping):
        return metadata
    given: dict[str, Any] = dict(cast("Mapping[str, Any]", metadata or {}))
    return given if "traceparent" in given else {**given, **_carrier()}


Given = tuple[tuple[Any, ...], dict[str, Any]]


def _enqueue(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    if not _carrier():
        return args, kwargs
    return args, {**kwargs, "metadata": _in_metadata(kwargs.get("metadata"))}


def _enqueue_many(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    tasks: Any = args[0] if args else kwargs.get("tasks")
    if not _carrier() or not _is_list(tasks):  # refused later
        return args, kwargs
    traced: list[Any] = [_traced_task(task) for task in tasks]
    return ((traced, *args[1:]), kwargs) if args else (args, {**kwargs, "tasks": traced})


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _traced_task(task: Any) -> Any:
    if not isinstance(task, Mapping):
        return task
    given = cast("Mapping[str, Any]", task)
    return {**given, "metadata": _in_metadata(given.get("metadata"))}


def _request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    context = trace.get_current_span().get_span_context()
    if kwargs.get("trace_id") is not None or not context.is_valid:
        return args, kwargs
    return args, {**kwargs, "trace_id": trace.format_trace_id(context.trace_id)}


_BEFORE: dict[tuple[str, str], Callable[[tuple[Any, ...], dict[str, Any]], Given]] = {
    ("tasks", "enqueue"): _enqueue,
    ("tasks", "enqueue_many"): _enqueue_many,
    ("broker_requests", "start"): _request,
}


def _rows(repository: Any, claimed: Sequence[ClaimedWorkflow]) -> Any:
    found = select(WorkflowEvent.execution_id, WorkflowEvent.payload).where(
        WorkflowEvent.execution_id.in_([one.id for one in claimed]), WorkflowEvent.name == TRACE_EVENT
    )
    return repository._rows(found)


def _remember(claimed: Sequence[ClaimedWorkflow], rows: Sequence[Any]) -> None:
    carriers: dict[int, Any] = {
        execution_id: payload for execution_id, payload in rows if isinstance(payload, dict)
    }
    for one in claimed:
        if one.id in carriers:
            _traces[one.id, one.claim_seq] = carriers[one.id]
    while len(_traces) > KEPT:
        _traces.popitem(last=False)


# Handlers of a worker


def _handler(handler: Callable[..., Any], made: _Instruments) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__):

        async def awaited(task: ClaimedTask, lease: Any) -> Any:
            with _process(task, made):
                return await handler(task, lease)

        return awaited

    def called(task: ClaimedTask, lease: Any) -> Any:
        with _process(task, made):
            return handler(task, lease)

    return called


@contextmanager
def _process(task: ClaimedTask, made: _Instruments) -> Generator[None]:
    measured: dict[str, Any] = {
        "messaging.system": NAME,
        "messaging.operation.name": "process",
        "messaging.destination.name": task.queue,
        "alfred.intent": task.intent,
    }
    began = time.perf_counter()
    try:
        with made.tracer.start_as_current_span(
            f"process {task.intent}",
            context=_context_of(task),
            kind=SpanKind.CONSUMER,
            attributes={
                **made.attributes,
                **measured,
                "messaging.operation.type": "process",
                "messaging.message.id": str(task.id),
                "alfred.attempt": task.attempt,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                measured["error.type"] = _failed(span, error)
                raise
    finally:
        made.handlers.record(time.perf_counter() - began, measured)


# Requests of the broker


def _finished(request: BrokerRequest, made: _Instruments) -> None:
    """Make the span of a request to a model from its row in the log, with the names for generative AI."""
    named: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": request.provider,
        "gen_ai.request.model": request.model,
    }
    known = {key: value for key, value in named.items() if value is not None}
    details: dict[str, Any] = {
        "gen_ai.usage.input_tokens": request.prompt_tokens,
        "gen_ai.usage.output_tokens": request.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": request.cached_tokens,
        "gen_ai.conversation.id": request.session_id,
        "gen_ai.agent.name": request.agent_name,
    }
    failed = request.status is not BrokerRequestStatus.COMPLETED
    if failed:
        details["error.type"] = request.error_code or str(request.status)
    ended = request.finished_at or request.created_at
    span = made.tracer.start_span(
        f"chat {request.model}" if request.model else "chat",
        kind=SpanKind.CLIENT,
        attributes={**known, **{key: value for key, value in details.items() if value is not None}},
        start_time=_nanoseconds(request.created_at),
    )
    if failed:
        span.set_status(Status(StatusCode.ERROR, str(request.status)))
    span.end(_nanoseconds(ended))
    made.requests.record((ended - request.created_at).total_seconds(), known)
    for kind, tokens in (("input", request.prompt_tokens), ("output", request.completion_tokens)):
        if tokens is not None:
            made.tokens.record(tokens, {**known, "gen_ai.token.type": kind})


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000


_AFTER: dict[tuple[str, str], Callable[[Any, _Instruments], None]] = {
    ("broker_requests", "finish"): _finished
}
