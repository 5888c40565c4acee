"""The document that the catalogs export and import: a list of entries for each section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Required, TypeAlias, TypedDict

from .model_registry import ModelEndpointSpec

__all__ = ["CatalogDocument"]

Price: TypeAlias = str | float | Decimal
"""A price; text keeps every digit in JSON."""


class CatalogMaker(TypedDict, total=False):
    """A maker of models."""

    code: Required[str]
    name: Required[str]
    metadata: Mapping[str, Any] | None


class CatalogProvider(CatalogMaker, total=False):
    """A provider of models."""

    is_active: bool | None


class CatalogFamily(CatalogMaker, total=False):
    """A family of models; `maker` is the code of the maker."""

    maker: Required[str]


class CatalogModel(CatalogMaker, total=False):
    """A model; `family` is the code of the family."""

    family: Required[str]
    capabilities: Mapping[str, Any] | None
    context_window: int | None
    max_output_tokens: int | None


class CatalogSnapshot(CatalogMaker, total=False):
    """A dated version of a model; times are ISO 8601 with a time zone."""

    model: Required[str]
    released_at: str | None
    retired_at: str | None


class CatalogHostedModel(TypedDict, total=False):
    """A model at a provider."""

    provider: Required[str]
    code: Required[str]
    model: Required[str]
    snapshot: str | None
    name: str | None
    is_active: bool | None
    metadata: Mapping[str, Any] | None


class CatalogPrice(TypedDict, total=False):
    """A price of a million tokens of a hosted model, from a time on."""

    provider: Required[str]
    code: Required[str]
    valid_from: Required[str]
    input_price: Required[Price]
    output_price: Required[Price]
    cached_input_price: Price | None
    currency: str | None


class CatalogRegistryModel(TypedDict, total=False):
    """A model of the model registry."""

    name: Required[str]
    display_name: Required[str]
    provider: Required[str]
    model_type: Required[str]
    version: str | None
    description: str | None
    deprecated_at: str | None
    endpoints: Sequence[ModelEndpointSpec] | None
    capabilities: Mapping[str, float] | None


class CatalogDocument(TypedDict, total=False):
    """The catalog, as `export_catalog` returns it and `import_catalog` accepts it.

    It is JSON that identifies rows by their codes. `registry` belongs to the model registry, the other
    sections to the catalog of the broker. A missing section is left unchanged.
    """

    providers: Sequence[CatalogProvider]
    makers: Sequence[CatalogMaker]
    families: Sequence[CatalogFamily]
    models: Sequence[CatalogModel]
    snapshots: Sequence[CatalogSnapshot]
    hosted_models: Sequence[CatalogHostedModel]
    prices: Sequence[CatalogPrice]
    registry: Sequence[CatalogRegistryModel]
