from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from plans import Explain
from sqlalchemy import func, select, text

from alfred_db import AsyncDatabase, ModelCapability, ModelEndpoint, RegistryModel
from alfred_db.errors import ConflictError, InvalidInputError, NotFoundError
from alfred_db.queries import model_registry as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.model_registry import AsyncModelRegistryRepository
from alfred_db.values.model_registry import ModelEndpointSpec

HOSTILE = "'; DROP TABLE model_registry.models; -- \" % %s :name :: \\ 日本 🜚"


@pytest.fixture
def registry(uow: AsyncUnitOfWork) -> AsyncModelRegistryRepository:
    return AsyncModelRegistryRepository(uow.session)


async def add(
    registry: AsyncModelRegistryRepository,
    name: str,
    *,
    provider: str = "openai",
    model_type: str = "chat",
    endpoints: list[ModelEndpointSpec] | None = None,
    **scores: float,
) -> RegistryModel:
    return await registry.register(
        name,
        display_name=name.title(),
        provider=provider,
        model_type=model_type,
        endpoints=endpoints,
        capabilities=scores or None,
    )


REST: ModelEndpointSpec = {"endpoint_type": "rest", "endpoint_url": "https://a", "auth_type": "bearer"}
GRPC: ModelEndpointSpec = {"endpoint_type": "grpc", "headers": {"x-region": "eu"}}


async def test_one_call_registers_model_endpoints_and_capabilities(
    registry: AsyncModelRegistryRepository,
) -> None:
    model = await registry.register(
        "gpt-4o",
        display_name="GPT-4o",
        provider="openai",
        model_type="chat",
        version="2024-11-20",
        description="Good at much.",
        endpoints=[REST, GRPC],
        capabilities={"chat": 0.9, "vision": 0.8},
    )
    assert (model.display_name, model.version, model.deprecated_at) == ("GPT-4o", "2024-11-20", None)
    found = await registry.endpoints("gpt-4o")
    assert [(row.endpoint_type, row.endpoint_url, row.auth_type, row.headers) for row in found] == [
        ("rest", "https://a", "bearer", None),
        ("grpc", None, None, {"x-region": "eu"}),
    ]
    assert await registry.capabilities("gpt-4o") == {"chat": 0.9, "vision": 0.8}


async def test_registering_again_writes_nothing_new(
    uow: AsyncUnitOfWork, registry: AsyncModelRegistryRepository
) -> None:
    first = await add(registry, "m", endpoints=[REST, GRPC], chat=1, tools=2)
    endpoints = [row.id for row in await registry.endpoints("m")]
    rows = (await uow.session.execute(select(ModelCapability.id, text("xmin::text")))).all()
    again = await add(registry, "m", endpoints=[REST, GRPC], chat=1, tools=2)
    assert again.id == first.id
    assert [row.id for row in await registry.endpoints("m")] == endpoints
    assert (await uow.session.execute(select(ModelCapability.id, text("xmin::text")))).all() == rows


async def test_registering_again_replaces_what_is_passed_and_leaves_the_rest(
    registry: AsyncModelRegistryRepository,
) -> None:
    await add(registry, "m", endpoints=[REST, GRPC], chat=1, tools=2)
    await add(registry, "m", endpoints=[GRPC, REST])
    assert [row.endpoint_type for row in await registry.endpoints("m")] == ["grpc", "rest"]
    assert await registry.capabilities("m") == {"chat": 1, "tools": 2}
    await add(registry, "m", tools=3, vision=4)
    assert [row.endpoint_type for row in await registry.endpoints("m")] == ["grpc", "rest"]
    assert await registry.capabilities("m") == {"tools": 3, "vision": 4}
    await registry.register(
        "m", display_name="M", provider="p", model_type="chat", endpoints=[], capabilities={}
    )
    assert list(await registry.endpoints("m")) == []
    assert await registry.capabilities("m") == {}


async def test_registering_does_not_undo_a_deprecation(registry: AsyncModelRegistryRepository) -> None:
    await add(registry, "m")
    await registry.deprecate("m")
    assert (await add(registry, "m")).deprecated_at is not None
    assert (await registry.update("m", {"deprecated_at": None})).deprecated_at is None


async def test_update_changes_what_is_named(registry: AsyncModelRegistryRepository) -> None:
    before = await add(registry, "m", chat=1)
    known = before.id
    after = await registry.update("m", {"description": "new", "provider": "azure"})
    assert (after.id, after.description, after.provider, after.display_name) == (known, "new", "azure", "M")
    renamed = await registry.update("m", {"name": "n"})
    assert renamed.id == known
    assert await registry.get("m") is None
    assert await registry.capabilities("n") == {"chat": 1}


