"""Streamable HTTP: the bearer token, the checks of host and origin, a health endpoint, and a graceful stop."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..database import AsyncDatabase
from ..errors import ConfigurationError
from .server import check_reachable

__all__ = ["create_app", "serve_http"]

LOCAL = ("127.0.0.1", "localhost", "[::1]")
GRACE = 10
"""Seconds that running calls have to end after SIGTERM or SIGINT."""

IDLE = 1_800.0
"""Seconds after which the session of a client that has vanished ends."""


class _Guarded:
    """Refuses requests without the token, except those for the health; cancels a call whose client has gone."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._expected is not None and scope["path"] != "/health":
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
                refusal = Response("Unauthorized", 401, headers={"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        with suppress(ClientDisconnect):  # nobody is left to answer
            await _while_connected(self._app, scope, receive, send)


async def _while_connected(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run the application until its client disconnects: the SDK itself goes on with a call that it answers as JSON.

    A request of a session only passes the call on to the task of the session, whose client cancels it by a message.
    """
    if scope["type"] != "http" or any(name == b"mcp-session-id" for name, _ in scope["headers"]):
        await app(scope, receive, send)
        return
    call = asyncio.current_task()
    watch: asyncio.Task[None] | None = None
    answered = gone = False

    async def watched() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        if call is not None and not answered:
            gone = True
            call.cancel()

    async def received() -> Message:
        nonlocal watch
        message = await receive()
        if watch is None and message["type"] == "http.request" and not message.get("more_body", False):
            watch = asyncio.create_task(watched())
        return message

    async def sent(message: Message) -> None:
        nonlocal answered
        # The server reports a disconnection as well when the answer is complete.
        answered = answered or (
            message["type"] == "http.response.body" and not message.get("more_body", False)
        )
        await send(message)

    try:
        await app(scope, received, sent)
    except asyncio.CancelledError:
        if not gone or call is None or call.uncancel() > 0:
            raise
    finally:
        if watch is not None:
            watch.cancel()


def create_app(
    server: MCPServer[Any],
    database: AsyncDatabase,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
) -> Starlette:
    """Return the ASGI application: the server at `/mcp`, and `/health`.

    Args:
        server: The server of `create_server`.
        database: Its database, which `/health` asks.
        host: The address that is listened at.
        token: What each request must carry as `Authorization: Bearer`.
        allowed_hosts: Further values of the header Host, such as `mcp.example.org` or `mcp.example.org:*`.
        allowed_origins: Origins of web pages that may call it, such as `https://example.org`.

    Raises:
        ConfigurationError: There is no token, and the address is not of this machine.
    """
    local = host in ("127.0.0.1", "localhost", "::1")
    if token is None and not local:
        raise ConfigurationError(
            f"--host {host}: others can reach it; pass --token-env with the name of the variable that has the token"
        )

    async def health(_: Request) -> Response:
        try:
            async with asyncio.timeout(5), database.session() as session:
                await session.execute(text("SELECT 1"))
        except Exception:
            return JSONResponse({"status": "unavailable"}, 503)
        return JSONResponse({"status": "ok"})

    named = f"[{host}]" if ":" in host else host
    own = {*LOCAL, named}
    app = server.streamable_http_app(
        host=host,
        json_response=True,
        session_idle_timeout=IDLE,
        transport_security=TransportSecuritySettings(
            allowed_hosts=[*own, *(f"{name}:*" for name in own), *allowed_hosts],
            allowed_origins=[*(f"http://{name}:*" for name in LOCAL), *allowed_origins],
        ),
    )
    app.router.routes.insert(0, Route("/health", health))
    app.add_middleware(_Guarded, token=token)
    return app


async def serve_http(
    server: MCPServer[Any],
    database: AsyncDatabase,
    *,
    host: str,
    port: int,
    token: str | None = None,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
) -> None:
    """Serve until SIGTERM or SIGINT; running calls then have ten seconds to end.

    The other arguments are those of `create_app`.

    Raises:
        DatabaseUnavailable: The database cannot be reached.
    """
    app = create_app(
        server,
        database,
        host=host,
        token=token,
        allowed_hosts=allowed_hosts,
        allowed_origins=allowed_origins,
    )
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=GRACE, server_header=False
    )
    async with database:
        await check_reachable(database)
        await uvicorn.Server(config).serve()
