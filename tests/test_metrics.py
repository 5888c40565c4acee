"""The figures of a database: what Prometheus reads of them, the alert rules, and the dashboard."""

from __future__ import annotations

import json
import os
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from servers import free_port
from sqlalchemy import URL, text

from alfred_db import AsyncDatabase, Base, Database
from alfred_db.cli import main
from alfred_db.telemetry import figures
from alfred_db.telemetry.figures import PARTS
from alfred_db.telemetry.prometheus import DatabaseCollector, render, serve

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy/prometheus/alfred-db.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/alfred-db.json"

THRESHOLDS = {
    "AlfredDatabaseDown": "alfred_db_up < 1",
    "AlfredConnectionsHigh": "alfred_db_connections > 800",
    "AlfredLocksHigh": "alfred_db_locks > 200",
    "AlfredTransactionLong": "alfred_db_longest_transaction_seconds > 2",
    "AlfredTransactionRateHigh": "> 5000",
    "AlfredPoolExhausted": "> 500",
    "AlfredCacheLarge": "> 3e9",
    "AlfredCacheBusy": "> 50000",
    "AlfredCollectionsMany": "alfred_db_knowledge_collections > 20",
    "AlfredSearchSlow": "> 0.5",
    "AlfredSearchRateHigh": "> 5000",
}
"""The thresholds of the platform's reference: of PostgreSQL, of Redis' roles, and of the vector store's."""

BY_OTEL = {"db_client_operation_duration_seconds_bucket", "db_client_operation_duration_seconds_count"}