async def test_a_deprecated_model_is_not_chosen_and_can_be_read(
    registry: AsyncModelRegistryRepository,
) -> None:
    await add(registry, "old", endpoints=[REST], chat=9)
    await add(registry, "new", chat=5)
    best = await registry.find_best("chat")
    assert best is not None
    assert (best.model.name, best.score) == ("old", 9)
    earlier = datetime.now(UTC) - timedelta(days=2)
    await registry.deprecate("old")
    assert (await registry.deprecate("old", at=earlier)).deprecated_at == earlier
    assert (await registry.deprecate("old")).deprecated_at == earlier
    best = await registry.find_best("chat")
    assert best is not None
    assert best.model.name == "new"
    assert [model.name for model in await registry.list()] == ["new"]
    assert [model.name for model in await registry.list(deprecated=True)] == ["new", "old"]
    assert (await registry.select_endpoint("old")).endpoint_url == "https://a"
    assert await registry.get("old") is not None


async def test_a_deprecation_can_be_announced(registry: AsyncModelRegistryRepository) -> None:
    await add(registry, "m", chat=1)
    await registry.deprecate("m", at=datetime.now(UTC) + timedelta(days=30))
    assert await registry.find_best("chat") is not None
    assert len(await registry.list()) == 1


async def test_the_best_is_found_by_score_provider_and_type(registry: AsyncModelRegistryRepository) -> None:
    await add(registry, "b", provider="openai", chat=3)
    await add(registry, "a", provider="openai", chat=3)
    await add(registry, "c", provider="azure", chat=2)
    await add(registry, "d", provider="azure", model_type="reasoning", chat=1, code=9)

    async def best(capability: str, **conditions: Any) -> str | None:
        found = await registry.find_best(capability, **conditions)
        return None if found is None else found.model.name

    assert await best("chat") == "a"
    assert await best("chat", provider="azure") == "c"
    assert await best("chat", model_type="reasoning") == "d"
    assert await best("chat", provider="openai", model_type="reasoning") is None
    assert await best("chat", min_score=3) == "a"
    assert await best("chat", min_score=3.1) is None
    assert await best("fly") is None
    ranked = await registry.rank("chat", limit=3)
    assert [(found.model.name, found.score) for found in ranked] == [("a", 3), ("b", 3), ("c", 2)]


async def test_the_index_finds_who_does_it_best(uow: AsyncUnitOfWork) -> None:
    await uow.session.execute(
        text(
            "INSERT INTO model_registry.models (name, display_name, provider, model_type)"
            " SELECT 'm' || n, '', 'p', 'chat' FROM generate_series(1, 3000) AS n"
        )
    )
    await uow.session.execute(
        text(
            "INSERT INTO model_registry.model_capabilities (model_id, capability, capability_score)"
            " SELECT id, 'c' || c, id % 100 FROM model_registry.models, generate_series(1, 5) AS c"
        )
    )
    for table in ("models", "model_capabilities"):
        await uow.session.execute(text(f"ANALYZE model_registry.{table}"))
    statement = queries.by_capability("c3", min_score=None, provider=None, model_type=None, limit=1)
    plan = "\n".join(await uow.session.scalars(Explain(statement)))
    assert "Index Scan Backward using idx_model_capabilities_capability_capability_score" in plan


async def test_models_are_listed_by_provider_and_type_a_page_at_a_time(
    registry: AsyncModelRegistryRepository,
) -> None:
    for number in range(7):
        await add(registry, f"m{number}", provider="openai" if number % 2 else "azure")
    await add(registry, "e", provider="azure", model_type="embedding")
    assert [model.name for model in await registry.list(provider="openai")] == ["m1", "m3", "m5"]
    assert [model.name for model in await registry.list(provider="azure", model_type="embedding")] == ["e"]
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await registry.list(provider="azure", after=after, limit=2)
        seen += [model.name for model in page]
        after = page.next
        if after is None:
            break
    assert seen == ["e", "m0", "m2", "m4", "m6"]


async def test_an_endpoint_is_selected_in_the_order_of_preference(
    registry: AsyncModelRegistryRepository,
) -> None:
    other: ModelEndpointSpec = {"endpoint_type": "rest", "endpoint_url": "https://b", "auth_type": "api-key"}
    await add(registry, "m", endpoints=[GRPC, REST, other])
    assert (await registry.select_endpoint("m")).endpoint_type == "grpc"
    assert (await registry.select_endpoint("m", endpoint_type="rest")).endpoint_url == "https://a"
    assert (await registry.select_endpoint("m", auth_type="api-key")).endpoint_url == "https://b"
    assert len(await registry.endpoints("m", endpoint_type="rest")) == 2
    with pytest.raises(NotFoundError, match="model 'm': no endpoint of type 'soap'"):
        await registry.select_endpoint("m", endpoint_type="soap")
    with pytest.raises(NotFoundError, match="model 'x': not in the registry"):
        await registry.select_endpoint("x")


