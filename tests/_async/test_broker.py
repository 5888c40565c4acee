from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from plans import Explain
from sqlalchemy import func, select, text

from alfred_db import AsyncDatabase, HostedModelPrice, HostingProvider
from alfred_db.errors import ConflictError, InvalidInputError, NotFoundError
from alfred_db.interchange.catalog import read, seed
from alfred_db.queries import broker as queries
from alfred_db.repositories import AsyncUnitOfWork
from alfred_db.repositories._async.broker import AsyncBrokerCatalogRepository

HOSTILE = "'; DROP TABLE brk_registry.model; -- \" % %s :name :: \\ 日本 🜚"
JANUARY, JUNE = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 6, 1, tzinfo=UTC)


@pytest.fixture
def catalog(uow: AsyncUnitOfWork) -> AsyncBrokerCatalogRepository:
    return AsyncBrokerCatalogRepository(uow.session)


async def fill(catalog: AsyncBrokerCatalogRepository) -> None:
    """Two makers, three models, two providers."""
    for code in ("azure", "openai"):
        await catalog.put_provider(code, name=code.title())
    await catalog.put_maker("openai", name="OpenAI")
    await catalog.put_maker("meta", name="Meta")
    await catalog.put_family("gpt", maker="openai", name="GPT")
    await catalog.put_family("llama", maker="meta", name="Llama")
    await catalog.put_model(
        "gpt-4o", family="gpt", name="GPT-4o", capabilities={"chat": True, "vision": True}
    )
    await catalog.put_model("gpt-4", family="gpt", name="GPT-4", capabilities={"chat": True, "vision": False})
    await catalog.put_model("llama-3", family="llama", name="Llama 3", capabilities={"chat": True})
    await catalog.put_snapshot("gpt-4o", "gpt-4o-2024-11-20", name="November", released_at=JANUARY)
    await catalog.put_hosted_model("openai", "gpt-4o-11", model="gpt-4o", snapshot="gpt-4o-2024-11-20")
    await catalog.put_hosted_model("azure", "gpt-4o", model="gpt-4o")
    await catalog.put_hosted_model("azure", "gpt-4", model="gpt-4")
    await catalog.put_hosted_model("azure", "llama", model="llama-3")
    await catalog.put_price(
        "azure", "gpt-4o", input_price=Decimal("5"), output_price=Decimal("15"), valid_from=JANUARY
    )
    await catalog.put_price(
        "azure",
        "gpt-4o",
        input_price=Decimal("2.5"),
        output_price=Decimal("10"),
        cached_input_price=Decimal("1.25"),
        valid_from=JUNE,
    )


async def offers(catalog: AsyncBrokerCatalogRepository, **asked: object) -> list[tuple[str, str]]:
    found = await catalog.find_offers(**asked)  # type: ignore[arg-type]
    return [(offer.provider.code, offer.hosted_model.code) for offer in found]


async def test_the_parts_of_the_catalog_know_each_other(catalog: AsyncBrokerCatalogRepository) -> None:
    await fill(catalog)
    maker, family = await catalog.get_maker("openai"), await catalog.get_family("gpt")
    model, version = (
        await catalog.get_model("gpt-4o"),
        await catalog.get_snapshot("gpt-4o", "gpt-4o-2024-11-20"),
    )
    provider, hosted = (
        await catalog.get_provider("openai"),
        await catalog.get_hosted_model("openai", "gpt-4o-11"),
    )
    assert maker and family and model and version and provider and hosted  # noqa: PT018
    assert (family.maker_id, model.family_id, version.model_id) == (maker.id, family.id, model.id)
    assert (hosted.provider_id, hosted.model_id, hosted.snapshot_id) == (provider.id, model.id, version.id)
    assert (provider.is_active, hosted.is_active, hosted.name, version.released_at) == (
        True,
        True,
        None,
        JANUARY,
    )
    assert (await catalog.get_snapshot("gpt-4", "gpt-4o-2024-11-20"), await catalog.get_maker("x")) == (
        None,
        None,
    )


