"""What every connection of the library is opened with, and an engine for a few statements."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine, NullPool, create_engine

__all__ = ["connect_args", "passing_engine"]


def connect_args(url: URL, application_name: str) -> dict[str, Any]:
    """libpq's parameters that the URL leaves open: SQLAlchemy would let these win over the URL."""
    defaults: dict[str, Any] = {
        "connect_timeout": 10,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "application_name": application_name,
    }
    return {name: value for name, value in defaults.items() if name not in url.query}


def passing_engine(url: URL, application_name: str) -> Engine:
    """An engine that keeps no connection and prepares no statement: right for migrations and for one look."""
    arguments = {**connect_args(url, application_name), "prepare_threshold": None}
    return create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args=arguments)
