"""Statements about the model registry: models, endpoints and capabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Select,
    all_,
    delete,
    false,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, Insert, insert
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate

from ..models import ModelCapability, ModelEndpoint, RegistryModel
from ..models.base import table_of
from ..types import Text
from .shapes.functions import func
from .shapes.paging import page

LIST_KEY = ("name",)


def register(values: Mapping[str, Any]) -> ReturningInsert[RegistryModel]:
    """Insert a model, or update the passed values of the one with its name.

    The row stays locked until the transaction ends.
    """
    statement = insert(RegistryModel).values(**values, updated_at=func.now())
    changed = {name: statement.excluded[name] for name in (*values, "updated_at") if name != "name"}
    return statement.on_conflict_do_update(index_elements=[RegistryModel.name], set_=changed).returning(
        RegistryModel
    )


def change(name: str, values: Mapping[str, Any]) -> ReturningUpdate[RegistryModel]:
    """Update columns of a model."""
    return update(RegistryModel).where(RegistryModel.name == name).values(**values).returning(RegistryModel)


def deprecate(name: str, at: datetime | None) -> ReturningUpdate[RegistryModel]:
    """Mark a model as deprecated from `at` on, unless it is already deprecated earlier; None is now."""
    time = func.now() if at is None else at
    return (
        update(RegistryModel)
        .where(RegistryModel.name == name)
        .values(deprecated_at=func.least(RegistryModel.deprecated_at, time))
        .returning(RegistryModel)
    )


def get(name: str) -> Select[RegistryModel]:
    """Select a model by its name."""
    return select(RegistryModel).where(RegistryModel.name == name)


def by_capability(
    capability: str, *, min_score: float | None, provider: str | None, model_type: str | None, limit: int
) -> Select[RegistryModel, float]:
    """Select the models in use that have a capability, with their scores, the best first."""
    statement = (
        select(RegistryModel, ModelCapability.capability_score)
        .join(ModelCapability, ModelCapability.model_id == RegistryModel.id)
        .where(ModelCapability.capability == capability, *_chosen(provider, model_type))
    )
    if min_score is not None:
        statement = statement.where(ModelCapability.capability_score >= min_score)
    return statement.order_by(ModelCapability.capability_score.desc(), RegistryModel.name).limit(limit)


def list_(
    *, provider: str | None, model_type: str | None, deprecated: bool, after: str | None, limit: int
) -> Select[RegistryModel]:
    """Select a page of models, ordered by name."""
    conditions = _chosen(provider, model_type, deprecated=deprecated)
    return page(select(RegistryModel).where(*conditions), [RegistryModel.name], after=after, limit=limit)


def _chosen(
    provider: str | None, model_type: str | None, *, deprecated: bool = False
) -> Sequence[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if provider is not None:
        conditions.append(RegistryModel.provider == provider)
    if model_type is not None:
        conditions.append(RegistryModel.model_type == model_type)
    if not deprecated:
        conditions.append(
            or_(
                RegistryModel.deprecated_at.is_(None),
                RegistryModel.deprecated_at > func.statement_timestamp(),
            )
        )
    return conditions


# Endpoints, in the order in which they were passed


def endpoints(model_id: int) -> Select[ModelEndpoint]:
    """Select the endpoints of a model."""
    return select(ModelEndpoint).where(ModelEndpoint.model_id == model_id).order_by(ModelEndpoint.id)


def endpoints_of(name: str, *, endpoint_type: str | None, auth_type: str | None) -> Select[ModelEndpoint]:
    """Select the endpoints of a model by its name; `endpoint_type` and `auth_type` filter if not None."""
    statement = select(ModelEndpoint).join(RegistryModel).where(RegistryModel.name == name)
    if endpoint_type is not None:
        statement = statement.where(ModelEndpoint.endpoint_type == endpoint_type)
    if auth_type is not None:
        statement = statement.where(ModelEndpoint.auth_type == auth_type)
    return statement.order_by(ModelEndpoint.id)


def add_endpoint() -> Insert:
    """Insert endpoints; run it with a list of mappings of columns."""
    return insert(table_of(ModelEndpoint))


def remove_endpoints(model_id: int) -> Delete:
    """Delete all endpoints of a model."""
    return delete(ModelEndpoint).where(ModelEndpoint.model_id == model_id)


# Capabilities


def capabilities(model_id: int) -> Select[ModelCapability]:
    """Select the capabilities of a model, ordered by name."""
    return (
        select(ModelCapability)
        .where(ModelCapability.model_id == model_id)
        .order_by(ModelCapability.capability)
    )


def set_capability() -> Insert:
    """Insert or update capabilities of a model; run it with a list of mappings.

    A capability with the same score is not written.
    """
    statement = insert(table_of(ModelCapability))
    score = ModelCapability.capability_score
    return statement.on_conflict_do_update(
        index_elements=[ModelCapability.model_id, ModelCapability.capability],
        set_={"capability_score": statement.excluded.capability_score},
        where=score.is_distinct_from(statement.excluded.capability_score),
    )


def keep_capabilities(model_id: int, names: Sequence[str]) -> Delete:
    """Delete the capabilities of a model that are not in `names`."""
    return delete(ModelCapability).where(
        ModelCapability.model_id == model_id,
        ModelCapability.capability != all_(literal(list(names), ARRAY(Text))),
    )


# The whole registry


def everything() -> Select[Any, Any, Any]:
    """Select the whole registry: a model, an endpoint or a capability in each row.

    It is one statement, so that everything is read from the same snapshot.
    """
    return (
        select(RegistryModel, ModelEndpoint, ModelCapability)
        .select_from(RegistryModel)
        .join(ModelEndpoint, false(), full=True)
        .join(ModelCapability, false(), full=True)
        .order_by(RegistryModel.name, ModelEndpoint.id, ModelCapability.capability)
    )
