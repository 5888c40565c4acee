"""Sessions of Starlette in the database: hashes alone, rotation at the login, expiry, fixation and replay."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie

import httpx
import pytest
from sqlalchemy import URL, text
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from alfred_db import AsyncDatabase
from alfred_db.errors import ConfigurationError
from alfred_db.integrations.starlette import WebSessionMiddleware


async def show(request: Request) -> Response:
    return JSONResponse(request.session)


async def put(request: Request) -> Response:
    request.session.update(await request.json())
    return JSONResponse(request.session)


async def append(request: Request) -> Response:
    request.session.setdefault("list", []).append(1)
    return PlainTextResponse("")


async def logout(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("")


async def plain(request: Request) -> Response:
    return PlainTextResponse("")


async def revoked(request: Request) -> Response:
    """Another request revokes the user's sessions while this one runs."""
    await request.app.state.database.web_sessions.revoke_user("7")
    request.session["late"] = True
    return PlainTextResponse("")


@pytest.fixture
async def db(database_url: URL) -> AsyncIterator[AsyncDatabase]:
    async with AsyncDatabase(database_url) as db:
        yield db


@pytest.fixture
async def client(db: AsyncDatabase) -> AsyncIterator[httpx.AsyncClient]:
    routes = [
        Route(f"/{function.__name__}", function, methods=["GET", "POST"])
        for function in (show, put, append, logout, plain, revoked)
    ]
    app = Starlette(routes=routes, middleware=[Middleware(WebSessionMiddleware, database=db)])
    app.state.database = db
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://host") as client:
        yield client


def token_of(response: httpx.Response) -> str:
    cookie = SimpleCookie(response.headers["set-cookie"])["session"]
    assert cookie["httponly"]
    assert cookie["secure"]
    assert cookie["samesite"] == "lax"
    return cookie.value


async def test_a_session_is_stored_once_it_has_content(client: httpx.AsyncClient, db: AsyncDatabase) -> None:
    for path in ("plain", "show", "logout"):
        assert "set-cookie" not in (await client.get(f"/{path}")).headers
    token = token_of(await client.post("/put", json={"theme": "dark"}))
    shown = await client.get("/show")
    assert shown.json() == {"theme": "dark"}
    assert shown.headers["vary"] == "Cookie"
    assert "set-cookie" not in shown.headers
    assert "vary" not in (await client.get("/plain")).headers
    for _ in range(2):
        assert token_of(await client.get("/append")) == token
    assert (await client.get("/show")).json()["list"] == [1, 1]
    async with db.begin() as uow:
        (row,) = (await uow.session.execute(text("SELECT id, web_sessions::text FROM web_sessions"))).all()
    assert row.id == hashlib.sha256(token.encode()).digest()
    assert token not in row[1]


async def test_the_token_is_replaced_at_the_login_and_the_old_one_refused(
    client: httpx.AsyncClient, db: AsyncDatabase
) -> None:
    before = token_of(await client.post("/put", json={"cart": [1]}))
    after = token_of(await client.post("/put", json={"user_id": "7"}))
    assert after != before
    assert (await client.get("/show")).json() == {"cart": [1], "user_id": "7"}
    assert len(await db.web_sessions.list_user("7")) == 1
    client.cookies.clear()
    replayed = await client.get("/show", headers={"cookie": f"session={before}"})
    assert replayed.json() == {}
    other = token_of(await client.post("/put", json={"x": 1}, headers={"cookie": f"session={before}"}))
    assert other not in (before, after)


@pytest.mark.parametrize("token", ["x" * 43, "", "a" * 10_000, "%00", "../../etc", "x" * 42 + "=", "'; DROP"])
async def test_a_token_that_the_client_has_chosen_is_never_used(
    client: httpx.AsyncClient, db: AsyncDatabase, token: str
) -> None:
    made = token_of(await client.post("/put", json={"a": 1}, headers={"cookie": f"session={token}"}))
    assert made != token
    assert await db.web_sessions.get(made) is not None


async def test_the_logout_revokes_and_a_change_of_the_user_starts_anew(
    client: httpx.AsyncClient, db: AsyncDatabase
) -> None:
    first = token_of(await client.post("/put", json={"user_id": "7"}))
    second = token_of(await client.post("/put", json={"user_id": "8"}))
    assert await db.web_sessions.get(first) is None
    assert token_of(await client.get("/logout")) == ""
    assert await db.web_sessions.get(second) is None
    client.cookies.clear()
    replayed = await client.get("/show", headers={"cookie": f"session={second}"})
    assert replayed.json() == {}


async def test_a_session_that_is_revoked_meanwhile_stays_revoked(
    client: httpx.AsyncClient, db: AsyncDatabase
) -> None:
    await client.post("/put", json={"user_id": "7"})
    assert token_of(await client.get("/revoked")) == ""
    assert await db.web_sessions.list_user("7") == []
    assert (await client.get("/show")).json() == {}


@pytest.mark.parametrize(
    "moved", ["seen_us = seen_us - 1801000000", "expires_us = expires_us - 1209601000000"]
)
async def test_a_session_ends_when_idle_and_in_any_case(
    client: httpx.AsyncClient, db: AsyncDatabase, moved: str
) -> None:
    await client.post("/put", json={"user_id": "7"})
    async with db.begin() as uow:
        await uow.session.execute(text(f"UPDATE web_sessions SET {moved}"))
    assert (await client.get("/show")).json() == {}


def test_a_cookie_that_browsers_refuse_is_refused(database_url: URL) -> None:
    with pytest.raises(ConfigurationError, match="same_site"):
        WebSessionMiddleware(Starlette(), AsyncDatabase(database_url), same_site="none", secure=False)
