"""Sessions of Starlette and FastAPI in the database. Needs the extra `starlette`.

from alfred_db.integrations.starlette import WebSessionMiddleware

app.add_middleware(WebSessionMiddleware, database=db)

async def login(request):
request.session["user_id"] = "7"  # the token is replaced
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any, Literal

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..checks import MAX_SECONDS, check_text, kind, within
from ..database import AsyncDatabase
from ..errors import ConfigurationError, InvalidInputError
from ..repositories import AsyncWebSessionRepository

__all__ = ["WebSessionData", "WebSessionMiddleware"]


_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
"""What `create` makes; nothing else is looked up."""


class WebSessionData(dict[str, Any]):
    """`request.session`: a dict that is saved if it has changed, also within a value."""

    accessed = False

    def mark_accessed(self) -> None:
        """Note that the response depends on the session; Starlette calls it."""
        self.accessed = True


class WebSessionMiddleware:
    """Loads `request.session` by the token of a cookie, and saves it before the response is sent.

    The cookie has the token, the table only its hash. The library makes every token; one that is unknown, has ended or
    was replaced counts as none. A session is stored once it has content. At the login, when the application sets the
    user, the token is replaced. At the logout, when it removes the user or clears the session, the session is revoked.

    Args:
        app: The application.
        database: The database; closing it is left to the caller.
        cookie: The name of the cookie.
        user_key: The key of the session under which the application stores who has logged in. `revoke_user` and
            `list_user` of the repository take the same text.
        idle: Seconds without a request after which a session ends.
        lifetime: Seconds after which a session ends in any case.
        path: The path of the cookie.
        domain: The domain of the cookie; None is the host alone.
        same_site: When other sites may send the cookie.
        secure: Whether the browser sends the cookie over HTTPS only.
    """

    def __init__(
        self,
        app: ASGIApp,
        database: AsyncDatabase,
        *,
        cookie: str = "session",
        user_key: str = "user_id",
        idle: float = 1800.0,
        lifetime: float = 1_209_600.0,
        path: str = "/",
        domain: str | None = None,
        same_site: Literal["lax", "strict", "none"] = "lax",
        secure: bool = True,
    ) -> None:
        within("idle", idle, 0.001, MAX_SECONDS)
        within("lifetime", lifetime, 0.001, MAX_SECONDS)
        if same_site == "none" and not secure:
            raise ConfigurationError("same_site: browsers refuse none without secure; pass secure=True")
        self._app = app
        self._database = database
        self._cookie = cookie
        self._user_key = user_key
        self._idle = idle
        self._lifetime = lifetime
        self._flags = f"path={path}; httponly; samesite={same_site}"
        self._flags += f"; domain={domain}" if domain is not None else ""
        self._flags += "; secure" if secure else ""

    @property
    def _sessions(self) -> AsyncWebSessionRepository:
        return self._database.web_sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        token = HTTPConnection(scope).cookies.get(self._cookie, "")
        found = await self._sessions.touch(token) if _TOKEN.fullmatch(token) else None
        before: dict[str, Any] = dict(found.data) if found else {}
        session = scope["session"] = WebSessionData(deepcopy(before))

        async def sending(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                if session.accessed:
                    headers.add_vary_header("Cookie")
                if session != before:
                    headers.append("set-cookie", await self._saved(token if found else None, before, session))
            await send(message)

        await self._app(scope, receive, sending)

    async def _saved(self, token: str | None, before: dict[str, Any], session: WebSessionData) -> str:
        """Store what the application has made of the session, and return the cookie."""
        user, was = self._user(session), self._user(before)
        if token is not None and was is not None and user != was:
            # What one user has stored is not handed on to another, nor to nobody.
            await self._sessions.revoke(token)
            token = None
        if not session:
            if token is not None:
                await self._sessions.revoke(token)
            return self._set_cookie("", 0)
        if token is not None and user == was:
            # Whoever has revoked it meanwhile has it stay revoked.
            saved = await self._sessions.save(token, session)
            return self._set_cookie(token, self._lifetime) if saved else self._set_cookie("", 0)
        if token is not None and (rotated := await self._sessions.rotate(token, user_id=user)) is not None:
            await self._sessions.save(rotated.token, session)
            return self._set_cookie(rotated.token, self._lifetime)
        made = await self._sessions.create(user, session, idle=self._idle, lifetime=self._lifetime)
        return self._set_cookie(made.token, self._lifetime)

    def _user(self, session: dict[str, Any]) -> str | None:
        user = session.get(self._user_key)
        if user is None:
            return None
        if not isinstance(user, str | int) or isinstance(user, bool):
            raise InvalidInputError(
                f"session.{self._user_key}: expected text or a whole number, got {kind(user)}"
            )
        check_text(f"session.{self._user_key}", str(user))
        return str(user)

    def _set_cookie(self, token: str, seconds: float) -> str:
        return f"{self._cookie}={token}; max-age={int(seconds)}; {self._flags}"