async def test_putting_again_changes_what_is_passed(catalog: AsyncBrokerCatalogRepository) -> None:
    await fill(catalog)
    before = await catalog.put_provider("azure", name="Azure", is_active=False, metadata={"region": "eu"})
    after = await catalog.put_provider("azure", name="Microsoft Azure")
    assert after.id == before.id
    assert (after.name, after.is_active, after.metadata_) == ("Microsoft Azure", False, {"region": "eu"})
    model = await catalog.put_model("gpt-4o", family="llama", name="GPT-4o", context_window=128_000)
    assert (model.capabilities, model.context_window) == ({"chat": True, "vision": True}, 128_000)
    family = await catalog.get_family("llama")
    assert family is not None
    assert model.family_id == family.id
    hosted = await catalog.put_hosted_model("openai", "gpt-4o-11", model="gpt-4o", name="Four")
    assert (hosted.snapshot_id, hosted.name) == (None, "Four")


async def test_putting_the_same_again_writes_nothing(
    uow: AsyncUnitOfWork, catalog: AsyncBrokerCatalogRepository
) -> None:
    await fill(catalog)
    tables = ("hosting_provider", "model_maker", "model_family", "model", "model_snapshot", "hosted_model")
    rows = " UNION ALL ".join(
        f"SELECT '{table}', id, ctid::text FROM brk_registry.{table}"
        for table in (*tables, "hosted_model_price")
    )
    before = (await uow.session.execute(text(rows))).all()
    await fill(catalog)
    assert (await uow.session.execute(text(rows))).all() == before


async def test_which_hosted_models_are_what_is_asked_for(catalog: AsyncBrokerCatalogRepository) -> None:
    await fill(catalog)
    both = [("azure", "gpt-4o"), ("openai", "gpt-4o-11")]
    assert await offers(catalog, model="gpt-4o") == both
    assert await offers(catalog, family="gpt") == [("azure", "gpt-4"), *both]
    assert await offers(catalog, maker="meta") == [("azure", "llama")]
    assert await offers(catalog, capability="vision") == both
    assert await offers(catalog, capability="chat", provider="azure", family="gpt") == [
        ("azure", "gpt-4"),
        ("azure", "gpt-4o"),
    ]
    assert await offers(catalog, model="gpt-4o", family="llama") == []
    assert await offers(catalog) == [("azure", "gpt-4"), *both, ("azure", "llama")]
    assert await offers(catalog, limit=1) == [("azure", "gpt-4")]
    (offer,) = await catalog.find_offers(model="llama-3")
    assert (offer.model.name, offer.family.name, offer.provider.name, offer.price) == (
        "Llama 3",
        "Llama",
        "Azure",
        None,
    )


async def test_what_takes_no_requests_is_not_offered(catalog: AsyncBrokerCatalogRepository) -> None:
    await fill(catalog)
    await catalog.put_hosted_model("azure", "gpt-4o", model="gpt-4o", is_active=False)
    assert await offers(catalog, model="gpt-4o") == [("openai", "gpt-4o-11")]
    await catalog.put_provider("openai", name="OpenAI", is_active=False)
    assert await offers(catalog, model="gpt-4o") == []
    assert len(await offers(catalog, model="gpt-4o", inactive=True)) == 2


async def test_the_price_is_the_latest_that_is_not_after_the_time(
    catalog: AsyncBrokerCatalogRepository,
) -> None:
    await fill(catalog)

    async def price(at: datetime | None) -> Decimal | None:
        (offer,) = await catalog.find_offers(model="gpt-4o", provider="azure", at=at)
        found = await catalog.get_price("azure", "gpt-4o", at=at)
        assert (found and found.id) == (offer.price and offer.price.id)
        return None if found is None else found.input_price

    moment = timedelta(microseconds=1)
    assert [await price(at) for at in (JANUARY - moment, JANUARY, JUNE - moment, JUNE, None)] == [
        None,
        Decimal("5"),
        Decimal("5"),
        Decimal("2.5"),
        Decimal("2.5"),
    ]
    now = await catalog.put_price("azure", "gpt-4o", input_price=Decimal(1), output_price=Decimal(2))
    assert now.currency == "USD"
    assert await price(None) == 1
    assert await price(JUNE) == Decimal("2.5")
    assert [row.input_price for row in await catalog.list_prices("azure", "gpt-4o")] == [
        Decimal("5"),
        Decimal("2.5"),
        Decimal("1"),
    ]
    assert await catalog.get_price("openai", "gpt-4o-11") is None


