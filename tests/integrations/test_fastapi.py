"""FastAPI: what the client is answered is what the database has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import URL, text
from starlette.requests import HTTPConnection

from alfred_db import AsyncDatabase, Database, errors
from alfred_db.errors import AlfredDBError, ConfigurationError, SchemaError
from alfred_db.fastapi import (
    STATUS,
    AsyncDatabaseSession,
    AsyncUnit,
    DatabaseSession,
    Unit,
    add_exception_handlers,
    async_unit_of_work,
    get_database,
    lifespan,
    status_of_error,
)


def every_error(kind: type[AlfredDBError] = AlfredDBError) -> Iterator[type[AlfredDBError]]:
    yield kind
    for one in kind.__subclasses__():
        if one.__module__.startswith("alfred_db"):
            yield from every_error(one)


def application(database: AsyncDatabase | Database, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=lifespan(database, **options))
    add_exception_handlers(app)

    @app.post("/async/{name}")
    async def enqueue(name: str, uow: AsyncUnit, fail: bool = False) -> str:
        await uow.tasks.enqueue("X", {}, task_id=name)
        if fail:
            raise HTTPException(418)
        return name

    @app.post("/sync/{name}")
    def enqueue_sync(name: str, uow: Unit, fail: bool = False) -> str:
        uow.tasks.enqueue("X", {}, task_id=name)
        if fail:
            raise HTTPException(418)
        return name

    @app.post("/async/deferred/fail")
    async def deferred(uow: AsyncUnit) -> str:
        await uow.tasks.enqueue("X", {}, task_id="lost")
        await uow.session.execute(text("INSERT INTO child VALUES (1)"))
        return "the commit comes after this"

    @app.post("/sync/deferred/fail")
    def deferred_sync(uow: Unit) -> str:
        uow.tasks.enqueue("X", {}, task_id="lost")
        uow.session.execute(text("INSERT INTO child VALUES (1)"))
        return "the commit comes after this"

    @app.post("/late")
    async def late(uow: Annotated[Any, Depends(async_unit_of_work)]) -> str:
        await uow.session.execute(text("INSERT INTO child VALUES (1)"))
        return "FastAPI's default"

    @app.post("/async/session/{name}")
    async def by_session(name: str, session: AsyncDatabaseSession, commit: bool) -> str:
        await session.execute(text("INSERT INTO parent VALUES (1)"))
        if commit:
            await session.commit()
        return name

    @app.post("/sync/session/{name}")
    def by_session_sync(name: str, session: DatabaseSession, commit: bool) -> str:
        session.execute(text("INSERT INTO parent VALUES (1)"))
        if commit:
            session.commit()
        return name

    @app.get("/raise/{kind}")
    async def raise_(kind: str, retryable: bool = False) -> None:
        raise getattr(errors, kind)("the secret reason", retryable=retryable)

    return app


@pytest.fixture
def url(database_url: URL) -> URL:
    with Database(database_url) as database, database.session() as session:
        session.execute(text("CREATE TABLE parent (id int PRIMARY KEY)"))
        check = "CREATE TABLE child (parent int REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
        session.execute(text(check))
        session.commit()
    return database_url


def tasks(url: URL) -> list[str]:
    with Database(url) as database, database.session() as session:
        return list(session.scalars(text("SELECT task_id FROM tasks ORDER BY task_id")))


@pytest.mark.parametrize("way", ["async", "sync"])
def test_the_answer_is_what_was_committed(url: URL, way: str) -> None:
    database = AsyncDatabase(url) if way == "async" else Database(url)
    with TestClient(application(database)) as client:
        assert client.post(f"/{way}/kept").status_code == 200
        assert client.post(f"/{way}/lost?fail=true").status_code == 418
        answer = client.post(f"/{way}/deferred/fail")
        assert answer.status_code == 409
        assert answer.json()["error"] == "ConflictError"
        assert tasks(url) == ["kept"]
        assert client.post(f"/{way}/session/a?commit=false").status_code == 200
        assert client.post(f"/{way}/session/b?commit=true").status_code == 200
        answer = client.post(f"/{way}/session/c?commit=true")  # the key is there: SQLAlchemy's own error
        assert (answer.status_code, answer.json()["error"]) == (409, "ConflictError")
        other = {"async": "sync", "sync": "async"}[way]
        answer = client.post(f"/{other}/none")
        assert (answer.status_code, answer.json()["error"]) == (500, "ConfigurationError")


def test_what_the_default_scope_would_answer(url: URL) -> None:
    """The reason for `scope="function"`: with FastAPI's default the client hears 200 of a commit that fails."""
    with TestClient(application(AsyncDatabase(url)), raise_server_exceptions=False) as client:
        assert client.post("/late").status_code == 200


