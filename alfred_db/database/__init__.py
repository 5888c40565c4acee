"""The entry points: `Database` and `AsyncDatabase`, with their sessions and units of work."""

from __future__ import annotations

from .asynchronous import AsyncDatabase
from .blocking import Database

__all__ = ["AsyncDatabase", "Database"]
