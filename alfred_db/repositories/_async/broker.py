"""The broker's catalog: makers and families of models, providers that host them, and prices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar, cast

from sqlalchemy import null

from ...checks import aware, within
from ...errors import InvalidInputError, NotFoundError, shown
from ...execution._async.last_known import AsyncCatalogReader
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
from ...values.broker_catalog import CatalogDocument

M = TypeVar("M", bound=Base)

MAX_OFFERS = 10_000


class AsyncBrokerCatalogRepository(AsyncCatalogReader):
    """The catalog, shared by all tenants. Rows are identified by their codes.

    `put_...` creates a row or updates the existing one; an argument that is None leaves the stored value
    unchanged.
    """

    async def put_provider(
        self,
        code: str,
        *,
        name: str,
        is_active: bool | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> HostingProvider:
        """Create or update a provider that hosts models."""
        return await self._put(HostingProvider, code=code, name=name, is_active=is_active, metadata_=metadata)

    async def put_maker(
        self, code: str, *, name: str, metadata: Mapping[str, Any] | None = None
    ) -> ModelMaker:
        """Create or update a maker of models."""
        return await self._put(ModelMaker, code=code, name=name, metadata_=metadata)

    async def put_family(
        self, code: str, *, maker: str, name: str, metadata: Mapping[str, Any] | None = None
    ) -> ModelFamily:
        """Create or update a family of models.

        Raises:
            NotFoundError: The maker is unknown.
        """
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
        """Create or update a model.

        Args:
            code: The code of the model.
            family: The code of its family.
            name: The name for people.
            capabilities: Capabilities by name, such as `{"vision": True}`.
            context_window: Tokens.
            max_output_tokens: Tokens.
            metadata: Any JSON.

        Raises:
            NotFoundError: The family is unknown.
        """
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
        """Create or update a version of a model.

        Args:
            model: The code of the model.
            code: The code of the version.
            name: The name for people.
            released_at: When the version was released.
            retired_at: When it was retired, or will be.
            metadata: Any JSON.

        Raises:
            NotFoundError: The model is unknown.
        """
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
        """Create or update a model that a provider hosts.

        Args:
            provider: The code of the provider.
            code: The name under which the provider serves the model.
            model: The code of the model.
            snapshot: The code of the model's version; None is the latest that the provider serves.
            name: The name for people.
            is_active: Whether it takes requests.
            metadata: Any JSON.

        Raises:
            NotFoundError: The provider, the model or the snapshot is unknown.
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
        """Create a price, or correct the one with the same `valid_from`.

        The cost of requests that are already logged does not change.

        Args:
            provider: The code of the provider.
            code: The code of the hosted model.
            input_price: Price of a million input tokens.
            output_price: Price of a million output tokens.
            cached_input_price: Price of a million cached input tokens.
            currency: The currency of the prices.
            valid_from: The time from which the price holds; None is now.

        Raises:
            NotFoundError: The hosted model is unknown.
            InvalidInputError: A price is negative or not finite.
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
        """Return the provider with this code."""
        return await self._first(queries.by_code(HostingProvider, code))

    async def get_maker(self, code: str) -> ModelMaker | None:
        """Return the maker with this code."""
        return await self._first(queries.by_code(ModelMaker, code))

    async def get_family(self, code: str) -> ModelFamily | None:
        """Return the family with this code."""
        return await self._first(queries.by_code(ModelFamily, code))

    async def get_model(self, code: str) -> BrokerModel | None:
        """Return the model with this code."""
        return await self._first(queries.by_code(BrokerModel, code))

    async def get_snapshot(self, model: str, code: str) -> ModelSnapshot | None:
        """Return the snapshot of a model with this code."""
        return await self._first(queries.snapshot(model, code))

    async def get_hosted_model(self, provider: str, code: str) -> HostedModel | None:
        """Return the hosted model with this code of a provider."""
        return await self._first(queries.hosted_model(provider, code))

    async def get_price(
        self, provider: str, code: str, *, at: datetime | None = None
    ) -> HostedModelPrice | None:
        """Return the price that holds at a time, by default now: the latest one that is not later."""
        return await self._first(queries.price(provider, code, _zoned("at", at)))

    async def list_providers(self, *, after: str | None = None, limit: int = 100) -> Page[HostingProvider]:
        """Return a page of the providers, by code."""
        rows = await self._all(queries.providers(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def list_makers(self, *, after: str | None = None, limit: int = 100) -> Page[ModelMaker]:
        """Return a page of the makers, by code."""
        rows = await self._all(queries.makers(after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def list_families(
        self, *, maker: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page[ModelFamily]:
        """Return a page of the families, by code, optionally those of one maker."""
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
        """Return a page of the models, by code, optionally of one family or with one capability."""
        rows = await self._all(queries.models(family=family, capability=capability, after=after, limit=limit))
        return as_page(rows, queries.LIST_KEY, limit)

    async def list_snapshots(self, model: str) -> Sequence[ModelSnapshot]:
        """Return the snapshots of a model, by code; empty for an unknown model."""
        return await self._all(queries.snapshots(model))

    async def list_prices(self, provider: str, code: str) -> Sequence[HostedModelPrice]:
        """Return the past, present and future prices of a hosted model, the oldest first."""
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
        """Return the hosted models that match, with their provider and price, by model and then provider.

        Args:
            model: Only this model.
            family: Only models of this family.
            maker: Only models of this maker.
            capability: Only models with this capability.
            provider: Only models that this provider hosts.
            inactive: Include hosted models that take no requests.
            at: The time of the price; None is now.
            limit: The maximum number of offers, 1 to 10,000.
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

    async def export_catalog(self) -> CatalogDocument:
        """Return the whole catalog as a document of plain JSON values for `import_catalog`."""
        document: dict[str, list[dict[str, Any]]] = {section: [] for section in BROKER_SECTIONS}
        statement = queries.everything()
        fields = statement.selected_columns.keys()
        for row in await self._rows(statement):
            given = exported(dict(zip(fields, row, strict=True)))
            section = next(iter(given)).partition(".")[0]
            document[section].append({name.partition(".")[2]: value for name, value in given.items()})
        return cast("CatalogDocument", document)

    async def import_catalog(self, document: CatalogDocument) -> Mapping[str, int]:
        """Create or update the entries of a document; entries that it does not name are unchanged.

        Returns:
            The number of entries in each section.

        Raises:
            InvalidInputError: An entry is invalid; the message names it. Nothing was written.
            NotFoundError: An entry refers to one that is neither in the document nor in the catalog.
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
            # All imports write in the same order, so that two of them wait for each other instead of deadlocking.
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
    return None if time is None else aware(name, time)
