"""What a request must be before anything is read: GET, for a known host, with the token."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LOCAL", "Guard"]

LOCAL = ("127.0.0.1", "localhost", "[::1]")

COOKIE = "alfred_db_token"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""What each answer has: no script runs, no other site shows the page, and nothing of it is kept."""


class Guard:
    """Answers requests that are not allowed, and passes the others on.

    The token is a bearer token, or a cookie that the page sets once it is opened with `?token=`.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: Collection[str]) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":  # the start and the end of the server; a web socket is none of its own
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if scope["method"] not in ("GET", "HEAD"):
            return Response("Method Not Allowed", 405, headers={"Allow": "GET, HEAD"})
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._known(hosts[0]):
            return Response("Misdirected Request", 421)
        if self._token is None or scope["path"] == "/health":
            return None
        given = [value for name, value in headers if name == b"authorization"]
        if given and self._is_token(given[0].removeprefix(b"Bearer ")):
            return None
        for name, value in headers:
            if name == b"cookie":
                for part in value.split(b";"):
                    key, _, content = part.strip().partition(b"=")
                    if key == COOKIE.encode() and self._is_token(content):
                        return None
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self._is_token(asked.encode()):
            opened = RedirectResponse(scope["path"], 303)
            opened.set_cookie(
                COOKIE, asked, httponly=True, samesite="strict", secure=scope["scheme"] == "https"
            )
            return opened
        return Response(
            "Unauthorized: open the page with ?token=", 401, headers={"WWW-Authenticate": "Bearer"}
        )

    def _known(self, host: str) -> bool:
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return host in self._hosts or name in self._hosts

    def _is_token(self, given: bytes) -> bool:
        return self._token is not None and hmac.compare_digest(given, self._token)
