"""What one call costs: its time in an open transaction that is rolled back, its statements, the rows that they read.

auto_explain reports each statement to the session that executes it, with its plan and the rows of each node.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from sqlalchemy import text

from alfred_db import Database
from alfred_db.repositories import UnitOfWork

from .calls import Place, calls

__all__ = ["Cost", "measured"]

SLOW_MS = 20.0
PATIENCE_MS = 60_000
"""How long a statement may take; a call that needs longer has no figure."""

EXPLAINED = (
    "LOAD 'auto_explain'",
    "SET auto_explain.log_min_duration = 0",
    "SET auto_explain.log_analyze = on",
    "SET auto_explain.log_timing = off",
    "SET auto_explain.log_format = 'json'",
    "SET auto_explain.log_parameter_max_length = 0",
    "SET auto_explain.log_nested_statements = off",
    "SET client_min_messages = 'log'",
)


@dataclass
class Cost:
    """A call at one size."""

    ms: float | None = None
    """The median of five; None if it failed."""
    statements: int = 0
    """SELECT, INSERT, UPDATE and DELETE statements; not BEGIN, SET or COPY."""
    rows: int = 0
    """Rows that the scans of all statements read, with those that a filter removed."""
    plans: list[str] = field(default_factory=list)
    error: str | None = None


def measured(database: Database, place: Place, runs: int = 5) -> dict[str, Cost]:
    """Run every call; each run is rolled back."""
    return {name: _cost(database, name, build, place, runs) for name, build in calls()}


def _cost(
    database: Database, name: str, build: Callable[[Place], dict[str, Any]], place: Place, runs: int
) -> Cost:
    noun, _, method = name.partition(",")[0].partition(".")
    cost, taken = Cost(), []

    def once(uow: UnitOfWork) -> float:
        given = dict(build(place))
        positional = given.pop("names", ())
        call = getattr(getattr(uow, noun), method)
        start = time.perf_counter()
        call(*positional, **given)
        return 1000 * (time.perf_counter() - start)

    try:
        for _ in range(runs):
            with database.session() as session:
                uow = UnitOfWork(session)
                session.execute(text(f"SET LOCAL statement_timeout = {PATIENCE_MS}"))
                taken.append(once(uow))
                session.rollback()
            if taken[-1] > 5000:
                break
        cost.ms = median(taken)
        cost.plans = list(_explained(database, once, cost))
    except Exception as error:  # whatever a method raises belongs on the page
        cost.error = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
    return cost


def _explained(database: Database, once: Callable[[UnitOfWork], float], cost: Cost) -> Iterator[str]:
    """Run the call once more, and return the plans of its statements if it is slow."""
    reported: list[str] = []
    with database.session() as session:
        raw: Any = session.connection().connection.driver_connection
        for setting in EXPLAINED:
            session.execute(text(setting.replace("SET ", "SET LOCAL ")))

        def listen(message: Any) -> None:
            reported.append(message.message_primary or "")

        raw.add_notice_handler(listen)
        try:
            once(UnitOfWork(session))
            session.execute(
                text("SELECT 1")
            )  # ends the last statement of the call, which is reported only then
        finally:
            raw.remove_notice_handler(listen)
            session.rollback()
    for message in reported:
        _, found, document = message.partition("plan:\n")
        if not found:
            continue
        plan = json.loads(document)
        if plan["Query Text"] == "SELECT 1":
            continue
        cost.statements += 1
        cost.rows += _read(plan["Plan"])
        if cost.ms is not None and cost.ms > SLOW_MS:
            yield "\n".join([" ".join(plan["Query Text"].split())[:300], *_lines(plan["Plan"])])


def _read(node: dict[str, Any]) -> int:
    """The rows of all scans of tables and indexes."""
    own = 0
    if "Relation Name" in node and "Scan" in node["Node Type"]:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        own = round((node.get("Actual Rows", 0) + removed) * node.get("Actual Loops", 1))
    return own + sum(_read(child) for child in node.get("Plans", ()))


def _lines(node: dict[str, Any], depth: int = 0) -> Iterator[str]:
    where = " on ".join(node[key] for key in ("Index Name", "Relation Name") if key in node)
    rows = f"rows={node.get('Actual Rows', 0):.0f} loops={node.get('Actual Loops', 1)}"
    removed = node.get("Rows Removed by Filter")
    also = f" removed={removed}" if removed else ""
    yield f"{'  ' * depth}{node['Node Type']} {where} ({rows}{also})".replace("  (", " (")
    for child in node.get("Plans", ()):
        yield from _lines(child, depth + 1)
