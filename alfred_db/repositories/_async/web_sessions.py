"""Web sessions: who is logged in, known by a token."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ...checks import MAX_SECONDS, check_text, json_text, within
from ...execution._async.base import AsyncRepository
from ...execution._async.driver import fetch
from ...queries import web_sessions as queries
from ...queries.shapes.clock import microseconds
from ...values.web_sessions import ActiveWebSession, NewWebSession

MAX_USER_BYTES = 2000
"""The length that always fits into an index entry."""

MAX_DATA_BYTES = 1 << 20
"""The largest content of a session."""

SLIDE_US = 60_000_000
"""How old the last touch must be before another is written, unless the idle time is short."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AsyncWebSessionRepository(AsyncRepository):
    """Sessions of a web application, each known by a token whose SHA-256 hash is stored.

    The library makes every token, so that a client cannot choose one. `rotate` it at each login: the old token is refused
    from then on. The table is logged: a crash of the server loses no session.
    """

    async def create(
        self,
        user_id: str | None = None,
        data: Mapping[str, Any] | None = None,
        *,
        idle: float = 1800.0,
        lifetime: float = 1_209_600.0,
    ) -> NewWebSession:
        """Create a session; its token is returned only here.

        Args:
            user_id: The user, 1 to 2,000 bytes; None before the login.
            data: Content, up to 1 MiB of JSON.
            idle: Seconds without a touch after which it ends.
            lifetime: Seconds after which it ends in any case.
        """
        _check_user(user_id)
        within("idle", idle, 0.001, MAX_SECONDS)
        within("lifetime", lifetime, 0.001, MAX_SECONDS)
        token = secrets.token_urlsafe(32)
        parameters = {
            "id": _hash(token),
            "user_id": user_id,
            "data": json_text("data", dict(data or {}), MAX_DATA_BYTES),
            "idle": microseconds(idle),
            "lifetime": microseconds(lifetime),
        }
        (row,) = await fetch(self._session, queries.create(), parameters)
        return NewWebSession(token, _session(row))

    async def get(self, token: str) -> ActiveWebSession | None:
        """Return the session of a token, or None if it has ended; does not touch it."""
        rows = await fetch(self._session, queries.get(), {"id": _hash(token)}, reads=True)
        return _session(rows[0][1:]) if rows else None

    async def touch(self, token: str) -> ActiveWebSession | None:
        """Return the session of a token, or None if it has ended; the idle time begins anew.

        A touch is written when the last one is a minute old, or a tenth of a shorter idle time.
        """
        rows = await fetch(self._session, queries.get(), {"id": _hash(token)}, reads=True)
        if not rows:
            return None
        clock, row = rows[0][0], rows[0][1:]
        if clock - row[3] < min(SLIDE_US, row[4] // 10):
            return _session(row)
        touched = await fetch(self._session, queries.touch(), {"id": _hash(token)})
        return _session(touched[0]) if touched else None

    async def rotate(self, token: str, *, user_id: str | None = None) -> NewWebSession | None:
        """Replace the token of a session, which is refused from then on; None if it has ended.

        Args:
            token: The token so far.
            user_id: The user who has logged in; without it the user stays.
        """
        _check_user(user_id)
        new = secrets.token_urlsafe(32)
        parameters: dict[str, Any] = {"id": _hash(token), "new_id": _hash(new)}
        if user_id is not None:
            parameters["user_id"] = user_id
        rows = await fetch(self._session, queries.rotate(login=user_id is not None), parameters)
        return NewWebSession(new, _session(rows[0])) if rows else None

    async def save(self, token: str, data: Mapping[str, Any]) -> ActiveWebSession | None:
        """Replace the content of a session, and touch it; None if it has ended."""
        parameters = {"id": _hash(token), "data": json_text("data", dict(data), MAX_DATA_BYTES)}
        rows = await fetch(self._session, queries.save(), parameters)
        return _session(rows[0]) if rows else None

    async def revoke(self, token: str) -> bool:
        """End a session; return whether there was one."""
        return bool(await fetch(self._session, queries.revoke(), {"id": _hash(token)}))

    async def revoke_user(self, user_id: str, *, keep: str | None = None, limit: int | None = None) -> int:
        """End all sessions of a user, but the one with the token `keep`; return their number.

        With a `limit`, call it and commit until it returns less.

        Args:
            user_id: The user.
            keep: The token of the session that stays.
            limit: The maximum number of sessions, 1 to 10,000; None ends all.
        """
        _check_user(user_id)
        if limit is not None:
            within("limit", limit, 1, 10_000)
        parameters = {"user_id": user_id, "kept": b"" if keep is None else _hash(keep)}
        return len(await fetch(self._session, queries.revoke_user(limit=limit), parameters))

    async def list_user(self, user_id: str) -> Sequence[ActiveWebSession]:
        """Return the sessions of a user that have not ended, the newest first."""
        _check_user(user_id)
        rows = await fetch(self._session, queries.of_user(), {"user_id": user_id}, reads=True)
        return [_session(row) for row in rows]

    async def purge(self, *, limit: int = 1000) -> int:
        """Delete at most `limit` (1 to 10,000) sessions that have ended; return their number. Only frees space."""
        within("limit", limit, 1, 10_000)
        return len(await fetch(self._session, queries.purge(limit=limit), {}))

    async def purgeable(self) -> int:
        """Return how many sessions calls of `purge` delete in the end."""
        return (await fetch(self._session, queries.purgeable(), {}, reads=True))[0][0]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _check_user(user_id: str | None) -> None:
    if user_id is not None:
        check_text("user_id", user_id, MAX_USER_BYTES)


def _time(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def _session(row: Sequence[Any]) -> ActiveWebSession:
    user_id, data, created, seen, idle, expires = row
    ends = min(seen + idle, expires)
    return ActiveWebSession(user_id, data, _time(created), _time(seen), _time(ends))
