"""Results of the repositories of the broker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal, Required, TypeAlias, TypedDict

from ..models import (
    BrokerModel,
    BrokerRequestStatus,
    HostedModel,
    HostedModelPrice,
    HostingProvider,
    ModelFamily,
)

__all__ = ["ModelOffer", "NewBrokerRequest", "TokenUsage", "TokenUsageKey"]

TokenUsageKey: TypeAlias = Literal["model", "provider", "agent", "day"]
"""What token usage can be grouped by."""


class NewBrokerRequest(TypedDict, total=False):
    """One request of `log_many`, which fills in missing values."""

    request_id: Required[str]
    status: BrokerRequestStatus | str | None
    created_at: datetime | None
    finished_at: datetime | None
    hosted_model_id: int | None
    model: str | None
    provider: str | None
    request: Mapping[str, Any] | None
    response: Mapping[str, Any] | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_tokens: int | None
    latency_ms: int | None
    cost: Decimal | None
    currency: str | None
    error_code: str | None
    error_message: str | None
    agent_name: str | None
    session_id: str | None
    trace_id: str | None
    metadata: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A model at a provider, with its price."""

    hosted_model: HostedModel
    model: BrokerModel
    family: ModelFamily
    provider: HostingProvider
    price: HostedModelPrice | None
    """The price that is valid at the requested time; None if no price is valid."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """The sums of a group of requests. Keys that the requests are not grouped by are None."""

    model: str | None
    provider: str | None
    agent: str | None
    day: date | None
    """The day, in the requested time zone."""
    currency: str
    requests: int
    failed: int
    """Requests that ended in another status than `completed`."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int
    cost: Decimal
    """Sum of the known costs, in `currency`."""
    unpriced: int
    """Completed requests without a cost."""
    mean_latency_ms: float | None