async def test_a_price_from_the_same_time_is_corrected(
    uow: AsyncUnitOfWork, catalog: AsyncBrokerCatalogRepository
) -> None:
    await fill(catalog)
    for wrong in (Decimal("0.000000001"), Decimal("6")):
        await catalog.put_price(
            "azure", "gpt-4o", input_price=wrong, output_price=Decimal(7), valid_from=JUNE
        )
    found = await catalog.list_prices("azure", "gpt-4o")
    assert [(row.input_price, row.output_price, row.cached_input_price) for row in found] == [
        (Decimal(5), Decimal(15), None),
        (6, 7, Decimal("1.25")),
    ]
    assert await uow.session.scalar(select(func.count()).select_from(HostedModelPrice)) == 2


async def test_the_indexes_find_offers_and_prices(uow: AsyncUnitOfWork) -> None:
    for statement in (
        "INSERT INTO brk_registry.hosting_provider (code, name) SELECT 'p' || n, '' FROM generate_series(1, 10) n",
        "INSERT INTO brk_registry.model_maker (code, name) SELECT 'm', ''",
        "INSERT INTO brk_registry.model_family (maker_id, code, name) SELECT id, 'f', '' FROM brk_registry.model_maker",
        "INSERT INTO brk_registry.model (family_id, code, name, capabilities) SELECT id, 'm' || n, '',"
        " jsonb_build_object('c' || n % 500, true) FROM brk_registry.model_family, generate_series(1, 5000) n",
        "INSERT INTO brk_registry.hosted_model (provider_id, model_id, code)"
        " SELECT p.id, m.id, m.code FROM brk_registry.hosting_provider p, brk_registry.model m",
        "INSERT INTO brk_registry.hosted_model_price (hosted_model_id, valid_from, input_price, output_price)"
        " SELECT id, now() - n * interval '1 month', 1, 1 FROM brk_registry.hosted_model, generate_series(1, 2) n",
        "ANALYZE brk_registry.model",
        "ANALYZE brk_registry.hosted_model",
        "ANALYZE brk_registry.hosted_model_price",
    ):
        await uow.session.execute(text(statement))
    asked = dict.fromkeys(("model", "family", "maker", "capability", "provider", "at"))
    offers_of = queries.offers(**asked | {"model": "m7"}, inactive=False, limit=100)
    plan = "\n".join(await uow.session.scalars(Explain(offers_of)))
    assert "Backward using uq_hosted_model_price_hosted_model_id_valid_from" in plan
    assert "uq_model_code" in plan
    assert "idx_hosted_model_model_id" in plan
    await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
    able = queries.models(family=None, capability="c7", after=None, limit=1).order_by(None).limit(None)
    assert "idx_model_capabilities" in "\n".join(await uow.session.scalars(Explain(able)))


async def test_lists_come_by_code_a_page_at_a_time(catalog: AsyncBrokerCatalogRepository) -> None:
    await fill(catalog)
    assert [row.code for row in await catalog.list_providers()] == ["azure", "openai"]
    assert [row.code for row in await catalog.list_makers()] == ["meta", "openai"]
    assert [row.code for row in await catalog.list_families()] == ["gpt", "llama"]
    assert [row.code for row in await catalog.list_families(maker="meta")] == ["llama"]
    assert [row.code for row in await catalog.list_models(family="gpt")] == ["gpt-4", "gpt-4o"]
    assert [row.code for row in await catalog.list_models(family="gpt", capability="vision")] == ["gpt-4o"]
    assert [row.code for row in await catalog.list_snapshots("gpt-4o")] == ["gpt-4o-2024-11-20"]
    assert list(await catalog.list_snapshots("x")) == []
    first = await catalog.list_models(limit=2)
    rest = await catalog.list_models(after=first.next, limit=2)
    assert [row.code for row in (*first, *rest)] == ["gpt-4", "gpt-4o", "llama-3"]
    assert rest.next is None


