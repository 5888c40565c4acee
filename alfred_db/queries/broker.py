"""Statements about the catalog of the broker: rows by code, offers with prices, and the whole catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, FromClause, Select, false, inspect, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import InstrumentedAttribute, aliased
from sqlalchemy.sql.dml import ReturningInsert

from ..models import (
    Base,
    BrokerModel,
    HostedModel,
    HostedModelPrice,
    HostingProvider,
    ModelFamily,
    ModelMaker,
    ModelSnapshot,
)
from .shapes.functions import func
from .shapes.paging import page

M = TypeVar("M", bound=Base)
Coded = TypeVar("Coded", HostingProvider, ModelMaker, ModelFamily, BrokerModel)

LIST_KEY = ("code",)


_KEYS: Mapping[type[Base], Sequence[str]] = {
    HostingProvider: ["code"],
    ModelMaker: ["code"],
    ModelFamily: ["code"],
    BrokerModel: ["code"],
    ModelSnapshot: ["model_id", "code"],
    HostedModel: ["provider_id", "code"],
    HostedModelPrice: ["hosted_model_id", "valid_from"],
}


def put(model: type[M], values: Mapping[str, Any]) -> ReturningInsert[M]:
    """Insert a row of the catalog, or update the row with the same key.

    An update writes only the passed values, and only if one of them differs. RETURNING is empty if nothing
    was written.
    """
    key, names = _KEYS[model], [inspect(model).columns[name].name for name in values]
    given = dict(values)
    if "updated_at" in model.__table__.c:
        given["updated_at"] = func.now()
        names.append("updated_at")
    statement = insert(model).values(given)
    old, new = model.__table__.c, statement.excluded
    return statement.on_conflict_do_update(
        index_elements=key,
        set_={name: new[name] for name in names if name not in key},
        where=or_(
            *(old[name].is_distinct_from(new[name]) for name in names if name not in (*key, "updated_at"))
        ),
    ).returning(model)


def same(model: type[M], values: Mapping[str, Any]) -> Select[M]:
    """Select the row whose key is the one in `values`."""
    columns = inspect(model).columns
    return select(model).where(*(columns[name] == values[name] for name in _KEYS[model]))


# Read by code


def by_code(model: type[Coded], code: str) -> Select[Coded]:
    """Select a row by its code."""
    return select(model).where(model.code == code)


def snapshot(model: str, code: str) -> Select[ModelSnapshot]:
    """Select a snapshot of a model by the codes of both."""
    return snapshots(model).where(ModelSnapshot.code == code)


def snapshots(model: str) -> Select[ModelSnapshot]:
    """Select the snapshots of a model, ordered by code."""
    return (
        select(ModelSnapshot)
        .join(ModelSnapshot.model)
        .where(BrokerModel.code == model)
        .order_by(ModelSnapshot.code)
    )


def hosted_model(provider: str, code: str) -> Select[HostedModel]:
    """Select a hosted model by the code of its provider and its own code."""
    return select(HostedModel).join(HostedModel.provider).where(*_hosted(provider, code))


def _hosted(provider: str, code: str) -> Sequence[ColumnElement[bool]]:
    return HostingProvider.code == provider, HostedModel.code == code


def providers(*, after: str | None, limit: int) -> Select[HostingProvider]:
    """Select a page of hosting providers, ordered by code."""
    return page(select(HostingProvider), [HostingProvider.code], after=after, limit=limit)


def makers(*, after: str | None, limit: int) -> Select[ModelMaker]:
    """Select a page of model makers, ordered by code."""
    return page(select(ModelMaker), [ModelMaker.code], after=after, limit=limit)


def families(*, maker: str | None, after: str | None, limit: int) -> Select[ModelFamily]:
    """Select a page of model families, ordered by code; only those of `maker` if it is not None."""
    statement = select(ModelFamily)
    if maker is not None:
        statement = statement.join(ModelFamily.maker).where(ModelMaker.code == maker)
    return page(statement, [ModelFamily.code], after=after, limit=limit)


def models(
    *, family: str | None, capability: str | None, after: str | None, limit: int
) -> Select[BrokerModel]:
    """Select a page of models, ordered by code; `family` and `capability` filter if they are not None."""
    statement = select(BrokerModel)
    if family is not None:
        statement = statement.join(BrokerModel.family).where(ModelFamily.code == family)
    if capability is not None:
        statement = statement.where(_can(capability))
    return page(statement, [BrokerModel.code], after=after, limit=limit)


def _can(capability: str) -> ColumnElement[bool]:
    """Whether a model has a capability. The containment test uses the GIN index."""
    return BrokerModel.capabilities.contains({capability: True})


# Offers and prices


def offers(
    *,
    model: str | None,
    family: str | None,
    maker: str | None,
    capability: str | None,
    provider: str | None,
    inactive: bool,
    at: datetime | None,
    limit: int,
) -> Select[HostedModel, BrokerModel, ModelFamily, HostingProvider, HostedModelPrice]:
    """Select hosted models, each with the price that is valid at a time.

    Args:
        model: Code of a model; None for any.
        family: Code of a model family; None for any.
        maker: Code of a maker; None for any.
        capability: A capability that the model must have; None for any.
        provider: Code of a hosting provider; None for any.
        inactive: Whether inactive hosted models, and those of inactive providers, are selected too.
        at: Time at which the price is valid; None is the time of the statement.
        limit: Maximum number of rows.

    Returns:
        A SELECT of hosted model, model, family, provider and price. The price is None if no price is valid at
        that time.
    """
    holding = aliased(HostedModelPrice, _price_at(at).correlate(HostedModel).lateral())
    statement = (
        select(HostedModel, BrokerModel, ModelFamily, HostingProvider, holding)
        .join(BrokerModel, BrokerModel.id == HostedModel.model_id)
        .join(ModelFamily, ModelFamily.id == BrokerModel.family_id)
        .join(HostingProvider, HostingProvider.id == HostedModel.provider_id)
        .outerjoin(holding, holding.hosted_model_id == HostedModel.id)
    )
    if maker is not None:
        statement = statement.join(ModelMaker, ModelMaker.id == ModelFamily.maker_id)
    asked: Sequence[tuple[InstrumentedAttribute[str], str | None]] = (
        (BrokerModel.code, model),
        (ModelFamily.code, family),
        (ModelMaker.code, maker),
        (HostingProvider.code, provider),
    )
    statement = statement.where(*(column == code for column, code in asked if code is not None))
    if capability is not None:
        statement = statement.where(_can(capability))
    if not inactive:
        statement = statement.where(HostedModel.is_active, HostingProvider.is_active)
    return statement.order_by(BrokerModel.code, HostingProvider.code, HostedModel.code).limit(limit)


def price(provider: str, code: str, at: datetime | None) -> Select[HostedModelPrice]:
    """Select the price of a hosted model that is valid at a time; None is the time of the statement."""
    return _price_at(at).join(HostedModel.provider).where(*_hosted(provider, code))


def _price_at(at: datetime | None) -> Select[HostedModelPrice]:
    """Select the latest price that is not after a time.

    The caller joins the hosted model. None is the time of the statement.
    """
    time: ColumnElement[Any] = func.statement_timestamp() if at is None else literal(at)
    return (
        select(HostedModelPrice)
        .where(HostedModelPrice.hosted_model_id == HostedModel.id, HostedModelPrice.valid_from <= time)
        .order_by(HostedModelPrice.valid_from.desc())
        .limit(1)
    )


def prices(provider: str, code: str) -> Select[HostedModelPrice]:
    """Select all prices of a hosted model, the oldest first."""
    return (
        select(HostedModelPrice)
        .join(HostedModelPrice.hosted_model)
        .join(HostedModel.provider)
        .where(*_hosted(provider, code))
        .order_by(HostedModelPrice.valid_from)
    )


# The whole catalog


def everything() -> Select[*tuple[Any, ...]]:
    """Select the rows of all sections of `alfred_db.interchange.catalog`.

    The columns are the fields of all sections, named `section.field`. A row has the fields of one section;
    the others are NULL. It is one statement, so that all sections are read from the same snapshot.
    """
    parts = [statement.subquery(section) for section, statement in _sections().items()]
    joined: FromClause = parts[0]
    for part in parts[1:]:
        joined = joined.join(part, false(), full=True)
    fields = [column.label(f"{part.name}.{name}") for part in parts for name, column in part.c.items()]
    return (
        select(*(field for field in fields if not field.name.endswith(".place")))
        .select_from(joined)
        .order_by(*(part.c.place for part in parts))
    )


def _sections() -> Mapping[str, Select[*tuple[Any, ...]]]:
    hosted, price_, version = HostedModel, HostedModelPrice, ModelSnapshot
    provider, model = HostingProvider.code, BrokerModel.code
    return {
        "providers": select(*_fields(HostingProvider), HostingProvider.is_active, _place(provider)),
        "makers": select(*_fields(ModelMaker), _place(ModelMaker.code)),
        "families": select(
            *_fields(ModelFamily), ModelMaker.code.label("maker"), _place(ModelFamily.code)
        ).join(ModelFamily.maker),
        "models": select(
            *_fields(BrokerModel),
            ModelFamily.code.label("family"),
            BrokerModel.capabilities,
            BrokerModel.context_window,
            BrokerModel.max_output_tokens,
            _place(model),
        ).join(BrokerModel.family),
        "snapshots": select(
            model.label("model"),
            *_fields(version),
            version.released_at,
            version.retired_at,
            _place(model, version.code),
        ).join(version.model),
        "hosted_models": select(
            provider.label("provider"),
            *_fields(hosted),
            model.label("model"),
            version.code.label("snapshot"),
            hosted.is_active,
            _place(provider, hosted.code),
        )
        .join(hosted.provider)
        .join(hosted.model)
        .outerjoin(hosted.snapshot),
        "prices": select(
            provider.label("provider"),
            hosted.code,
            price_.valid_from,
            price_.input_price,
            price_.output_price,
            price_.cached_input_price,
            price_.currency,
            _place(provider, hosted.code, price_.valid_from),
        )
        .join(price_.hosted_model)
        .join(hosted.provider),
    }


def _place(*key: InstrumentedAttribute[Any]) -> ColumnElement[int]:
    return func.row_number().over(order_by=key).label("place")


def _fields(
    model: type[HostingProvider]
    | type[ModelMaker]
    | type[ModelFamily]
    | type[BrokerModel]
    | type[ModelSnapshot]
    | type[HostedModel],
) -> Sequence[ColumnElement[Any]]:
    return (model.code.label("code"), model.name.label("name"), model.metadata_.label("metadata"))