def parsed(content: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The values by name and labels; a figure that comes twice is an error."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(content):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            key = tuple(sorted(sample.labels.items()))
            assert key not in found.setdefault(sample.name, {})
            found[sample.name][key] = sample.value
    return found


def value(found: Any, name: str, **labels: str) -> float | None:
    return found[name].get(tuple(sorted(labels.items())))  # type: ignore[no-any-return]


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


HOSTILE = 'a "b" \\ \n {c="d"} é'


def seed(db: Database) -> None:
    with db.begin() as uow:
        uow.tasks.enqueue_many([{"intent": "i", "queue": HOSTILE} for _ in range(3)])
        uow.tasks.enqueue("i", queue="late", delay=1000)
        uow.tasks.enqueue("held", queue="busy")
        uow.tasks.enqueue("bad", queue="busy", max_retries=0)
        for task in uow.tasks.claim(worker="w", queues=["busy"], limit=2):
            if task.intent == "bad":
                uow.tasks.fail(task, "no")
        uow.scheduler.create("s", "c", schedule="* * * * *")
        uow.scheduler.trigger(uow.scheduler.create("paused", "c")[0].id)
        uow.workflows.activate(uow.workflows.define("w", {})[0].id)
        uow.workflows.start("w")
        uow.events.subscribe("c", ["t"], start="beginning")
        uow.events.publish_many([{"topic": "t"}] * 4)
        uow.agents.register("a", type="t", version="1")
        uow.knowledge.create_collection("mine")
        uow.session.execute(
            text(
                "UPDATE tasks SET available_at = now() - interval '400 s' WHERE status = 'pending' AND queue <> 'late'"
            )
        )
        uow.session.execute(
            text(
                "UPDATE scheduler_tasks SET next_run_at = now() - interval '90 s' WHERE schedule IS NOT NULL"
            )
        )
    db.cache.set("k", b"v" * 1000)


def test_the_figures_match_the_rows(db: Database) -> None:
    seed(db)
    found = parsed(render(db))
    assert value(found, "alfred_db_up") == 1
    assert {labels[0][1] for labels in found["alfred_db_part_up"]} == set(PARTS)
    assert set(found["alfred_db_part_up"].values()) == {1}
    assert value(found, "alfred_db_queue_tasks", queue=HOSTILE, state="ready") == 3
    assert value(found, "alfred_db_queue_tasks", queue="late", state="delayed") == 1
    assert value(found, "alfred_db_queue_tasks", queue="busy", state="running") == 1
    assert value(found, "alfred_db_queue_tasks", queue="busy", state="failed") == 1
    assert value(found, "alfred_db_queue_tasks", queue="busy", state="expired") == 0
    assert 400 <= (value(found, "alfred_db_queue_oldest_ready_seconds", queue=HOSTILE) or 0) < 500
    assert value(found, "alfred_db_queue_oldest_ready_seconds", queue="late") is None
    assert value(found, "alfred_db_workers_busy") == 1
    assert (value(found, "alfred_db_unhandled_intent_seconds", intent="i") or 0) >= 400
    assert value(found, "alfred_db_schedules", active="true") == 2
    assert value(found, "alfred_db_schedules_due") == 1
    assert 90 <= (value(found, "alfred_db_schedule_lag_seconds") or 0) < 190
    assert value(found, "alfred_db_executions", status="pending") == 1
    assert value(found, "alfred_db_workflow_executions", status="pending") == 1
    assert value(found, "alfred_db_workflow_executions", status="failed") == 0
    assert value(found, "alfred_db_consumer_unread_events", consumer="c") == 4
    assert sum(found["alfred_db_agents"].values()) == 1
    assert value(found, "alfred_db_knowledge_collections") == 5
    assert (value(found, "alfred_db_connections") or 0) >= 1
    assert value(found, "alfred_db_pool_size") == 5
    tables = {mapper.local_table.fullname for mapper in Base.registry.mappers}  # type: ignore[attr-defined]
    assert {labels[0][1] for labels in found["alfred_db_table_bytes"]} == tables
    assert (value(found, "alfred_db_table_bytes", table="cache") or 0) > 0
    assert found["alfred_db_transactions_total"].keys() == {
        (("outcome", "commit"),),
        (("outcome", "rollback"),),
    }


def test_of_a_tenant_and_from_asyncio(database_url: URL, db: Database) -> None:
    seed(db)
    with Database(database_url, schema="acme") as tenant:
        assert parsed(render(tenant)).get("alfred_db_queue_tasks", {}) == {}
        with tenant.begin() as uow:
            uow.tasks.enqueue("i", queue="q")
        found = parsed(render(AsyncDatabase(database_url, schema="acme", pool_size=7)))
        assert value(found, "alfred_db_queue_tasks", queue="q", state="ready") == 1
        assert value(found, "alfred_db_pool_size") == 7
        assert set(found["alfred_db_part_up"].values()) == {1}


def test_what_a_role_may_not_read_is_left_out(database_url: URL, db: Database) -> None:
    role = f"alfred_reader_{os.getpid()}"
    with db.begin() as uow:
        uow.session.execute(text(f"CREATE ROLE {role} LOGIN"))
        uow.session.execute(text(f"GRANT SELECT ON tasks TO {role}"))
    try:
        with Database(database_url.set(username=role)) as reader:
            found = parsed(render(reader))
        parts = {labels[0][1]: up for labels, up in found["alfred_db_part_up"].items()}
        assert parts == dict.fromkeys(PARTS, 0) | {"tasks": 1, "workers": 1, "server": 1}
        assert value(found, "alfred_db_up") == 1
    finally:
        with db.begin() as uow:
            uow.session.execute(text(f"DROP OWNED BY {role}"))
            uow.session.execute(text(f"DROP ROLE {role}"))


def test_a_database_that_is_down_is_a_figure_too(migrated_url: URL) -> None:
    away = migrated_url.set(host="127.0.0.1", port=free_port(), query={})
    with Database(away) as db:
        found = parsed(render(db))
    assert value(found, "alfred_db_up") == 0
    assert "alfred_db_queue_tasks" not in found
    done = CliRunner().invoke(main, ["metrics", "--url", away.render_as_string(hide_password=False)])
    assert done.exit_code == 1
    assert value(parsed(done.stdout), "alfred_db_up") == 0


def test_nothing_is_written_and_each_scrape_reads_anew(db: Database) -> None:
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(db))
    with db.begin() as uow:
        uow.tasks.enqueue("i", queue="q")
    before = parsed(generate_latest(registry).decode())
    with db.begin() as uow:
        uow.tasks.enqueue("i", queue="q")
    after = parsed(generate_latest(registry).decode())
    assert [value(one, "alfred_db_queue_tasks", queue="q", state="ready") for one in (before, after)] == [
        1,
        2,
    ]


