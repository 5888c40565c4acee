"""Statements about the broker's catalog: rows by their codes, offers with prices, the whole as entries."""

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
    """File a row of the catalog; of a known one, write what is given and differs. Gives it if it was written."""
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
    """The row that has the key which is among the values."""
    columns = inspect(model).columns
    return select(model).where(*(columns[name] == values[name] for name in _KEYS[model]))


# Read by code


def by_code(model: type[Coded], code: str) -> Select[Coded]:
    return select(model).where(model.code == code)


def snapshot(model: str, code: str) -> Select[ModelSnapshot]:
    return snapshots(model).where(ModelSnapshot.code == code)


def snapshots(model: str) -> Select[ModelSnapshot]:
    return (
        select(ModelSnapshot)
        .join(ModelSnapshot.model)
        .where(BrokerModel.code == model)
        .order_by(ModelSnapshot.code)
    )


def hosted_model(provider: str, code: str) -> Select[HostedModel]:
    return select(HostedModel).join(HostedModel.provider).where(*_hosted(provider, code))


def _hosted(provider: str, code: str) -> Sequence[ColumnElement[bool]]:
    return HostingProvider.code == provider, HostedModel.code == code


def providers(*, after: str | None, limit: int) -> Select[HostingProvider]:
    return page(select(HostingProvider), [HostingProvider.code], after=after, limit=limit)


def makers(*, after: str | None, limit: int) -> Select[ModelMaker]:
    return page(select(ModelMaker), [ModelMaker.code], after=after, limit=limit)


def families(*, maker: str | None, after: str | None, limit: int) -> Select[ModelFamily]:
    statement = select(ModelFamily)
    if maker is not None:
        statement = statement.join(ModelFamily.maker).where(ModelMaker.code == maker)
    return page(statement, [ModelFamily.code], after=after, limit=limit)


def models(
    *, family: str | None, capability: str | None, after: str | None, limit: int
) -> Select[BrokerModel]:
    statement = select(BrokerModel)
    if family is not None:
        statement = statement.join(BrokerModel.family).where(ModelFamily.code == family)
    if capability is not None:
        statement = statement.where(_can(capability))
    return page(statement, [BrokerModel.code], after=after, limit=limit)


def _can(capability: str) -> ColumnElement[bool]:
    """Containment, which the GIN index serves."""
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
    """Each with the price that holds `at` that time, or now; None where there is none."""
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
    return _price_at(at).join(HostedModel.provider).where(*_hosted(provider, code))


def _price_at(at: datetime | None) -> Select[HostedModelPrice]:
    """The latest price not after that time, or now, of the hosted model that the caller joins."""
    time: ColumnElement[Any] = func.statement_timestamp() if at is None else literal(at)
    return (
        select(HostedModelPrice)
        .where(HostedModelPrice.hosted_model_id == HostedModel.id, HostedModelPrice.valid_from <= time)
        .order_by(HostedModelPrice.valid_from.desc())
        .limit(1)
    )


def prices(provider: str, code: str) -> Select[HostedModelPrice]:
    return (
        select(HostedModelPrice)
        .join(HostedModelPrice.hosted_model)
        .join(HostedModel.provider)
        .where(*_hosted(provider, code))
        .order_by(HostedModelPrice.valid_from)
    )


# The whole catalog


def everything() -> Select[*tuple[Any, ...]]:
    """The rows of each section of `alfred_db.interchange.catalog`: its fields, as `section.field`, and in a row NULL for all others.

    One statement, so that all are of one moment.
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
