"""Rows of the broker's request log as they are copied: what is left out is filled in, the cost is worked out."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from ..checks import plain_text
from ..errors import InvalidInputError, NotFoundError
from ..models import BrokerRequestStatus, HostedModelPrice

__all__ = ["FILLED", "FROM_CATALOG", "Hosted", "filled", "token_counts"]

FILLED = ("created_at", "status", "finished_at", "total_tokens", "currency", "metadata_")
"""What `filled` gives each row."""

FROM_CATALOG = ("model", "provider", "cost")
"""What it gives a row with a hosted model, too."""


@dataclass(slots=True)
class Hosted:
    """What the log keeps of a hosted model: its codes, and its prices, the oldest first."""

    model: str
    provider: str
    times: list[datetime] = field(default_factory=list[datetime])
    prices: list[tuple[int, int, int, str]] = field(default_factory=list[tuple[int, int, int, str]])
    """Of input, output and cached input, in billionths: integers are exact, and fast."""

    def add(self, price: HostedModelPrice) -> None:
        """The next price."""
        cached = price.input_price if price.cached_input_price is None else price.cached_input_price
        self.times.append(price.valid_from)
        self.prices.append(
            (
                _billionths(price.input_price),
                _billionths(price.output_price),
                _billionths(cached),
                price.currency,
            )
        )

    def cost(self, at: datetime, tokens: tuple[int, int, int]) -> tuple[Decimal, str] | None:
        """Cost and currency of tokens (input, output, cached) at that time, to nine places as the column has."""
        place = bisect_right(self.times, at)
        if place == 0:
            return None
        input_price, output_price, cached_price, currency = self.prices[place - 1]
        prompt, completion, cached = tokens
        total = input_price * (prompt - cached) + output_price * completion + cached_price * cached
        return Decimal((total + 500_000) // 1_000_000).scaleb(-9), currency


def _billionths(price: Decimal) -> int:
    return int(price.scaleb(9).to_integral_value(ROUND_HALF_UP))


def token_counts(
    prompt: int | None, completion: int | None, cached: int | None
) -> tuple[int, int, int] | None:
    """Tokens of input, output and cached input; None when neither of the first two is known."""
    if prompt is None and completion is None:
        return None
    counts = prompt or 0, completion or 0, cached or 0
    if min(counts) < 0 or counts[2] > counts[0]:
        raise InvalidInputError(
            f"tokens: expected 0 or more, and cached_tokens among prompt_tokens, got prompt {prompt},"
            f" completion {completion}, cached {cached}"
        )
    return counts


def filled(
    rows: Iterable[Mapping[str, Any]],
    names: Sequence[str],
    catalog: Mapping[int, Hosted],
    now: datetime,
) -> Iterator[list[Any]]:
    """The values of `names`, FILLED among them, in each row. With a cost that is worked out goes its currency."""
    blank: dict[str, Any] = dict.fromkeys(names)
    for number, row in enumerate(rows):
        values = {**blank, **row}
        try:
            _fill(values, catalog, now)
        except (InvalidInputError, NotFoundError) as error:
            raise type(error)(f"row {number}: {error}") from None
        except (TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"row {number}: {error}; give each value as its attribute has it"
            ) from None
        yield list(values.values())


def _fill(values: dict[str, Any], catalog: Mapping[int, Hosted], now: datetime) -> None:
    given = values.get
    for name in ("error_code", "error_message"):
        if isinstance(given(name), str):
            values[name] = plain_text(values[name])
    created: datetime = given("created_at") or now
    status = given("status") or BrokerRequestStatus.COMPLETED
    if created.tzinfo is None:
        raise InvalidInputError("created_at: a time without time zone; give one, such as datetime.now(UTC)")
    tokens = token_counts(given("prompt_tokens"), given("completion_tokens"), given("cached_tokens"))
    if tokens is not None and values["total_tokens"] is None:
        values["total_tokens"] = tokens[0] + tokens[1]
    if status != BrokerRequestStatus.PENDING and values["finished_at"] is None:
        values["finished_at"] = created + timedelta(milliseconds=given("latency_ms") or 0)
    if given("hosted_model_id") is not None:
        hosted = catalog.get(values["hosted_model_id"])
        if hosted is None:
            raise NotFoundError(
                f"hosted model {values['hosted_model_id']}: not in the catalog; put it there first"
            )
        values["model"] = values["model"] or hosted.model
        values["provider"] = values["provider"] or hosted.provider
        if tokens is not None and values["cost"] is None and status != BrokerRequestStatus.PENDING:
            priced = hosted.cost(created, tokens)
            if priced is not None:
                values["cost"], values["currency"] = priced
    if not math.isfinite(given("cost") or 0):
        raise InvalidInputError("cost: expected a finite number")
    values["created_at"], values["status"] = created, status
    values["currency"] = values["currency"] or "USD"
    if values["metadata_"] is None:
        values["metadata_"] = {}