def test_over_http(db: Database) -> None:
    seed(db)
    server, thread = serve(db, "127.0.0.1", 0)
    results: list[str] = []

    def scrape() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=60) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            results.append(answer.read().decode())

    scrapes = [threading.Thread(target=scrape) for _ in range(3)]
    try:
        for each in scrapes:
            each.start()
        for each in scrapes:
            each.join()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [value(parsed(one), "alfred_db_up") for one in results] == [1, 1, 1]


@pytest.mark.parametrize("address", ["127.0.0.1:x", "127.0.0.1:99999", ":-1", "[::1]:"])
def test_an_address_that_is_none(migrated_url: URL, address: str) -> None:
    url = migrated_url.render_as_string(hide_password=False)
    done = CliRunner().invoke(main, ["metrics", "--serve", address, "--url", url])
    assert done.exit_code == 2
    assert "expected an address" in done.stderr


def test_the_command_prints_them(migrated_url: URL) -> None:
    done = CliRunner().invoke(main, ["metrics", "--url", migrated_url.render_as_string(hide_password=False)])
    assert done.exit_code == 0
    assert value(parsed(done.stdout), "alfred_db_up") == 1


# Rules and dashboard


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:alfred_db|db_client)_\w+", expression)) - {"db_client"}


@pytest.fixture
def known(db: Database) -> dict[str, tuple[str, ...]]:
    """The names of all figures, with their labels."""
    return {figure.name: figure.labels for figure in figures(db)}


def check(expression: str, known: dict[str, tuple[str, ...]]) -> None:
    """Names and labels are those of figures, and brackets match: there is no parser of PromQL at hand."""
    names = names_in(expression)
    assert names, expression
    assert names - known.keys() <= BY_OTEL, expression
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing), expression
    for name, inside in re.findall(r"(alfred_db_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r'(\w+)=~?"', inside))
        assert labels <= {*known[name], "instance"}, expression
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        labels = {"instance", "le", "db_operation_name"}.union(*(known.get(name, ()) for name in names))
        assert set(re.split(r",\s*", grouped)) <= labels, expression


def test_the_alert_rules_are_about_figures(known: dict[str, tuple[str, ...]]) -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        check(rule["expr"], known)
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        summary = rule["annotations"]["summary"]
        for label in re.findall(r"\$labels\.(\w+)", summary):
            labels = {"db_operation_name"}.union(*(known.get(name, ()) for name in names_in(rule["expr"])))
            assert label in labels, summary
    expressions = {rule["alert"]: rule["expr"] for rule in rules}
    for alert, threshold in THRESHOLDS.items():
        assert threshold in expressions[alert]


def test_the_dashboard_shows_every_figure(known: dict[str, tuple[str, ...]]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "alfred-db"
    assert {one["name"] for one in dashboard["templating"]["list"]} == {"datasource", "instance"}
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    shown: set[str] = set()
    for panel in panels:
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & mine, f"{panel['title']} is drawn over another one"
        assert at["x"] + at["w"] <= 24
        cells |= mine
        targets = panel.get("targets", [])
        assert len({target["refId"] for target in targets}) == len(targets)
        for target in targets:
            check(target["expr"], known)
            assert target["datasource"]["uid"] == "${datasource}"
            shown |= names_in(target["expr"])
    assert known.keys() - shown == set()
