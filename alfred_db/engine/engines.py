"""Engines of the library: their options, and what is registered on each."""

from __future__ import annotations

import os
import weakref
from typing import Any, Literal

from sqlalchemy import URL, Engine, NullPool

from ..checks import from_json, sent_json
from ..errors import ConfigurationError
from ..sql import schema_translate_map
from ..types import bind_text
from .plans import drop_plans_of
from .pool import (
    check_before_use,
    check_pooled,
    connect_args,
    connection_state,
    drop_unopened,
    end_interrupted,
    prepare_connections,
    refuse_failed_commits,
    reset_after_use,
)
from .session import Kept

__all__ = ["IDLE_IN_TRANSACTION_TIMEOUT", "Pooler", "engine_options", "refuse_pooler_read_only", "watch"]

Pooler = Literal["transaction"]

IDLE_IN_TRANSACTION_TIMEOUT = "60s"
"""How long a transaction may idle before the server ends its session and releases its locks."""


def engine_options(
    url: URL, schema: str | None, pooler: Pooler | None, pool_size: int, application_name: str
) -> dict[str, Any]:
    """Return the arguments of `create_engine`; connections are opened at the first use."""
    arguments = connect_args(url, application_name)
    options: dict[str, Any] = {
        "hide_parameters": True,
        "use_native_hstore": False,  # SQLAlchemy's query for it uses operators of any schema in the search_path
        "json_deserializer": from_json,
        "json_serializer": sent_json,
        "connect_args": arguments,
        "pool_reset_on_return": None,
    }
    if schema is not None:
        options["execution_options"] = {"schema_translate_map": schema_translate_map(schema)}
    if pooler == "transaction":
        # Each transaction may run in another session of the server. The pooler keeps the connections, so
        # this side keeps none, and prepares no statement that a later session would not have.
        return {**options, "poolclass": NullPool, "connect_args": {**arguments, "prepare_threshold": None}}
    return {
        **options,
        "pool_size": pool_size,
        "pool_recycle": 1800,
        "pool_use_lifo": True,
    }


def watch(engine: Engine, pooler: Pooler | None, schema: str | None, read_only: bool) -> Kept:
    """Register what the engine needs beyond its options.

    A child process must not use the parent's sockets. The type `vector` must be found in the schema where an
    administrator created it. Units of work pass a connection on to the next one.
    """
    kept = Kept(engine)
    engine_of, kept_of = weakref.ref(engine), weakref.ref(kept)

    def forget_in_child() -> None:
        if (found := kept_of()) is not None:
            found.forget()
        if (forgotten := engine_of()) is not None:
            forgotten.dispose(close=False)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget_in_child)
    bind_text(engine.dialect)
    drop_unopened(engine)
    reset_after_use(engine)
    refuse_failed_commits(engine)
    end_interrupted(engine)
    if pooler is None:
        options = str(engine.url.query.get("options") or os.environ.get("PGOPTIONS") or "")
        settings: dict[str, str] = {}
        if "idle_in_transaction_session_timeout" not in options:
            settings["idle_in_transaction_session_timeout"] = IDLE_IN_TRANSACTION_TIMEOUT
        if read_only:
            settings["default_transaction_read_only"] = "on"
        check_before_use(engine)
        drop_plans_of(engine, lambda info: connection_state(info).plans)
        prepare_connections(engine, settings=settings, default_tenant=schema is None)
    else:
        check_pooled(engine, default_tenant=schema is None)
    return kept


def refuse_pooler_read_only(read_only: bool, pooler: Pooler | None) -> bool:
    """Return whether the connections are read-only.

    Raises:
        ConfigurationError: They should be, and are a pooler's.
    """
    if read_only and pooler is not None:
        raise ConfigurationError(
            'read_only: a pooler passes the server\'s sessions on, so none can be set read-only; leave out pooler="transaction",'
            " or connect as a role that may only read"
        )
    return read_only
