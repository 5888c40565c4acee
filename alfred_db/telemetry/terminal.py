"""The overview as tables on a terminal, drawn anew every few seconds. Needs the extra `top`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..database import Database
from .overview import Overview, overview

__all__ = ["drawn", "show"]

LISTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "unhandled": ("Intents that nobody handles", ("intent", "seconds")),
    "queues": ("Queues", ("queue", "ready", "delayed", "running", "expired", "failed", "oldest", "longest")),
    "workers": ("Workers", ("worker_id", "tasks", "longest")),
    "running": ("Longest-running tasks", ("task_id", "intent", "queue", "worker_id", "seconds", "expired")),
    "schedules": ("Schedules", ("id", "name", "schedule", "timezone", "due_in")),
    "workflows": ("Workflows", ("name", "status", "executions")),
    "consumers": ("Consumers of events", ("consumer", "unread", "lag")),
    "failed": ("Tasks that failed last", ("task_id", "intent", "queue", "error_code", "seconds")),
    "errors": ("Lists that cannot be read", ("list", "error")),
}
"""What is drawn: the title and the columns of each list."""

SECONDS = {"seconds", "oldest", "longest", "lag", "due_in", "seen"}


def show(
    db: Database,
    *,
    interval: float,
    rows: int,
    once: bool = False,
    console: Console | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> bool:
    """Draw the overview until interrupted.

    Args:
        db: The database.
        interval: Seconds between two looks.
        rows: Rows of each list.
        once: Print it once, and return.
        console: The terminal; by default that of the process.
        stopping: Called after each look; true returns.

    Returns:
        Whether the database was reached at the last look.
    """
    terminal = console or Console()
    if once:
        found = overview(db, listed=rows)
        terminal.print(drawn(db, found))
        return bool(found.server)
    with Live(console=terminal, screen=True, auto_refresh=False) as live:
        while True:
            found = overview(db, listed=rows)
            live.update(drawn(db, found), refresh=True)
            if stopping():
                return bool(found.server)
            time.sleep(interval)


def drawn(db: Database, found: Overview) -> RenderableType:
    """Return the overview as tables; a list without rows is left out."""
    return Group(*_parts(db, found))


def _parts(db: Database, found: Overview) -> Iterator[RenderableType]:
    tenant = "" if db.schema is None else f", tenant {db.schema}"
    now = datetime.now().strftime("%H:%M:%S")
    yield Text(
        _plain(f"alfred-db {db.url.render_as_string(hide_password=True)}{tenant}  {now}"), style="bold"
    )
    for server in found.server:
        yield Text(
            f"connections {server['connections']}/{server['most']}  locks {server['locks']} ({server['waiting']} waiting)"
            f"  longest transaction {_seconds(server['longest'])}  size {server['size'] / 1e6:,.0f} MB"
        )
    for name, (title, columns) in LISTS.items():
        rows: list[dict[str, Any]] = getattr(found, name)
        if rows:
            yield Text(f"\n{title}", style="bold cyan")
            yield _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        numeric = isinstance(rows[0][name], int | float) and not isinstance(rows[0][name], bool)
        table.add_column(
            name.replace("_", " "),
            justify="right" if numeric or name in SECONDS else "left",
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in columns))
    return table


def _cell(name: str, value: Any) -> Text:
    shown = _seconds(value) if name in SECONDS else "-" if value is None else _plain(str(value))
    return Text(shown, style="red" if _late(name, value) else "")


def _late(name: str, value: Any) -> bool:
    """Whether a value is shown in red."""
    return (
        bool(value) if name in ("expired", "failed") else name == "due_in" and value is not None and value < 0
    )


def _plain(text: str) -> str:
    """Replace what a terminal would take for a command; a name may have any character."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    sign, left = ("-", -value) if value < 0 else ("", value)
    if left < 60:
        return f"{sign}{left:.1f} s"
    minutes, rest = divmod(int(left), 60)
    if minutes < 60:
        return f"{sign}{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours} h {minutes:02d} min" if hours < 48 else f"{sign}{hours // 24} d {hours % 24} h"
