"""What calls of rate limits return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["RateLimit", "RateLimitMethod", "RateLimitUsage", "RateLimitWindow"]

RateLimitMethod = Literal["fixed-window", "moving-window", "sliding-window", "token-bucket"]
"""How a rate limit counts.

`fixed-window`: at most the limit in each period of the clock. `sliding-window`: the same, with the share of the last
period that is not yet a period ago. `moving-window`: at most the limit in any period, for which the time of each unit is
kept. `token-bucket`: the limit at once, which refills evenly over the period.
"""

RateLimitWindow = Literal["counter", "moving-window", "sliding-window"]
"""What `usage` reads: the counter of `count`, or the window of an algorithm."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The answer of a rate limit; true if it allows the call."""

    allowed: bool
    """Whether it allows the call."""
    remaining: int
    """How much it would still allow now."""
    retry_after: float
    """Seconds until it allows the same call; 0 if it was allowed. Others may take what becomes free."""
    reset_after: float
    """Seconds until it allows the whole limit again."""

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class RateLimitUsage:
    """What was counted for a key."""

    hits: int
    """What was counted in the window."""
    reset_after: float
    """Seconds until the window ends; of a moving window, until its oldest unit leaves it."""
    previous: int = 0
    """What a sliding window has of the window before."""
