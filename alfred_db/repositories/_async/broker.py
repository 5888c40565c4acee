"""The broker's catalog: who makes models, who serves them, and at which price."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import null

from ...checks import within
from ...errors import InvalidInputError, NotFoundError, shown
from ...execution._async.base import AsyncRepository
from ...interchange.catalog import BROKER_SECTIONS, entries, exported
from ...models import (
    Base,
    BrokerModel,
    HostedModel,
    HostedModelPrice,
    HostingProvider,
    ModelFamily,
    ModelMaker,
    ModelSnapshot,
)
from ...queries import broker as queries
from ...queries.shapes.functions import func
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.broker import ModelOffer

M = TypeVar("M", bound=Base)

MAX_OFFERS = 10_000


class AsyncBrokerCatalogRepository(AsyncRepository):
    """The catalog, which all tenants share; its rows are named by their codes.

    `put_...` files a row, or brings a known one up to date: what is None stays as it is.
    """

    async def put_provider(
        self,
        code: str,
        *,
        name: str,
        is_active: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> HostingProvider:
        """File who serves models."""
        return await self._put(HostingProvider, code=code, name=name, is_active=is_active, metadata_=metadata)

    async def put_maker(
        self, code: str, *, name: str, metadata: Mapping[str, Any] | None = None
    ) -> ModelMaker:
        """File who makes models."""
        return await self._put(ModelMaker, code=code, name=name, metadata_=metadata)

    async def put_family(
        self, code: str, *, maker: str, name: str, metadata: Mapping[str, Any] | None = None
    ) -> ModelFamily:
        """File a family of models; raises NotFoundError for an unknown maker."""
        parent = _known("maker", maker, await self.get_maker(maker))
        return await self._put(ModelFamily, code=code, maker_id=parent.id, name=name, metadata_=metadata)

    async def put_model(
        self,
        code: str,
        *,
        family: str,
        name: str,
        capabilities: Mapping[str, Any] | None = None,
        context_window: int | None = None,
        max_output_tokens: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BrokerModel:
        """File a model; `capabilities` by name: `{"vision": True}`. Raises NotFoundError for an unknown family."""
        parent = _known("family", family, await self.get_family(family))
        return await self._put(
            BrokerModel,
            code=code,
            family_id=parent.id,
            name=name,
            capabilities=capabilities,
            context_window=context_window,
            max_output_tokens=max_output_tokens,
            metadata_=metadata,
        )

    async def put_snapshot(
        self,
        model: str,
        code: str,
        *,
        name: str,
        released_at: datetime | None = None,
        retired_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> ModelSnapshot:
        """File a version of a model; raises NotFoundError for an unknown model."""
        parent = _known("model", model, await self.get_model(model))
        return await self._put(
            ModelSnapshot,
            model_id=parent.id,
            code=code,
            name=name,
            released_at=_zoned("released_at", released_at),
            retired_at=_zoned("retired_at", retired_at),
            metadata_=metadata,
        )

    async def put_hosted_model(
        self,
        provider: str,
        code: str,
        *,
        model: str,
        snapshot: str | None = None,
        name: str | None = None,
        is_active: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> HostedModel:
        """File that a provider serves a model; without a snapshot of it, whichever is the provider's latest.

        Raises NotFoundError for an unknown provider, model or snapshot.
        """
        version: Any = null()
        if snapshot is not None:
            found = await self.get_snapshot(model, snapshot)
            version = _known("snapshot", f"{model}/{snapshot}", found).id
        return await self._put(
            HostedModel,
            provider_id=_known("provider", provider, await self.get_provider(provider)).id,
            code=code,
            model_id=_known("model", model, await self.get_model(model)).id,
            snapshot_id=version,
            name=name,
            is_active=is_active,
            metadata_=metadata,
        )

    async def put_price(
        self,
        provider: str,
        code: str,
        *,
        input_price: Decimal,
        output_price: Decimal,
        cached_input_price: Decimal | None = None,
        currency: str | None = None,
        valid_from: datetime | None = None,
    ) -> HostedModelPrice:
        """File the price of a million tokens, from `valid_from` or now on; one from the same time is corrected.

        The cost of requests that were logged before does not change. Raises NotFoundError.
        """
        for price in (input_price, output_price, cached_input_price or 0):
            if not (math.isfinite(price) and price >= 0):
                raise InvalidInputError(f"price: expected a finite number of 0 or more, got {price}")
        parent = _known("hosted model", f"{provider}/{code}", await self.get_hosted_model(provider, code))
        return await self._put(
            HostedModelPrice,
            hosted_model_id=parent.id,
            valid_from=_zoned("valid_from", valid_from) or func.now(),
            input_price=input_price,
            output_price=output_price,
            cached_input_price=cached_input_price,
            currency=currency,
        )

    async def _put(self, model: type[M], **given: Any) -> M:
        values = {name: value for name, value in given.items() if value is not None}
        found = await self._write(queries.put(model, values)) or await self._first(
            queries.same(model, values)
        )
        assert found is not None
        return found

    async def get_provider(self, code: str) -> HostingProvider | None:
        """The provider of that code."""
        return await self._first(queries.by_code(HostingProvider, code))

    async def get_maker(self, code: str) -> ModelMaker | None:
        """The maker of that code."""
        return await self._first(queries.by_code(ModelMaker, code))

    async def get_family(self, code: str) -> ModelFamily | None:
        """The family of that code."""
        return await self._first(queries.by_code(ModelFamily, code))

    async def get_model(self, code: str) -> BrokerModel | None:
        """The model of that code."""
        return await self._first(queries.by_code(BrokerModel, code))

    async def get_snapshot(self, model: str, code: str) -> ModelSnapshot | None:
        """The snapshot of that code of a model."""
        return await self._first(queries.snapshot(model, code))

    async def get_hosted_model(self, provider: str, code: str) -> HostedModel | None:
        """What a provider calls by that code."""
        return await self._first(queries.hosted_model(provider, code))

    async def get_price(
        self, provider: str, code: str, *, at: datetime | None = None
    ) -> HostedModelPrice | None:
        """The price that holds at that time, or now: the latest that is not after it."""
        return await self._first(queries.price(provider, code, _zoned("at", at)))

    async def list_providers(self, *, after: str | None = None, limit: int = 100) -> Page[HostingProvider]:
        """The providers by code, a page at a time."""
        rows = await self._all(queries.providers(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def list_makers(self, *, after: str | None = None, limit: int = 100) -> Page[ModelMaker]:
        """The makers by code, a page at a time."""
        rows = await self._all(queries.makers(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def list_families(
        self, *, maker: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[ModelFamily]:
        """The families by code, a page at a time; those of one maker."""
        rows = await self._all(queries.families(maker=maker, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def list_models(
        self,
        *,
        family: str | None = None,
        capability: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[BrokerModel]:
        """The models by code, a page at a time; those of one family, those that can do something."""
        rows = await self._all(queries.models(family=family, capability=capability, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def list_snapshots(self, model: str) -> Sequence[ModelSnapshot]:
        """The snapshots of a model by code; none for an unknown one."""
        return await self._all(queries.snapshots(model))

    async def list_prices(self, provider: str, code: str) -> Sequence[HostedModelPrice]:
        """What a hosted model cost, costs and will cost, the oldest price first."""
        return await self._all(queries.prices(provider, code))

    async def find_offers(
        self,
        *,
        model: str | None = None,
        family: str | None = None,
        maker: str | None = None,
        capability: str | None = None,
        provider: str | None = None,
        inactive: bool = False,
        at: datetime | None = None,
        limit: int = 1000,
    ) -> Sequence[ModelOffer]:
        """Which hosted models are what is asked for, on which provider, at which price; by model, then provider.

        The price is the one that holds `at` that time, or now. `inactive` gives those too that take no requests.
        """
        within("limit", limit, 1, MAX_OFFERS)
        rows = await self._rows(
            queries.offers(
                model=model,
                family=family,
                maker=maker,
                capability=capability,
                provider=provider,
                inactive=inactive,
                at=_zoned("at", at),
                limit=limit,
            )
        )
        return [ModelOffer(*row) for row in rows]

    async def export_catalog(self) -> dict[str, list[dict[str, Any]]]:
        """The whole catalog as a document for `import_catalog`, of plain JSON values."""
        document: dict[str, list[dict[str, Any]]] = {section: [] for section in BROKER_SECTIONS}
        statement = queries.everything()
        fields = statement.selected_columns.keys()
        for row in await self._rows(statement):
            given = exported(dict(zip(fields, row, strict=True)))
            section = next(iter(given)).partition(".")[0]
            document[section].append({name.partition(".")[2]: value for name, value in given.items()})
        return document

    async def import_catalog(self, document: Mapping[str, Any]) -> Mapping[str, int]:
        """File the entries of a document; gives their number in each section. What it does not name stays.

        Raises InvalidInputError, which names the entry, before anything is written, and NotFoundError for
        an entry that refers to one which is neither in the document nor in the catalog.
        """
        found = {section: entries(document, section) for section in BROKER_SECTIONS}
        writers: Mapping[str, Callable[..., Any]] = {
            "providers": self.put_provider,
            "makers": self.put_maker,
            "families": self.put_family,
            "models": self.put_model,
            "snapshots": self.put_snapshot,
            "hosted_models": self.put_hosted_model,
            "prices": self.put_price,
        }
        for section, put in writers.items():
            # In one order, so that two imports wait for each other instead of deadlocking.
            for entry in sorted(found[section], key=_key):
                await put(**entry)
        return {section: len(rows) for section, rows in found.items()}


def _key(entry: Mapping[str, Any]) -> list[str]:
    return [str(entry.get(name)) for name in ("provider", "model", "code", "valid_from")]


def _known(kind: str, code: str, found: M | None) -> M:
    if found is None:
        raise NotFoundError(f"{kind} {shown(code)}: not in the catalog; put it there first")
    return found


def _zoned(name: str, time: datetime | None) -> datetime | None:
    if time is not None and time.tzinfo is None:
        raise InvalidInputError(f"{name}: a time without time zone; give one, such as datetime.now(UTC)")
    return time
