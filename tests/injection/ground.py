"""The rows that the calls refer to."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import text

from alfred_db import ClaimedExecution, ClaimedTask, ClaimedWorkflow
from alfred_db.repositories import UnitOfWork

LONG = 86_400.0
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def vector(dimensions: int) -> list[float]:
    return [1.0] + [0.0] * (dimensions - 1)


@dataclass(frozen=True)
class Ground:
    """What was made, by id; what has a name is called `ground`."""

    folder: Path
    """Files may be written here; `export` is an exported collection."""
    agent: uuid.UUID
    task: ClaimedTask
    document: int
    bank: int
    memory: int
    entry: uuid.UUID
    rag_session: int
    rag_query: int
    working_memory: uuid.UUID
    node: uuid.UUID
    other: uuid.UUID
    hosted: int
    request: int
    requested: datetime
    partition: str
    months: str
    """A partition of the events."""
    scheduled: int
    execution: ClaimedExecution
    workflow: int
    run: ClaimedWorkflow
    """A claimed execution of the workflow, with an event `came`."""
    halted: int
    """A cancelled child of it."""
    suite: int
    case: int
    test_run: int


def build(uow: UnitOfWork, folder: Path) -> Ground:
    """Make the rows, in a tenant that has none."""
    made: dict[str, Any] = {
        "folder": folder,
        "agent": uow.agents.register("ground", type="t", version="1").id,
    }
    _work(uow, made)
    _memory(uow, made)
    _catalogs(uow, made)
    suite = uow.validation.create_suite("ground")
    case = uow.validation.add_case(suite.id, "ground")
    made |= {"suite": suite.id, "case": case.id, "test_run": uow.validation.start_run(suite.id).id}
    uow.validation.record(case.id, "ground", 1)
    node, other = uow.entities.upsert_node("t", "ground"), uow.entities.upsert_node("t", "other")
    uow.entities.upsert_edge(node.id, other.id, "ground", properties={"k": "v"})
    made |= {"node": node.id, "other": other.id}
    return Ground(**made)


def _work(uow: UnitOfWork, made: dict[str, Any]) -> None:
    uow.tasks.enqueue("held", assigned_to="a")
    (made["task"],) = uow.tasks.claim(worker="w", lease=LONG)
    uow.tasks.enqueue("ground", assigned_to="a", task_id="ground", dedupe_key="ground")
    uow.queues.set("ground", ageing=3600.0)
    uow.messages.first_time("ground")
    uow.events.subscribe("ground", ["ground", "other"], start="beginning")
    uow.events.publish("ground", {"k": "v"})
    made["months"] = [part for part in uow.events.partitions() if not part.is_default][-1].name
    scheduled = uow.scheduler.create("ground", "c", schedule_key="ground")[0].id
    uow.scheduler.trigger(scheduled)
    (execution,) = uow.scheduler.claim("w", lease=LONG)
    uow.scheduler.trigger(scheduled)
    made |= {"scheduled": scheduled, "execution": execution}
    workflow = uow.workflows.activate(uow.workflows.define("ground", {"k": "v"})[0].id).id
    uow.workflows.start("ground")
    (run,) = uow.workflows.claim("w", [workflow], lease=LONG)
    uow.workflows.fail(run, "once", delay=0)
    (run,) = uow.workflows.claim("w", [workflow], lease=LONG)  # tried again: a step is written into it, too
    uow.workflows.deliver(run.id, "came", 1)
    uow.workflows.start("ground", idempotency_key="ground")
    halted, _ = uow.workflows.start("ground", parent_id=run.id)
    uow.workflows.cancel(halted.id)
    made |= {"workflow": workflow, "run": run, "halted": halted.id}


def _memory(uow: UnitOfWork, made: dict[str, Any]) -> None:
    made["document"] = uow.documents.add(
        "ground", title="ground", external_id="ground", metadata={"k": "v"}, embedding=vector(384)
    ).id
    uow.spaces.create("ground", kind="documents", model="m", dimensions=3)
    made["bank"] = uow.memory_banks.get_or_create("ground").id
    made["memory"] = uow.memories.remember(made["bank"], "ground", embedding=vector(384)).id
    uow.memories.remember(made["bank"], "ground again", embedding=vector(384))
    made["entry"] = uow.memory_entries.remember("ground", "ground", embedding=vector(768)).id
    uow.conversations.append("ground", "user", "ground")
    session = uow.rag.open("ground").id
    made |= {"rag_session": session, "rag_query": uow.rag.record(session, "ground").id}
    uow.knowledge.create_collection("ground")
    points = [
        {"id": "one", "vector": vector(1536), "payload": {"k": "v"}},
        {"id": "two", "vector": vector(1536)},
    ]
    uow.knowledge.upsert("ground", points)  # type: ignore[arg-type]
    uow.knowledge.set_aliases({"nick": "ground"})
    uow.knowledge.export_to("ground", made["folder"] / "export")
    made["working_memory"] = uow.working_memory.store(
        "ground", "t", content="c", session_id="ground", agent="a", embedding=vector(1536)
    ).id
    if uow.users.get_by_email("ground") is None:
        uow.session.execute(text("INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'ground')"))
        uow.storage.create_bucket("ground")
        uow.storage.create_bucket("empty")
        uow.storage.put("ground", "ground")


def _catalogs(uow: UnitOfWork, made: dict[str, Any]) -> None:
    endpoint = {"endpoint_type": "chat", "endpoint_url": "u", "auth_type": "a", "headers": {"k": "v"}}
    registry, catalog = uow.model_registry, uow.broker_catalog
    names = {"display_name": "d", "provider": "p", "model_type": "t"}
    registry.register("ground", **names, endpoints=[endpoint], capabilities={"c": 0.5})  # type: ignore[list-item]
    catalog.put_provider("ground", name="n")
    catalog.put_maker("ground", name="n")
    catalog.put_family("ground", maker="ground", name="n")
    catalog.put_model("ground", family="ground", name="n", capabilities={"c": True})
    catalog.put_snapshot("ground", "ground", name="n")
    made["hosted"] = catalog.put_hosted_model("ground", "ground", model="ground", snapshot="ground").id
    catalog.put_price("ground", "ground", input_price=Decimal(1), output_price=Decimal(1), valid_from=NOON)
    request = uow.broker_requests.start("ground", model="m", provider="p")
    last = [part for part in uow.broker_requests.partitions() if not part.is_default][-1]
    made |= {"request": request.id, "requested": request.created_at, "partition": last.name}


LATER = NOON + timedelta(days=36_500)
