"""Arguments and results of the repository of the model registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from ..models import RegistryModel

__all__ = ["ModelEndpointSpec", "RegistryModelChanges", "ScoredModel"]


class RegistryModelChanges(TypedDict, total=False):
    """The attributes of a model that `update` can set; the others stay."""

    name: str
    display_name: str
    provider: str
    model_type: str
    version: str | None
    description: str | None
    deprecated_at: datetime | None
    created_at: datetime
    updated_at: datetime


class ModelEndpointSpec(TypedDict):
    """An endpoint of a model, as an argument of `register`."""

    endpoint_type: str
    endpoint_url: NotRequired[str | None]
    auth_type: NotRequired[str | None]
    headers: NotRequired[Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A model with its score in a capability."""

    model: RegistryModel
    score: float
    """The score; higher is better."""
