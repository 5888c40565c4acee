from __future__ import annotations

import time
import uuid
from datetime import timedelta

import pytest
from plans import Explain
from sqlalchemy import func, select, text, update

from alfred_db import Agent, AgentStatus, AsyncDatabase
from alfred_db.errors import InvalidInputError, LeaseLost, NotFoundError
from alfred_db.queries import agents as queries
from alfred_db.repositories import AsyncUnitOfWork


async def test_registering_twice_keeps_the_id_and_makes_a_new_incarnation(uow: AsyncUnitOfWork) -> None:
    first = await uow.agents.register("writer", type="llm", version="1", capabilities=["draft"])
    known, incarnation = first.id, first.incarnation
    second = await uow.agents.register("writer", type="llm", version="2")
    assert second.id == known
    assert second.incarnation != incarnation
    assert (second.version, second.capabilities, second.status) == ("2", [], AgentStatus.ACTIVE)


async def test_a_replaced_incarnation_is_refused(uow: AsyncUnitOfWork) -> None:
    agent = await uow.agents.register("writer", type="llm", version="1")
    replaced = agent.incarnation
    await uow.agents.register("writer", type="llm", version="1")
    with pytest.raises(LeaseLost, match="took its name over"):
        await uow.agents.heartbeat(agent.id, replaced)
    with pytest.raises(LeaseLost, match="took its name over"):
        await uow.agents.deregister(agent.id, replaced)


async def test_alive_is_decided_by_the_databases_clock(uow: AsyncUnitOfWork) -> None:
    agent = await uow.agents.register("writer", type="llm", version="1")
    assert [found.name for found in await uow.agents.list_alive()] == ["writer"]
    await uow.session.execute(update(Agent).values(last_heartbeat=func.now() - timedelta(seconds=61)))
    assert list(await uow.agents.list_alive(within=60)) == []
    beat = await uow.agents.heartbeat(agent.id, agent.incarnation)
    assert beat == await uow.session.scalar(select(Agent.last_heartbeat))
    assert [found.name for found in await uow.agents.list_alive(within=60, type="llm")] == ["writer"]
    assert list(await uow.agents.list_alive(within=60, type="other")) == []


async def test_an_agent_that_pauses_is_not_alive(uow: AsyncUnitOfWork) -> None:
    agent = await uow.agents.register("writer", type="llm", version="1")
    await uow.agents.set_status(agent.id, AgentStatus.MAINTENANCE)
    assert list(await uow.agents.list_alive()) == []
    found = await uow.agents.get(agent.id)
    assert found is not None
    assert found.status is AgentStatus.MAINTENANCE


async def test_agents_are_found_by_all_of_the_capabilities(uow: AsyncUnitOfWork) -> None:
    await uow.agents.register("writer", type="llm", version="1", capabilities=["draft", "edit"])
    await uow.agents.register("reader", type="llm", version="1", capabilities=["edit"])
    assert [agent.name for agent in await uow.agents.find_by_capability("edit")] == ["reader", "writer"]
    assert [agent.name for agent in await uow.agents.find_by_capability("edit", "draft")] == ["writer"]
    await uow.session.execute(update(Agent).values(last_heartbeat=None))
    assert list(await uow.agents.find_by_capability("edit", alive_within=60)) == []


async def test_the_index_serves_the_search_by_capability(uow: AsyncUnitOfWork) -> None:
    for number in range(300):
        uow.session.add(Agent(name=f"a{number}", type="llm", version="1", capabilities=[f"c{number}", "all"]))
    await uow.session.flush()
    await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
    await uow.session.execute(text("SET LOCAL enable_indexscan = off"))  # by name, to the first ten
    plan = await uow.session.scalars(
        Explain(queries.with_capabilities(["c7"], alive_within=None, after=None, limit=10))
    )
    assert "idx_agent_registry_capabilities" in "\n".join(plan)


async def test_deregistering_removes_the_agent(uow: AsyncUnitOfWork) -> None:
    agent = await uow.agents.register("writer", type="llm", version="1")
    await uow.agents.deregister(agent.id, agent.incarnation)
    assert await uow.agents.get(agent.id) is None
    assert await uow.agents.get_by_name("writer") is None


async def test_an_unknown_agent_is_one_clear_error(uow: AsyncUnitOfWork) -> None:
    unknown = uuid.uuid4()
    with pytest.raises(NotFoundError, match=f"agent {unknown}: not registered"):
        await uow.agents.set_status(unknown, AgentStatus.ACTIVE)
    with pytest.raises(LeaseLost, match="deregistered"):
        await uow.agents.heartbeat(unknown, unknown)
    with pytest.raises(InvalidInputError, match="expected one of active, inactive, maintenance"):
        await uow.agents.set_status(unknown, "asleep")  # type: ignore[arg-type]


async def test_pages_cover_everything_once(uow: AsyncUnitOfWork) -> None:
    for number in range(7):
        await uow.agents.register(f"agent-{number}", type="llm", version="1")
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await uow.agents.list(after=after, limit=3)
        seen += [agent.name for agent in page]
        after = page.next
        if after is None:
            break
    assert seen == [f"agent-{number}" for number in range(7)]
    assert len(await uow.agents.list(limit=7)) == 7


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_a_sane_size(uow: AsyncUnitOfWork, limit: int) -> None:
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000"):
        await uow.agents.list(limit=limit)


@pytest.mark.parametrize("cursor", ["", "x", "bm8=", "W10="])
async def test_a_cursor_is_checked(uow: AsyncUnitOfWork, cursor: str) -> None:
    with pytest.raises(InvalidInputError, match="is not a cursor"):
        await uow.agents.list(after=cursor)


async def test_heartbeats_stay_on_their_page(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        agent = await uow.agents.register("writer", type="llm", version="1", capabilities=["draft"])
    for _ in range(50):
        async with committed.begin() as uow:
            await uow.agents.heartbeat(agent.id, agent.incarnation)
    await committed.close()  # a session reports its statistics at its end at the latest
    updates = hot = 0
    deadline = time.monotonic() + 10
    while updates < 50 and time.monotonic() < deadline:
        async with committed.session() as session:
            updates, hot = (await session.execute(_UPDATES, {"table": _qualified(committed)})).one()
    assert updates == 50
    assert hot / updates >= 0.8


_UPDATES = text("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass(:table)")


def _qualified(database: AsyncDatabase) -> str:
    return "agent_registry" if database.schema is None else f"{database.schema}.agent_registry"


async def test_a_failed_unit_of_work_leaves_nothing(committed: AsyncDatabase) -> None:
    async def fail() -> None:
        async with committed.begin() as uow:
            await uow.agents.register("writer", type="llm", version="1")
            raise KeyError("on purpose")

    with pytest.raises(KeyError, match="on purpose"):
        await fail()
    async with committed.begin() as uow:
        assert await uow.agents.get_by_name("writer") is None


async def test_the_tenant_is_the_only_one_that_changes(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await uow.agents.register("writer", type="llm", version="1")
    other = AsyncDatabase(committed.url, schema="acme" if committed.schema is None else None)
    async with other, other.begin() as uow:
        assert await uow.agents.get_by_name("writer") is None
