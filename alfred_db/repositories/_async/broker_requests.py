"""The broker's request log: requests to models, their responses and costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any, get_args

from sqlalchemy import Row, inspect

from ...checks import MAX_SECONDS, aware, by_attribute, check_names, check_objects, plain_text, within
from ...cron import zone
from ...errors import InvalidCron, InvalidInputError, InvalidTransition, NotFoundError, shown
from ...execution._async.copy import copy_rows
from ...execution._async.last_known import AsyncCatalogReader
from ...execution._async.partitions import AsyncPartitions
from ...execution.missing import not_found
from ...models import BrokerRequest, BrokerRequestStatus
from ...models.base import table_of
from ...queries import broker_requests as queries
from ...queries.shapes.paging import as_page
from ...values import Page
from ...values.broker import NewBrokerRequest, TokenUsage, TokenUsageKey
from ...values.broker_requests import FILLED, FROM_CATALOG, Hosted, filled, token_counts

MAX_DAYS = 4_000
"""Up to how many days `usage` sums each for itself."""


class AsyncBrokerRequestRepository(AsyncPartitions, AsyncCatalogReader):
    """The tenant's log of requests, partitioned by month.

    `id` and `created_at` together identify a request: keep both until it has ended.
    """

    _partitioned = BrokerRequest

    async def start(
        self,
        request_id: str,
        *,
        hosted_model_id: int | None = None,
        model: str | None = None,
        provider: str | None = None,
        request: Mapping[str, Any] | None = None,
        agent_name: str | None = None,
        session_id: str | None = None,
        trace_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BrokerRequest:
        """Log a request that is being sent.

        Args:
            request_id: The broker's id; it may recur.
            hosted_model_id: The id of a hosted model, whose model and provider are copied from the catalog.
            model: The model, without a hosted model.
            provider: The provider, without a hosted model.
            request: The content of the request.
            agent_name: The agent that sends it.
            session_id: The session that it belongs to.
            trace_id: The trace that it belongs to.
            metadata: Any JSON.

        Raises:
            NotFoundError: The hosted model is unknown.
        """
        values = {
            "request_id": request_id,
            "request": request,
            "agent_name": agent_name,
            "session_id": session_id,
            "trace_id": trace_id,
            "metadata_": dict(metadata or {}),
        }
        if hosted_model_id is None:
            started = await self._write(queries.start({**values, "model": model, "provider": provider}))
        else:
            started = await self._write(queries.start_hosted(values, hosted_model_id))
        if started is None:
            raise not_found("hosted model", hosted_model_id)
        return started

    async def finish(
        self,
        id: int,
        created_at: datetime,
        *,
        status: BrokerRequestStatus = BrokerRequestStatus.COMPLETED,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        cached_tokens: int | None = None,
        total_tokens: int | None = None,
        latency_ms: int | None = None,
        response: Mapping[str, Any] | None = None,
        error_code: str | None = None,
        error_message: str | None = None,
    ) -> BrokerRequest:
        """Log how a request has ended.

        The cost is computed from the price that held when the request was made; NULL without a price.

        Args:
            id: The id that `start` returned.
            created_at: The time that `start` returned.
            status: Any status except `pending`.
            prompt_tokens: All input tokens.
            completion_tokens: Output tokens.
            cached_tokens: Cached tokens; they are part of `prompt_tokens`.
            total_tokens: None is the sum of the others.
            latency_ms: Milliseconds; None is the time since `created_at`.
            response: The content of the response.
            error_code: The code of an error.
            error_message: The text of an error.

        Raises:
            NotFoundError: The request is not in the log.
            InvalidTransition: It has ended already.
        """
        _zoned("created_at", created_at)
        if status == BrokerRequestStatus.PENDING:
            raise InvalidInputError("status: a request ends as completed, failed, cancelled or timeout")
        tokens = token_counts(prompt_tokens, completion_tokens, cached_tokens)
        if total_tokens is None and tokens is not None:
            total_tokens = tokens[0] + tokens[1]
        values: dict[str, Any] = {
            "status": status,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "cached_tokens": cached_tokens,
            "total_tokens": total_tokens,
            "response": response,
            "error_code": error_code and plain_text(error_code),
            "error_message": error_message and plain_text(error_message),
        }
        if latency_ms is not None:
            values["latency_ms"] = latency_ms
        finished = await self._write(queries.finish(id, created_at, values, tokens))
        if finished is None:
            raise await self._not_pending(id, created_at)
        return finished

    async def _not_pending(self, id: int, created_at: datetime) -> NotFoundError | InvalidTransition:
        found = await self.get(id, created_at)
        if found is None:
            return NotFoundError(
                f"request {id} of {created_at}: not in the log; pass the `id` and `created_at` that `start` returned"
            )
        return InvalidTransition(f"request {id}: it has ended already, as {found.status}")

    async def log_many(self, rows: Sequence[NewBrokerRequest]) -> int:
        """Log finished requests by COPY.

        Defaults: `status` is completed, `created_at` is now, and `finished_at` and `total_tokens` are
            computed. For a hosted model `model`, `provider`, `cost` and `currency` come from the catalog.

        Args:
            rows: Mappings by attribute.

        Returns:
            The number of requests.

        Raises:
            NotFoundError: A hosted model is unknown.
            ConfigurationError: The encoding of the connection is not UTF-8.
        """
        if not rows:
            return 0
        given = [by_attribute(row) for row in rows]
        names = {name for row in given for name in row}
        check_names(BrokerRequest, names)
        for name in names:
            check_objects(BrokerRequest, name, [row.get(name) for row in given])
        models = [row.get("hosted_model_id") for row in given]
        ids = {number for number in models if isinstance(number, int) and 0 < number < 2**63}
        catalog = await self._hosted(ids)
        names |= {*FILLED, *(FROM_CATALOG if "hosted_model_id" in names else ())}
        columns = {name: column for name, column in inspect(BrokerRequest).columns.items() if name in names}
        now = await self._first(queries.now())
        assert now is not None
        values = filled(given, list(columns), catalog, now)
        return await copy_rows(self._session, table_of(BrokerRequest), list(columns.values()), values)

    async def _hosted(self, ids: Collection[int]) -> Mapping[int, Hosted]:
        if not ids:
            return {}
        catalog = {
            number: Hosted(model, provider)
            for number, model, provider in await self._rows(queries.codes(sorted(ids)))
        }
        for price in await self._all(queries.prices(sorted(ids))):
            catalog[price.hosted_model_id].add(price)
        return catalog

    async def get(self, id: int, created_at: datetime) -> BrokerRequest | None:
        """Return the request with this id and time, with its contents."""
        return await self._first(queries.get(id, _zoned("created_at", created_at)))

    async def attempts(self, request_id: str, *, since: datetime | None = None) -> Sequence[BrokerRequest]:
        """Return all requests with the broker's id, with their contents, the newest first.

        With `since`, older months are not read.
        """
        return await self._all(queries.attempts(request_id, _zoned_or_none("since", since)))

    async def recent(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        model: str | None = None,
        provider: str | None = None,
        agent_name: str | None = None,
        session_id: str | None = None,
        status: BrokerRequestStatus | None = None,
        contents: bool = False,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[BrokerRequest]:
        """Return a page of the requests, the newest first.

        Args:
            since: Only requests from this time on.
            until: Only requests before this time.
            model: Only requests to this model.
            provider: Only requests to this provider.
            agent_name: Only requests of this agent.
            session_id: Only requests of this session.
            status: Only requests with this status.
            contents: Read `request` and `response` too. Without it SQLAlchemy raises an error when they are
                accessed.
            after: `next` of the previous page.
            limit: The maximum number of requests.
        """
        rows = await self._all(
            queries.recent(
                since=_zoned_or_none("since", since),
                until=_zoned_or_none("until", until),
                model=model,
                provider=provider,
                agent_name=agent_name,
                session_id=session_id,
                status=status,
                contents=contents,
                after=after,
                limit=limit,
            )
        )
        return as_page(rows, queries.LIST_KEY, limit)

    async def usage(
        self,
        since: datetime,
        until: datetime,
        *,
        by: Collection[TokenUsageKey] = ("model", "provider"),
        timezone: str = "UTC",
        model: str | None = None,
        provider: str | None = None,
        agent_name: str | None = None,
    ) -> Sequence[TokenUsage]:
        """Return sums of requests from `since` until before `until`.

        Sums are kept apart by currency. Only the months of the range are read. Each request of the range is added up,
        so that the sums are exact whenever a request was logged, finished or deleted: a year of two million takes
        about two seconds. Keep the sums of days that have ended if you ask for them often, or ask for a model, a
        provider or an agent, which have an index each.

        Args:
            since: The beginning of the range.
            until: The end of the range, which is not part of it.
            by: The groups of the sums: any of model, provider, agent and day.
            timezone: The time zone of the days, by IANA name.
            model: Only requests to this model.
            provider: Only requests to this provider.
            agent_name: Only requests of this agent.

        Raises:
            InvalidInputError: The range is empty, or a group or the time zone is unknown.
        """
        _check_usage(since, until, by)
        zone = _zone(timezone)
        rows = await self._rows(
            queries.usage(
                since=since,
                until=until,
                by=by,
                timezone=timezone,
                days=_days(since, until, zone) if "day" in by else None,
                model=model,
                provider=provider,
                agent_name=agent_name,
            )
        )
        return [_usage(row, zone) for row in rows]

    async def purge(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete at most `limit` requests that were made more than `older_than` seconds ago.

        The oldest go first. A request that has not ended by then is deleted too. For whole months
        `detach_partition` is faster.

        Returns:
            The number of requests deleted.
        """
        within("older_than", older_than, 0, MAX_SECONDS)
        within("limit", limit, 1, 10_000)
        return len(await self._rows(queries.purge(older_than, limit=limit)))

    async def purgeable(self, *, older_than: float) -> int:
        """Return how many requests calls of `purge` delete in the end."""
        within("older_than", older_than, 0, MAX_SECONDS)
        return (await self._rows(queries.purgeable(older_than)))[0][0]


