"""Statements about the request log of the broker.

Statements that know the time of a request filter by `created_at`, so that the server prunes the other
partitions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    Select,
    and_,
    cast,
    column,
    delete,
    extract,
    literal,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import aliased, defer
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate
from sqlalchemy.sql.selectable import LateralFromClause

from ..models import (
    BrokerModel,
    BrokerRequest,
    BrokerRequestStatus,
    HostedModel,
    HostedModelPrice,
    HostingProvider,
)
from ..models.base import table_of
from ..types import Text
from ..values.broker import TokenUsageKey
from .shapes.functions import func
from .shapes.literals import among, any_of, constant, hashed, materialized, number, seconds_ago
from .shapes.paging import page

LIST_KEY = ("created_at", "id")

FAILURES = (BrokerRequestStatus.FAILED, BrokerRequestStatus.CANCELLED, BrokerRequestStatus.TIMEOUT)

_MAX_INTEGER = 2**31 - 1


def start(values: Mapping[str, Any]) -> ReturningInsert[BrokerRequest]:
    """Insert a request."""
    return insert(BrokerRequest).values(dict(values)).returning(BrokerRequest)


def start_hosted(values: Mapping[str, Any], hosted_model_id: int) -> ReturningInsert[BrokerRequest]:
    """Insert a request to a hosted model, with the codes of model and provider from the catalog.

    Inserts no row if the hosted model does not exist.
    """
    columns = BrokerRequest.__mapper__.columns
    given: dict[str, ColumnElement[Any]] = {
        columns[name].name: literal(value, columns[name].type) for name, value in values.items()
    }
    given["hosted_model_id"] = HostedModel.id.expression
    given["model"], given["provider"] = BrokerModel.code.expression, HostingProvider.code.expression
    source = (
        select(*given.values())
        .select_from(HostedModel)
        .join(HostedModel.model)
        .join(HostedModel.provider)
        .where(HostedModel.id == hosted_model_id)
    )
    rows = materialized(source, "hosted")
    return insert(BrokerRequest).from_select(list(given), select(*rows.c)).returning(BrokerRequest)


def finish(
    request: int, created_at: datetime, values: Mapping[str, Any], tokens: tuple[int, int, int] | None
) -> ReturningUpdate[BrokerRequest]:
    """Finish a pending request, with the cost of its tokens at the price that was valid at `created_at`.

    Args:
        request: Id of the request.
        created_at: The time in its row.
        values: Columns to write. Without `latency_ms`, the time since `created_at` is written.
        tokens: Input, output and cached tokens; None leaves the cost unchanged.
    """
    old = aliased(BrokerRequest)
    passed = func.round(
        extract("epoch", func.statement_timestamp() - old.created_at) * literal_column("1000::numeric")
    )
    latency = cast(func.least(func.greatest(passed, 0), _MAX_INTEGER), Integer)
    source = select(old.id, latency.label("latency_ms")).where(
        old.id == request, old.created_at == created_at
    )
    if tokens is None:
        source = source.add_columns(old.cost, old.currency)
    else:
        price = _price_then(old)
        currency = func.coalesce(price.c.currency, old.currency)
        source = source.outerjoin(price, true()).add_columns(
            _cost(price.c, tokens).label("cost"), currency.label("currency")
        )
    found = source.cte("found")
    new: dict[str, Any] = {
        "finished_at": func.statement_timestamp(),
        "cost": found.c.cost,
        "currency": found.c.currency,
        "latency_ms": found.c.latency_ms,
        **values,
    }
    return (
        update(BrokerRequest)
        .where(
            BrokerRequest.id == found.c.id,
            BrokerRequest.id == request,
            BrokerRequest.created_at == created_at,
            BrokerRequest.status == BrokerRequestStatus.PENDING,
        )
        .values(new)
        .returning(BrokerRequest)
    )


def _price_then(request: type[BrokerRequest]) -> LateralFromClause:
    """The price that was valid when the request was made."""
    price = HostedModelPrice
    return (
        select(price.input_price, price.output_price, price.cached_input_price, price.currency)
        .where(price.hosted_model_id == request.hosted_model_id, price.valid_from <= request.created_at)
        .order_by(price.valid_from.desc())
        .limit(1)
        .correlate(request)
        .lateral()
    )


def _cost(price: Any, tokens: tuple[int, int, int]) -> ColumnElement[Any]:
    """The cost of tokens; NULL if no price was valid.

    NUMERIC throughout, and therefore exact; only operators of pg_catalog are used.
    """
    prompt, completion, cached = map(Decimal, tokens)
    total: ColumnElement[Any] = (
        price.input_price * (prompt - cached)
        + price.output_price * completion
        + func.coalesce(price.cached_input_price, price.input_price) * cached
    )
    return total * literal(Decimal("0.000001"))


def get(request: int, created_at: datetime) -> Select[BrokerRequest]:
    """Select a request by id and time."""
    return select(BrokerRequest).where(BrokerRequest.id == request, BrokerRequest.created_at == created_at)


def attempts(request_id: str, since: datetime | None) -> Select[BrokerRequest]:
    """Select the attempts with a request id, newest first."""
    statement = select(BrokerRequest).where(BrokerRequest.request_id == request_id)
    if since is not None:
        statement = statement.where(BrokerRequest.created_at >= since)
    return statement.order_by(BrokerRequest.created_at.desc(), BrokerRequest.id.desc())


def recent(
    *,
    since: datetime | None,
    until: datetime | None,
    model: str | None,
    provider: str | None,
    agent_name: str | None,
    session_id: str | None,
    status: BrokerRequestStatus | None,
    contents: bool,
    after: str | None,
    limit: int,
) -> Select[BrokerRequest]:
    """Select a page of requests, newest first.

    Args:
        since: Earliest time, inclusive.
        until: Latest time, exclusive.
        model: Code of a model.
        provider: Code of a provider.
        agent_name: Name of an agent.
        session_id: Id of a session.
        status: A status.
        contents: Whether `request` and `response` are read; without, access to them raises.
        after: Cursor of the previous page.
        limit: Size of the page.
    """
    conditions: list[ColumnElement[bool]] = []
    if model is not None:
        conditions.append(BrokerRequest.model == model)
    if status == BrokerRequestStatus.PENDING:  # a literal, as the index is of these only
        conditions.append(BrokerRequest.status == constant(BrokerRequestStatus.PENDING))
    elif status is not None:
        conditions.append(BrokerRequest.status == status)
    conditions += _named(provider, agent_name)
    if session_id is not None:
        conditions += hashed(BrokerRequest.session_id.expression, session_id)
    if since is not None:
        conditions.append(BrokerRequest.created_at >= since)
    if until is not None:
        conditions.append(BrokerRequest.created_at < until)
    statement = select(BrokerRequest).where(*conditions)
    if not contents:
        left_out = (BrokerRequest.request, BrokerRequest.response)
        statement = statement.options(*(defer(column, raiseload=True) for column in left_out))
    key = [BrokerRequest.created_at, BrokerRequest.id]
    return page(statement, key, after=after, limit=limit, newest_first=True)


def _named(provider: str | None, agent_name: str | None) -> list[ColumnElement[bool]]:
    """Return the conditions of a provider and an agent, as their indexes have them."""
    conditions: list[ColumnElement[bool]] = []
    if provider is not None:
        conditions += hashed(BrokerRequest.provider.expression, provider)
    if agent_name is not None:
        hashes = [
            func.hashtext(one, type_=Integer) for one in (BrokerRequest.agent_name, literal(agent_name, Text))
        ]
        conditions += [hashes[0] == hashes[1], BrokerRequest.agent_name == agent_name]
    return conditions


def usage(
    *,
    since: datetime,
    until: datetime,
    by: Collection[TokenUsageKey],
    timezone: str,
    days: Sequence[datetime] | None = None,
    model: str | None,
    provider: str | None,
    agent_name: str | None,
) -> Select[*tuple[Any, ...]]:
    """Sum the requests from `since` to before `until`, for each combination of the keys `by`.

    Currencies are not added up: each one has separate rows. The column of a key that is not in `by` is NULL.

    Args:
        since: Earliest time, inclusive.
        until: Latest time, exclusive.
        by: The keys.
        timezone: The time zone of the days, where `days` is None.
        days: The start of each day from that of `since` on, and the end of the last one. Each day is then summed for
            itself: the server knows how many groups a day has, and hashes its few, where it would sort the requests
            of all days. None computes the day of each request.
        model: Code of a model.
        provider: Code of a provider.
        agent_name: Name of an agent.
    """
    call = BrokerRequest
    conditions: list[ColumnElement[bool]] = [call.created_at >= since, call.created_at < until]
    if model is not None:
        conditions.append(call.model == model)
    conditions += _named(provider, agent_name)
    keys: dict[TokenUsageKey, ColumnElement[Any]] = {
        "model": call.model.expression,
        "provider": call.provider.expression,
        "agent": call.agent_name.expression,
    }
    if days is None or "day" not in by:
        # A subquery, as the parameters of an expression may differ where it is repeated in GROUP BY.
        day = func.date_trunc("day", call.created_at, timezone, type_=DateTime(timezone=True))
        keys["day"] = day
        columns = [one.label(_NAMES[key]) for key, one in keys.items() if key in by]
        summed = [getattr(call, name) for name in ("currency", "status", *_SUMMED, "latency_ms")]
        calls = select(*columns, *summed).where(*conditions).subquery("calls")
        found: dict[TokenUsageKey, ColumnElement[Any]] = {
            key: calls.c[name] for key, name in _NAMES.items() if key in by
        }
        return _sums(calls.c, found).order_by(*found.values(), calls.c.currency)
    starts, ends = (literal(list(part), ARRAY(DateTime(timezone=True))) for part in (days[:-1], days[1:]))
    names = (column(name, DateTime(timezone=True)) for name in ("start", "stop"))
    each = func.unnest(starts, ends).table_valued(*names, name="spans").render_derived()
    summed_up = (
        _sums(table_of(call).c, {key: one for key, one in keys.items() if key in by})
        .where(call.created_at >= each.c.start, call.created_at < each.c.stop, *conditions)
        .correlate(each)
        .lateral("summed_up")
    )
    shown: list[ColumnElement[Any]] = [
        each.c.start.label(one.name) if one.name == _NAMES["day"] else one for one in summed_up.c
    ]
    groups = [each.c.start if key == "day" else summed_up.c[_NAMES[key]] for key in _NAMES if key in by]
    return select(*shown).select_from(each).join(summed_up, true()).order_by(*groups, summed_up.c.currency)


_NAMES: Mapping[TokenUsageKey, str] = {
    "model": "model",
    "provider": "provider",
    "agent": "agent_name",
    "day": "created_at",
}
"""The keys of `usage` in their order, and the names of their columns."""
_SUMMED = ("prompt_tokens", "completion_tokens", "cached_tokens", "total_tokens", "cost")


def _sums(found: Any, keys: Mapping[TokenUsageKey, ColumnElement[Any]]) -> Select[*tuple[Any, ...]]:
    """Sum the columns of requests, grouped by some keys; the column of each other key is NULL."""
    return select(
        *(keys.get(key, null()).label(name) for key, name in _NAMES.items()),
        found.currency,
        func.count().label("requests"),
        func.count().filter(found.status.in_(FAILURES)).label("failed"),
        *(func.coalesce(func.sum(found[name]), 0).label(name) for name in _SUMMED),
        func.count()
        .filter(and_(found.status == BrokerRequestStatus.COMPLETED, found.cost.is_(None)))
        .label("unpriced"),
        cast(func.avg(found.latency_ms), Double).label("mean_latency_ms"),
    ).group_by(*keys.values(), found.currency)


# Reads that complete the rows of a bulk load


def now() -> Select[datetime]:
    """Select the time of the transaction."""
    return select(func.now())


def codes(hosted_models: Collection[int]) -> Select[int, str, str]:
    """Select the id of each hosted model with the codes of its model and provider."""
    return (
        select(HostedModel.id, BrokerModel.code, HostingProvider.code)
        .join(HostedModel.model)
        .join(HostedModel.provider)
        .where(HostedModel.id == any_of(hosted_models, BigInteger()))
    )


def prices(hosted_models: Collection[int]) -> Select[HostedModelPrice]:
    """Select all prices of hosted models, the oldest first for each."""
    return (
        select(HostedModelPrice)
        .where(HostedModelPrice.hosted_model_id == any_of(hosted_models, BigInteger()))
        .order_by(HostedModelPrice.hosted_model_id, HostedModelPrice.valid_from)
    )


def purge(older_than: float, *, limit: int) -> ReturningDelete[int]:
    """Delete requests made more than `older_than` seconds ago, the oldest first; locked rows are skipped."""
    older = BrokerRequest.created_at < seconds_ago(older_than)
    oldest = materialized(
        select(BrokerRequest.id)
        .where(older)
        .order_by(BrokerRequest.created_at)
        .limit(number(limit))
        .with_for_update(skip_locked=True),
        "oldest",
    )
    # The time prunes the partitions; an id alone is looked up in each of them.
    return delete(BrokerRequest).where(among(BrokerRequest.id, oldest), older).returning(BrokerRequest.id)


def purgeable(older_than: float) -> Select[int]:
    """Count the requests that calls of `purge` delete in the end."""
    older = BrokerRequest.created_at < seconds_ago(older_than)
    return select(func.count()).select_from(BrokerRequest).where(older)
