"""What the broker's repositories give back when it is more than a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, TypeAlias

from ..models import BrokerModel, HostedModel, HostedModelPrice, HostingProvider, ModelFamily

__all__ = ["ModelOffer", "TokenUsage", "TokenUsageKey"]

TokenUsageKey: TypeAlias = Literal["model", "provider", "agent", "day"]
"""What a roll-up of usage can be by."""


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