def _zoned(name: str, time: datetime) -> datetime:
    return aware(name, time)


def _zoned_or_none(name: str, time: datetime | None) -> datetime | None:
    return None if time is None else _zoned(name, time)


def _zone(name: str) -> tzinfo:
    try:
        return zone(name)
    except InvalidCron:
        raise InvalidInputError(
            f"timezone: {shown(name)} is unknown; use one such as 'UTC' or 'Europe/Berlin'"
        ) from None


def _check_usage(since: datetime, until: datetime, by: Collection[str]) -> None:
    if _zoned("since", since) >= _zoned("until", until):
        raise InvalidInputError(f"since {since} is not before until {until}")
    unknown = sorted(map(shown, set(by) - set(get_args(TokenUsageKey))))
    if unknown:
        raise InvalidInputError(
            f"by: {', '.join(unknown[:5])}: expected some of {', '.join(get_args(TokenUsageKey))}"
        )


def _days(since: datetime, until: datetime, zone: tzinfo) -> list[datetime] | None:
    """Return the start of each day of a range, and the end of the last one.

    Returns:
        None if there are too many, or if a clock went back over midnight, so that a day is not one range.
    """
    try:
        last = (until.astimezone(UTC) - timedelta(microseconds=1)).astimezone(zone).date()
        first = since.astimezone(zone).date()
        if (last - first).days > MAX_DAYS:
            return None
        days = [
            datetime.combine(first + timedelta(days=number), time(), zone)
            for number in range((last - first).days + 2)
        ]
        for day in days:
            again = day.replace(fold=1)
            if again.astimezone(UTC) > day.astimezone(UTC):  # midnight was twice
                before = again.astimezone(UTC) - timedelta(microseconds=1)
                if before.astimezone(zone).date() < day.date():
                    return None
        return [day.astimezone(UTC) for day in days]
    except OverflowError:
        return None


def _usage(row: Row[*tuple[Any, ...]], zone: tzinfo) -> TokenUsage:
    model, provider, agent, day, *sums = row
    return TokenUsage(model, provider, agent, None if day is None else day.astimezone(zone).date(), *sums)
