"""Rows of the broker's request log as they are copied: what is left out is filled in, the cost is worked out."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from .errors import InvalidInputError, NotFoundError
from .models import BrokerRequestStatus, HostedModelPrice

__all__ = ["Hosted", "filled", "token_counts"]


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
    """The values of `names` in each row. What the row says itself is never changed."""
    for number, row in enumerate(rows):
        try:
            values = _filled(row, catalog, now)
        except (InvalidInputError, NotFoundError) as error:
            raise type(error)(f"row {number}: {error}") from None
        except (TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"row {number}: {error}; give each value as its attribute has it"
            ) from None
        yield [values.get(name) for name in names]


def _filled(row: Mapping[str, Any], catalog: Mapping[int, Hosted], now: datetime) -> dict[str, Any]:
    values = {name: value for name, value in row.items() if value is not None}
    given = values.get
    created: datetime = values.setdefault("created_at", now)
    status = values.setdefault("status", BrokerRequestStatus.COMPLETED)
    if created.tzinfo is None:
        raise InvalidInputError("created_at: a time without time zone; give one, such as datetime.now(UTC)")
    if status != BrokerRequestStatus.PENDING and "finished_at" not in values:
        values["finished_at"] = created + timedelta(milliseconds=given("latency_ms", 0))
    tokens = token_counts(given("prompt_tokens"), given("completion_tokens"), given("cached_tokens"))
    if tokens is not None:
        values.setdefault("total_tokens", tokens[0] + tokens[1])
    hosted_model_id = given("hosted_model_id")
    if hosted_model_id is not None:
        hosted = catalog.get(hosted_model_id)
        if hosted is None:
            raise NotFoundError(f"hosted model {hosted_model_id}: not in the catalog; put it there first")
        values.setdefault("model", hosted.model)
        values.setdefault("provider", hosted.provider)
        if tokens is not None and "cost" not in values and status != BrokerRequestStatus.PENDING:
            priced = hosted.cost(created, tokens)
            if priced is not None:
                values["cost"], values["currency"] = priced
    if not math.isfinite(given("cost", 0)):
        raise InvalidInputError("cost: expected a finite number")
    values.setdefault("currency", "USD")
    values.setdefault("metadata_", {})
    return values
