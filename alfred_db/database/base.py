"""What both kinds of database share: how one is made, and the tenants that use its pool."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any, Generic, Self, TypeVar

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from ..config import database_url, parse_url, tenant_schema
from ..engine.engines import Pooler, engine_options, refuse_pooler_read_only, watch
from ..engine.notifications import Notifier
from ..engine.replicas import Replicas, allowed_lag, replica_of
from ..errors import DatabaseUnavailable
from ..sql import schema_translate_map

__all__ = ["DatabaseBase", "migration_url", "moved"]

EngineT = TypeVar("EngineT", Engine, AsyncEngine)


class DatabaseBase(Generic[EngineT]):
    """The state of a database, and its tenants. `Database` and `AsyncDatabase` add what connects."""

    def __init__(
        self,
        url: str | URL | None,
        *,
        schema: str | None,
        pooler: Pooler | None,
        pool_size: int,
        application_name: str,
        notify: bool,
        read_only: bool,
        replica_url: str | URL | None,
        max_lag: float,
    ) -> None:
        self.url = database_url(url)
        self.schema = None if schema is None else tenant_schema(schema)
        self.pooler: Pooler | None = pooler
        self.read_only = refuse_pooler_read_only(read_only, pooler)
        self.wrap_handler: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
        """What wraps each handler of the workers of this database, as telemetry does; None leaves them as they are."""
        self.wrap_tenant: Callable[[Any], None] | None = None
        """What is called with each tenant that `tenant` makes, as telemetry does."""
        options = engine_options(self.url, schema, pooler, pool_size, application_name)
        self.engine: EngineT = self._new_engine(self.url, options)
        self._kept = watch(self._plain(self.engine), pooler, self.schema, read_only)
        self._notifier = Notifier(self.url) if notify else None
        self._replicas: Replicas | None = None
        self._replica_engine: EngineT | None = None
        self._max_lag = allowed_lag(max_lag)
        if replica_url is not None:
            replica = replica_of(parse_url(replica_url))
            options = engine_options(replica, schema, pooler, pool_size, application_name)
            self._replica_engine = self._new_engine(replica, options)
            kept = watch(self._plain(self._replica_engine), pooler, self.schema, read_only=True)
            self._replicas = Replicas(kept)
        self._root: Self | None = None
        self._opened: dict[str, Self] = {}
        self._servers: dict[URL, Self] = {}
        self._options = (pooler, pool_size, application_name, notify, read_only)
        self._make_sessions()

    def _new_engine(self, url: URL, options: Mapping[str, Any]) -> EngineT:
        raise NotImplementedError

    def _plain(self, engine: EngineT) -> Engine:
        """Return the engine that has the pool and its events."""
        raise NotImplementedError

    def _make_sessions(self) -> None:
        """Make the factories of sessions on `engine`, again after it has become another one."""
        raise NotImplementedError

    def _await_server(self) -> None:
        """Have the first unit of work find the server of the tenant."""
        raise NotImplementedError

    @property
    def opened(self) -> Sequence[Self]:
        """The tenants that `tenant` has returned so far."""
        return [] if self.shares_pool else list(self._opened.values())

    @property
    def shares_pool(self) -> bool:
        """Whether the connections are those of another one, which returned this one from `tenant`."""
        return self._root is not None

    def _tenant(self, name: str) -> Self:
        root = self._root or self
        found = root._opened.get(name)
        if found is None:
            found = copy(root)
            found.schema = tenant_schema(name)
            found._root = root
            found._await_server()
            found.wrap_handler = found.wrap_tenant = None
            found._take_pool(root)
            found = root._opened.setdefault(name, found)
            if root.wrap_tenant is not None:
                root.wrap_tenant(found)
        return found

    def _beside(self, url: URL) -> Self:
        """Make the database of another server, as this one is made."""
        pooler, size, name, notify, read_only = self._options
        return type(self)(
            url,
            schema=None,
            pooler=pooler,
            pool_size=size,
            application_name=name,
            notify=notify,
            read_only=read_only,
            replica_url=None,
            max_lag=self._max_lag,
        )

    def _use(self, server: Self) -> None:
        """Go on with the pool of this server."""
        if self.url != server.url:
            self.url, self._kept, self._notifier = server.url, server._kept, server._notifier
            self._replicas = server._replicas
            self._take_pool(server)

    def _take_pool(self, server: Self) -> None:
        """Take the engines of a database for the tenant `schema`, and forget what was made of others."""
        options = {"schema_translate_map": schema_translate_map(self.schema)}
        self.engine = server.engine.execution_options(**options)
        replica = server._replica_engine
        self._replica_engine = None if replica is None else replica.execution_options(**options)
        for kind in type(self).__mro__:
            for name, made in vars(kind).items():
                if isinstance(made, cached_property):
                    vars(self).pop(name, None)
        self._make_sessions()

    def __repr__(self) -> str:
        schema = "" if self.schema is None else f", schema={self.schema!r}"
        return f"{type(self).__name__}({self.url.render_as_string(hide_password=True)!r}{schema})"


def moved(tenant: str | None) -> DatabaseUnavailable:
    """Return the error of a unit of work whose tenant has been moved to another server meanwhile."""
    return DatabaseUnavailable(
        f"tenant {tenant!r}: it has been moved to another server; run the transaction again", retryable=True
    )


def migration_url(url: URL) -> str | URL:
    """Return the URL that migrations connect to."""
    return os.environ.get("ALFRED_DB_MIGRATION_URL") or url