async def test_what_is_exported_can_be_imported(
    uow: AsyncUnitOfWork, registry: AsyncModelRegistryRepository
) -> None:
    await add(registry, "a", endpoints=[REST, GRPC], chat=0.25, tools=3)
    await add(registry, HOSTILE)
    await registry.deprecate("a")
    document = json.loads(json.dumps(await registry.export_catalog()))
    await uow.session.execute(text("DELETE FROM model_registry.models"))
    assert await uow.session.scalar(select(func.count()).select_from(ModelEndpoint)) == 0
    assert await registry.import_catalog(document) == 2
    assert await registry.export_catalog() == document
    assert await registry.import_catalog(document) == 2
    assert await registry.export_catalog() == document


async def test_an_unknown_model_is_one_clear_error(registry: AsyncModelRegistryRepository) -> None:
    with pytest.raises(NotFoundError, match="model 'x': not in the registry"):
        await registry.update("x", {"provider": "p"})
    with pytest.raises(NotFoundError, match="model 'x': not in the registry"):
        await registry.deprecate("x")
    with pytest.raises(NotFoundError, match="model 'x': not in the registry"):
        await registry.capabilities("x")
    assert await registry.get("x") is None
    assert list(await registry.endpoints("x")) == []


async def test_bad_input_is_one_clear_error(registry: AsyncModelRegistryRepository) -> None:
    await add(registry, "m", chat=1)
    for score in (math.nan, math.inf):
        with pytest.raises(InvalidInputError, match="capability 'chat': expected a finite score"):
            await add(registry, "m", chat=score)
    with pytest.raises(InvalidInputError, match="without endpoint_type"):
        await add(registry, "m", endpoints=[{"endpoint_url": "u"}])  # type: ignore[typeddict-item]
    with pytest.raises(InvalidInputError, match="unknown 'url'"):
        await add(registry, "m", endpoints=[{"endpoint_type": "rest", "url": "u"}])  # type: ignore[typeddict-unknown-key]
    with pytest.raises(InvalidInputError, match="no such attribute"):
        await registry.update("m", {"unknown": "red"})  # type: ignore[typeddict-unknown-key]
    with pytest.raises(InvalidInputError, match="time without time zone"):
        await registry.deprecate("m", at=datetime(2030, 1, 1))
    with pytest.raises(InvalidInputError, match="deprecated_at: a time without time zone"):
        await registry.update("m", {"deprecated_at": datetime(2030, 1, 1)})
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 1,000, got 0"):
        await registry.rank("chat", limit=0)
    with pytest.raises(InvalidInputError, match=r"registry\[0\]: without display_name, provider, model_type"):
        await registry.import_catalog({"registry": [{"name": "m"}]})  # type: ignore[typeddict-item]
    with pytest.raises(InvalidInputError, match="'wishes': no such section"):
        await registry.import_catalog({"wishes": []})  # type: ignore[typeddict-unknown-key]
    assert await registry.capabilities("m") == {"chat": 1}


@pytest.mark.parametrize("place", ["name", "display_name", "provider", "capability", "endpoint"])
async def test_a_nul_character_is_refused(registry: AsyncModelRegistryRepository, place: str) -> None:
    texts = dict.fromkeys(("name", "display_name", "provider", "capability", "endpoint"), "x")
    texts[place] = "a\0b"
    with pytest.raises(InvalidInputError):
        await registry.register(
            texts["name"],
            display_name=texts["display_name"],
            provider=texts["provider"],
            model_type="chat",
            capabilities={texts["capability"]: 1},
            endpoints=[{"endpoint_type": texts["endpoint"]}],
        )


@pytest.mark.parametrize("value", [HOSTILE, "x" * 1_000_000], ids=["hostile", "a megabyte"])
async def test_hostile_text_is_stored_and_never_run(
    registry: AsyncModelRegistryRepository, value: str
) -> None:
    await registry.register(
        value[:1000],
        display_name=value,
        provider=value,
        model_type=value,
        description=value,
        endpoints=[{"endpoint_type": value, "headers": {value[:1000]: value}}],
        capabilities={value[:1000]: 1.0},
    )
    best = await registry.find_best(value[:1000], provider=value, model_type=value)
    assert best is not None
    assert (best.model.name, best.model.description) == (value[:1000], value)
    assert (await registry.select_endpoint(value[:1000], endpoint_type=value)).headers == {
        value[:1000]: value
    }


async def test_of_two_who_register_at_once_one_waits_for_the_other(committed: AsyncDatabase) -> None:
    other: ModelEndpointSpec = {"endpoint_type": "rest", "endpoint_url": "https://b"}
    async with committed.session() as one, committed.session() as two:
        await add(AsyncModelRegistryRepository(one), "m", endpoints=[REST, GRPC], chat=1, tools=1)
        await two.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError) as caught:
            await add(AsyncModelRegistryRepository(two), "m", endpoints=[other], chat=2)
        assert caught.value.retryable
        await two.rollback()
        await one.commit()
        await add(AsyncModelRegistryRepository(two), "m", endpoints=[other], chat=2)
        await two.commit()
        registry = AsyncModelRegistryRepository(one)
        assert [row.endpoint_url for row in await registry.endpoints("m")] == ["https://b"]
        assert await registry.capabilities("m") == {"chat": 2}
        assert len(await registry.list()) == 1
