"""The page in the browser: it shows what is there, and nothing can be written through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from test_top import ESCAPE, seed

from alfred_db import Database, TaskStatus
from alfred_db.cli import main
from alfred_db.errors import ConfigurationError
from alfred_db.web.app import create_app

TOKEN = "a-token-of-the-tests-0123456789"
HOSTILE = '<script>alert("1")</script>&"\''


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as writing:
        seed(writing)
        with writing.begin() as uow:
            uow.tasks.enqueue(
                HOSTILE, {"secret": "content"}, task_id=HOSTILE, queue=HOSTILE, assigned_to=HOSTILE
            )
    with Database(database_url, read_only=True) as database:
        yield database


async def get(
    db: Database, path: str, *, method: str = "GET", host: str = "127.0.0.1:8001", **options: Any
) -> httpx2.Response:
    headers = {"Host": host, **options.pop("headers", {})}
    app = create_app(db, **options)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=app), base_url="http://127.0.0.1:8001"
    ) as client:
        return await client.request(method, path, headers=headers)


async def test_the_overview_is_shown_and_escaped(db: Database) -> None:
    answer = await get(db, "/")
    assert answer.status_code == 200
    for title in (
        "Queues",
        "Workers",
        "Running",
        "Failed",
        "Schedules",
        "Workflows",
        "Consumers",
        "Agents",
        "Indexes",
    ):
        assert f"<h2>{title}</h2>" in answer.text
    assert "<script" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "secret" not in answer.text
    found = (await get(db, "/overview.json")).json()
    assert {row["queue"] for row in found["queues"]} == {"busy", ESCAPE, HOSTILE}
    assert (await get(db, "/style.css")).headers["Content-Type"].startswith("text/css")


@pytest.mark.parametrize("path", ["/", "/tasks"])
async def test_a_page_is_as_wide_as_a_phone(db: Database, path: str) -> None:
    """A wide table is moved in its own frame, and the page around it stays."""
    page = (await get(db, path)).text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count("<table>") == page.count('<div class="table"><table>') > 0
    assert "div.table { overflow-x: auto }" in (await get(db, "/style.css")).text
    assert not re.search(r"\d\d:\d\d:\d\d\.\d", page), "a time is shown in seconds"


async def test_tasks_are_listed_page_by_page(db: Database, database_url: URL) -> None:
    with Database(database_url) as writing, writing.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "many", "task_id": f"many {n}"} for n in range(250)])
    path, seen = "/tasks?intent=many", list[str]()
    for _ in range(3):
        answer = await get(db, path)
        seen += re.findall(r"many \d+", answer.text)
        if (found := re.search(r'href="(\?[^"]*)"', answer.text)) is not None:
            path = "/tasks" + found[1].replace("&amp;", "&")
    assert sorted(seen) == sorted(f"many {n}" for n in range(250))
    for status in TaskStatus:
        assert (await get(db, f"/tasks?status={status}")).status_code == 200
    only = await get(db, f"/tasks?{httpx2.QueryParams({'queue': HOSTILE})}")
    assert only.text.count("<tr>") == 2
    assert "<script" not in only.text
    for wrong in ("status=nothing", "after=nothing", "queue=%00", "intent=%ff"):
        assert (await get(db, f"/tasks?{wrong}")).status_code in (200, 400), wrong


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get"])
async def test_only_get_is_answered(db: Database, method: str) -> None:
    for path in ("/", "/tasks", "/overview.json", "/health"):
        assert (await get(db, path, method=method)).status_code == (200 if method == "get" else 405)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8001", "localhost.evil", ""]
)
async def test_a_foreign_host_is_refused(db: Database, host: str) -> None:
    assert (await get(db, "/", host=host)).status_code in (400, 421)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8001", "[::1]:8001", "LOCALHOST", "mine.example"])
async def test_a_known_host_is_answered(db: Database, host: str) -> None:
    assert (await get(db, "/health", host=host, allowed_hosts=["mine.example"])).status_code == 200


async def test_the_token_is_needed(db: Database) -> None:
    for path in ("/", "/tasks", "/overview.json", "/style.css", "/nothing"):
        assert (await get(db, path, token=TOKEN)).status_code == 401
        assert (await get(db, f"{path}?token=wrong", token=TOKEN)).status_code == 401
    for headers in (
        {"Authorization": "Bearer wrong"},
        {"Cookie": "alfred_db_token=wrong"},
        {"Cookie": TOKEN},
    ):
        assert (await get(db, "/", token=TOKEN, headers=headers)).status_code == 401
    assert (await get(db, "/", token=TOKEN, headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200
    opened = await get(db, f"/?token={TOKEN}", token=TOKEN)
    assert (opened.status_code, opened.headers["Location"]) == (303, "/")
    cookie = opened.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert (await get(db, "/", token=TOKEN, headers={"Cookie": cookie.split(";")[0]})).status_code == 200
    assert (await get(db, "/health", token=TOKEN)).status_code == 200


async def test_every_answer_has_the_headers(db: Database) -> None:
    for path, options in (
        ("/", {}),
        ("/nothing", {}),
        ("/", {"token": TOKEN}),
        ("/", {"host": "evil"}),
        ("/", {"method": "POST"}),
    ):
        answer = await get(db, path, **options)  # type: ignore[arg-type]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"


def test_what_is_refused_at_the_start(
    db: Database, database_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(database_url) as writing, pytest.raises(ConfigurationError, match="read_only=True"):
        create_app(writing)
    with pytest.raises(ConfigurationError, match="others can reach it"):
        create_app(db, host="0.0.0.0")
    create_app(db, host="0.0.0.0", token=TOKEN)
    with pytest.raises(DBAPIError, match="read-only"), db.begin() as uow:
        uow.session.execute(text("DELETE FROM tasks"))
    monkeypatch.setenv("SHORT", "x")
    done = CliRunner().invoke(
        main, ["web", "--token-env", "SHORT", "--url", database_url.render_as_string(hide_password=False)]
    )
    assert done.exit_code == 2
    assert "16 or more characters" in done.stderr