async def test_what_is_exported_can_be_imported(
    uow: AsyncUnitOfWork, catalog: AsyncBrokerCatalogRepository
) -> None:
    await fill(catalog)
    await catalog.put_maker(HOSTILE, name=HOSTILE, metadata={HOSTILE: [1, 2.5, None]})
    exported = await catalog.export_catalog()
    document = json.loads(json.dumps(exported))
    await uow.session.execute(
        text("TRUNCATE brk_registry.hosting_provider, brk_registry.model_maker CASCADE")
    )
    counts = await catalog.import_catalog(document)
    assert counts == {section: len(entries) for section, entries in exported.items()}  # type: ignore[arg-type]
    assert (counts["hosted_models"], counts["prices"]) == (4, 2)
    assert await catalog.export_catalog() == exported
    assert await catalog.import_catalog(document) == counts
    assert await catalog.export_catalog() == exported


async def test_the_seed_is_a_catalog_and_can_be_loaded_again(catalog: AsyncBrokerCatalogRepository) -> None:
    counts = await catalog.import_catalog(read(seed()))
    assert (counts["prices"], min(count for name, count in counts.items() if name != "prices") > 3) == (
        0,
        True,
    )
    assert {"azure", "bedrock", "anthropic"} <= {row.code for row in await catalog.list_providers()}
    assert {"anthropic", "openai", "meta"} <= {row.code for row in await catalog.list_makers()}
    assert {"claude", "gpt", "llama"} <= {row.code for row in await catalog.list_families()}
    found = await offers(catalog, model="claude-3-haiku")
    assert [provider for provider, _ in found] == ["anthropic", "bedrock", "vertex"]
    await catalog.put_provider("azure", name="Ours", is_active=False)
    await catalog.import_catalog(read(seed()))
    azure = await catalog.get_provider("azure")
    assert azure is not None
    assert (azure.name, azure.is_active) == ("Azure OpenAI Service", False)


async def test_what_is_referred_to_must_be_there(catalog: AsyncBrokerCatalogRepository) -> None:
    await fill(catalog)
    with pytest.raises(NotFoundError, match="maker 'x': not in the catalog; put it there first"):
        await catalog.put_family("gpt", maker="x", name="GPT")
    with pytest.raises(NotFoundError, match="family 'x'"):
        await catalog.put_model("gpt-4o", family="x", name="GPT")
    with pytest.raises(NotFoundError, match="model 'x'"):
        await catalog.put_snapshot("x", "s", name="S")
    with pytest.raises(NotFoundError, match="provider 'x'"):
        await catalog.put_hosted_model("x", "gpt", model="gpt-4o")
    with pytest.raises(NotFoundError, match="model 'x'"):
        await catalog.put_hosted_model("azure", "gpt", model="x")
    with pytest.raises(NotFoundError, match="snapshot 'gpt-4/gpt-4o-2024-11-20'"):
        await catalog.put_hosted_model("azure", "gpt", model="gpt-4", snapshot="gpt-4o-2024-11-20")
    with pytest.raises(NotFoundError, match="hosted model 'azure/x'"):
        await catalog.put_price("azure", "x", input_price=Decimal(1), output_price=Decimal(1))
    with pytest.raises(NotFoundError, match="maker 'y'"):
        await catalog.import_catalog({"families": [{"code": "f", "name": "F", "maker": "y"}]})


