"""What the broker's repositories give back when it is more than a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal, TypeAlias

from ..models import BrokerModel, HostedModel, HostedModelPrice, HostingProvider, ModelFamily

__all__ = ["Offer", "Partition", "Usage", "UsageKey"]

UsageKey: TypeAlias = Literal["model", "provider", "agent", "day"]
"""What a roll-up of usage can be by."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model at a provider, and what it costs there."""

    hosted_model: HostedModel
    model: BrokerModel
    family: ModelFamily
    provider: HostingProvider
    price: HostedModelPrice | None
    """The price that holds at the time asked for; None when there is none yet."""


@dataclass(frozen=True, slots=True)
class Usage:
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


@dataclass(frozen=True, slots=True)
class Partition:
    """A part of the request log."""

    name: str
    """Its table, quoted and qualified as SQL wants it."""
    starts_at: datetime | None
    """The first time in it; None in the default partition, which takes what no other one does."""
    ends_at: datetime | None
    """The first time that is no longer in it."""
    rows: int
    """As the last ANALYZE or VACUUM counted them; -1 when none has."""
    size: int
    """Bytes, with indexes."""

    @property
    def is_default(self) -> bool:
        """Whether it takes what no other partition does."""
        return self.starts_at is None
