"""The pages: the overview, and lists of tasks. All HTML is made here, without a build step and without scripts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from html import escape
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ..database import Database
from ..errors import AlfredDBError, ConfigurationError, InvalidInputError
from ..models import TaskStatus
from ..telemetry import overview
from .guard import LOCAL, Guard

__all__ = ["create_app"]

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #1b1f24; background: #fff }
h1 { font-size: 1.2rem } h2 { font-size: 1rem; margin: 1.2rem 0 .3rem }
table { border-collapse: collapse } th, td { padding: .15rem .8rem .15rem 0; text-align: left; border-bottom: 1px solid #e3e6ea }
td.number { text-align: right; font-variant-numeric: tabular-nums } th { color: #57606a; font-weight: 500 }
div.table { overflow-x: auto } th, td { white-space: nowrap }
nav { margin-bottom: 1rem } nav a { margin-right: 1rem } .error { color: #b42318 }
form { margin-bottom: 1rem } label { display: inline-block; margin: 0 .8rem .4rem 0 } input { font: inherit; max-width: 11rem }
"""

LIMIT = 100
TASK_COLUMNS = (
    "task_id",
    "intent",
    "queue",
    "status",
    "priority",
    "retry_count",
    "created_at",
    "assigned_to",
    "error_code",
)
"""What is shown of a task; its content, results and messages are not."""


def create_app(
    db: Database,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    refresh: int = 5,
) -> Starlette:
    """Return the ASGI application.

    Args:
        db: The database, opened with `read_only=True`, so that nothing can be written.
        host: The address that is listened at.
        token: What a browser passes once as `?token=`, and a program as `Authorization: Bearer`.
        allowed_hosts: Further values of the header Host.
        refresh: Seconds after which the overview is loaded again.

    Raises:
        ConfigurationError: The database is not read-only; or there is no token, and the address is not of this machine.
    """
    if not db.read_only:
        raise ConfigurationError("web: the database can be written to; open it with read_only=True")
    if token is None and host not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigurationError(
            f"--host {host}: others can reach it; pass --token-env with the name of the variable that has the token"
        )

    async def index(_: Request) -> Response:
        found = await run_in_threadpool(overview, db)
        parts = [
            f"<h2>{escape(name.replace('_', ' ').capitalize())}</h2>{_table(list(rows[0]), rows)}"
            for name, rows in asdict(found).items()
            if rows
        ]
        return _page(db, "".join(parts), refresh=refresh)

    async def tasks(request: Request) -> Response:
        asked = {name: value for name, value in request.query_params.items() if value and name in _FILTERS}
        try:
            rows, following = await run_in_threadpool(_tasks, db, asked)
        except InvalidInputError as error:
            return _page(db, f'<p class="error">{escape(str(error))}</p>', status=400)
        except AlfredDBError as error:
            return _page(db, f'<p class="error">{escape(str(error))}</p>', status=503)
        fields = "".join(
            f'<label>{name.replace("_", " ")} <input name="{name}" value="{escape(asked.get(name, ""))}"></label> '
            for name in _FILTERS[:-1]
        )
        more = ""
        if following is not None:
            more = f'<p><a href="?{escape(urlencode({**asked, "after": following}))}">older</a></p>'
        return _page(db, f"<form>{fields}<button>list</button></form>{_table(TASK_COLUMNS, rows)}{more}")

    async def data(_: Request) -> Response:
        return JSONResponse(asdict(await run_in_threadpool(overview, db)))

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def style(_: Request) -> Response:
        return Response(STYLE, media_type="text/css")

    named = f"[{host}]" if ":" in host else host
    return Starlette(
        routes=[
            Route("/", index),
            Route("/tasks", tasks),
            Route("/overview.json", data),
            Route("/health", health),
            Route("/style.css", style),
        ],
        middleware=[Middleware(Guard, token=token, hosts=[*LOCAL, named, *allowed_hosts])],
    )


_FILTERS = ("status", "queue", "intent", "assigned_to", "after")


def _tasks(db: Database, asked: dict[str, str]) -> tuple[list[dict[str, Any]], str | None]:
    status = asked.get("status")
    if status is not None and status not in list(TaskStatus):
        raise InvalidInputError(f"status: expected one of {', '.join(TaskStatus)}")
    with db.begin() as uow:
        page = uow.tasks.list(
            status=None if status is None else TaskStatus(status),
            queue=asked.get("queue"),
            intent=asked.get("intent"),
            assigned_to=asked.get("assigned_to"),
            after=asked.get("after"),
            limit=LIMIT,
        )
        return [{name: getattr(task, name) for name in TASK_COLUMNS} for task in page.items], page.next


def _page(db: Database, body: str, *, status: int = 200, refresh: int | None = None) -> Response:
    tenant = "" if db.schema is None else f", tenant {db.schema}"
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    title = escape(f"{db.url.database}{tenant}")
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>alfred-db {title}</title>{again}'
        f'<link rel="stylesheet" href="/style.css"></head><body><h1>alfred-db {title}</h1>'
        f'<nav><a href="/">overview</a><a href="/tasks">tasks</a></nav>{body}</body></html>',
        status,
    )


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(_cell(row[name]) for name in columns)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:,.1f}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value:,}</td>'
    if isinstance(value, datetime):
        value = value.isoformat(" ", "seconds")
    return f"<td>{'' if value is None else escape(str(value))}</td>"
