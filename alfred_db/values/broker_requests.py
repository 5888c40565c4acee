"""Preparation of rows for a bulk load of the request log of the broker: defaults and costs."""

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
"""The columns that `filled` sets in each row."""

FROM_CATALOG = ("model", "provider", "cost")
"""The columns that it also sets in rows with a hosted model."""


@dataclass(slots=True)
class Hosted:
    """A hosted model as the request log needs it: its codes, and its prices, the oldest first."""

    model: str
    provider: str
    times: list[datetime] = field(default_factory=list[datetime])
    prices: list[tuple[int, int, int, str]] = field(default_factory=list[tuple[int, int, int, str]])
    """Prices of input, output and cached input in billionths (exact as integers), with the currency."""

    def add(self, price: HostedModelPrice) -> None:
        """Append the next price."""
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
        """Return cost and currency of tokens at a time, to the nine decimal places of the column.

        Args:
            at: The time of the request.
            tokens: Input, output and cached tokens.

        Returns:
            None if no price was valid at that time.
        """
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
    """Return the tokens of input, output and cached input; None if the first two are unknown.

    Raises:
        InvalidInputError: A number is negative, or there are more cached tokens than input tokens.
    """
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
    """Yield the values of `names` in each row, with defaults for missing ones.

    A computed cost also sets the currency.

    Args:
        rows: Mappings of attributes.
        names: The attributes to yield; they include FILLED.
        catalog: The hosted models by id.
        now: The time of rows without `created_at`.

    Raises:
        InvalidInputError: A value does not fit its column; the message names the row.
        NotFoundError: A hosted model is not in the catalog.
    """
    blank: dict[str, Any] = dict.fromkeys(names)
    for number, row in enumerate(rows):
        values = {**blank, **row}
        try:
            _fill(values, catalog, now)
        except (InvalidInputError, NotFoundError) as error:
            raise type(error)(f"row {number}: {error}") from None
        except (TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"row {number}: {error}; pass each value in the type of its attribute"
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
        raise InvalidInputError(
            "created_at: a time without time zone; pass one with a time zone, such as datetime.now(UTC)"
        )
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