@pytest.mark.parametrize("kind", list(every_error()), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[AlfredDBError], caplog: pytest.LogCaptureFixture) -> None:
    assert kind in STATUS or any(base in STATUS for base in kind.__bases__ if base is not AlfredDBError)
    if getattr(errors, kind.__name__, None) is not kind:
        return
    app = application(Database("postgresql://nobody@127.0.0.1:1/nowhere"), verify=False)
    with TestClient(app) as client, caplog.at_level(logging.ERROR, "alfred_db"):
        try:
            answer = client.get(f"/raise/{kind.__name__}?retryable=true")
        except TypeError:  # its constructor takes more
            return
    status = status_of_error(kind.__new__(kind))
    assert answer.status_code == status
    assert answer.json()["error"] == kind.__name__
    assert ("secret" in answer.text) == (status < 500)
    assert ("secret" in caplog.text) == (status >= 500)
    assert ("retry-after" in answer.headers) == (status == 503)


def test_the_table_is_on_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs/howto/fastapi.md").read_text(encoding="utf-8")
    for kind, status in STATUS.items():
        assert f"| `{kind.__name__}` | {status} |" in page


def test_it_starts_only_on_its_schema_and_upgrades_if_it_may(empty_url: URL) -> None:
    with pytest.raises(SchemaError), TestClient(application(AsyncDatabase(empty_url))):
        pass
    with TestClient(application(AsyncDatabase(empty_url), upgrade=True)) as client:
        assert client.post("/async/t").status_code == 200
    with TestClient(application(Database(empty_url), upgrade=True)) as client:
        assert client.post("/sync/u").status_code == 200
    assert tasks(empty_url) == ["t", "u"]


def test_another_lifespan_runs_within(url: URL) -> None:
    from contextlib import asynccontextmanager

    seen: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> Any:
        await app.state.alfred_db.cache.set("k", b"v")
        seen.append("started")
        yield {"mine": 1}
        await app.state.alfred_db.cache.get("k")
        seen.append("stopped")

    with TestClient(application(AsyncDatabase(url), then=own)) as client:
        assert client.app_state == {"mine": 1}
    assert seen == ["started", "stopped"]


def test_without_the_lifespan() -> None:
    app = FastAPI()
    add_exception_handlers(app)

    @app.get("/")
    async def get(uow: AsyncUnit) -> None: ...

    with TestClient(app) as client:
        assert client.get("/").json()["error"] == "ConfigurationError"
    with pytest.raises(ConfigurationError, match="lifespan"):
        get_database(HTTPConnection({"type": "http", "app": app}))


def test_a_test_overrides_the_database(url: URL) -> None:
    app = application(AsyncDatabase("postgresql://nobody@127.0.0.1:1/nowhere"), verify=False)
    database = AsyncDatabase(url)
    app.dependency_overrides[get_database] = lambda: database
    with TestClient(app) as client:
        assert client.post("/async/t").status_code == 200
        assert client.portal is not None
        client.portal.call(database.close)
    assert tasks(url) == ["t"]
    assert asyncio.run(asyncio.sleep(0)) is None
