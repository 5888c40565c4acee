"""What the broker's repositories give back when it is more than a row."""

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
"""What a roll-up of usage can be by."""


class NewBrokerRequest(TypedDict, total=False):
    """One request of `log_many`; what is left out is filled in, as `log_many` says."""

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
    """A model at a provider, and what it costs there."""

    hosted_model: HostedModel
    model: BrokerModel
    family: ModelFamily
    provider: HostingProvider
    price: HostedModelPrice | None
    """The price that holds at the time asked for; None when there is none yet."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Requests of one group, added up. What they were not grouped by is None."""

    model: str | None
    provider: str | None
    agent: str | None
    day: date | None
    """In the time zone asked for."""
    currency: str
    requests: int
    failed: int
    """How many of them ended in another way than `completed`."""
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int
    cost: Decimal
    """Sum of the costs that are known, in `currency`."""
    unpriced: int
    """How many of them have ended and have no cost."""
    mean_latency_ms: float | None