async def test_bad_input_is_one_clear_error(
    uow: AsyncUnitOfWork, catalog: AsyncBrokerCatalogRepository
) -> None:
    await fill(catalog)
    await uow.session.flush()
    with pytest.raises(InvalidInputError, match="at: a time without time zone"):
        await catalog.find_offers(at=datetime(2025, 1, 1))
    with pytest.raises(InvalidInputError, match="at: a time without time zone"):
        await catalog.get_price("azure", "gpt-4o", at=datetime(2025, 1, 1))
    with pytest.raises(InvalidInputError, match=r"catalog: makers\[1\]: without name"):
        await catalog.import_catalog({"makers": [{"code": "new", "name": "New"}, {"code": "b"}]})  # type: ignore[typeddict-item]
    assert await catalog.get_maker("new") is None
    with pytest.raises(InvalidInputError, match="limit: expected 1 to 10,000, got 0"):
        await catalog.find_offers(limit=0)
    with pytest.raises(InvalidInputError, match="released_at: a time without time zone"):
        await catalog.put_snapshot("gpt-4", "s", name="S", released_at=datetime(2025, 1, 1))
    for price, currency in (
        (Decimal(-1), "USD"),
        (Decimal(1), "dollars"),
        (Decimal("1e12"), "USD"),
        (Decimal("NaN"), "USD"),
    ):
        with pytest.raises(InvalidInputError):
            async with uow.session.begin_nested():
                await catalog.put_price(
                    "azure", "gpt-4o", input_price=price, output_price=Decimal(1), currency=currency
                )
    for window in (0, 2**40):
        with pytest.raises(InvalidInputError):
            async with uow.session.begin_nested():
                await catalog.put_model("gpt-4", family="gpt", name="GPT-4", context_window=window)
    with pytest.raises(InvalidInputError):
        async with uow.session.begin_nested():
            await catalog.put_maker("a\0b", name="x")
    with pytest.raises(InvalidInputError):
        async with uow.session.begin_nested():
            await catalog.put_provider("azure", name="a\0b")


@pytest.mark.parametrize("value", [HOSTILE, "x" * 1_000_000], ids=["hostile", "a megabyte"])
async def test_hostile_text_is_stored_and_never_run(
    catalog: AsyncBrokerCatalogRepository, value: str
) -> None:
    code = value[:1000]
    await catalog.put_provider(code, name=value, metadata={code: value})
    await catalog.put_maker(code, name=value)
    await catalog.put_family(code, maker=code, name=value)
    await catalog.put_model(code, family=code, name=value, capabilities={code: True})
    await catalog.put_hosted_model(code, code, model=code, name=value)
    asked = {"model": code, "family": code, "maker": code, "capability": code, "provider": code}
    (offer,) = await catalog.find_offers(**asked)  # type: ignore[arg-type]
    assert (offer.hosted_model.name, offer.provider.metadata_) == (value, {code: value})


async def test_of_two_who_put_at_once_one_waits_for_the_other(committed: AsyncDatabase) -> None:
    async with committed.session() as one, committed.session() as two:
        first = await AsyncBrokerCatalogRepository(one).put_provider("azure", name="One")
        await two.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(ConflictError) as caught:
            await AsyncBrokerCatalogRepository(two).put_provider("azure", name="Two")
        assert caught.value.retryable
        await two.rollback()
        await one.commit()
        second = await AsyncBrokerCatalogRepository(two).put_provider("azure", name="Two")
        await two.commit()
        assert (second.id, second.name) == (first.id, "Two")
        assert await one.scalar(select(func.count()).select_from(HostingProvider)) == 1


async def test_every_tenant_sees_the_same_catalog(committed: AsyncDatabase) -> None:
    async with committed.begin() as uow:
        await fill(AsyncBrokerCatalogRepository(uow.session))
    other = AsyncDatabase(committed.url, schema="acme" if committed.schema is None else None)
    async with other, other.begin() as uow:
        assert len(await AsyncBrokerCatalogRepository(uow.session).find_offers()) == 4
