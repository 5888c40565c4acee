"""Callers of the catalogs, the graph and validation who really act at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise, permutations
from typing import Any

import pytest
from faults.races import races
from faults.together import call, errors, results, together
from sqlalchemy import URL, text

from alfred_db import Database, TestCaseStatus, TestRunStatus
from alfred_db.errors import AlfredDBError, ConflictError, InvalidTransition, NotFoundError
from alfred_db.repositories import UnitOfWork

ROUNDS = 5
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def db(database_url: URL) -> Iterator[Database]:
    with Database(database_url, pool_size=12) as database:
        yield database


def count(db: Database, table: str) -> int:
    with db.session() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}")) or 0


def register(uow: UnitOfWork, name: str = "m", score: float = 0.5) -> Any:
    endpoint: Any = {"endpoint_type": "rest", "endpoint_url": f"https://{score}"}
    return uow.model_registry.register(
        name,
        display_name="d",
        provider="p",
        model_type="t",
        endpoints=[endpoint],
        capabilities={"chat": score, "code": score},
    ).id


def catalog(uow: UnitOfWork) -> int:
    """A hosted model with a price."""
    broker = uow.broker_catalog
    broker.put_provider("azure", name="Azure")
    broker.put_maker("openai", name="OpenAI")
    broker.put_family("gpt", maker="openai", name="GPT")
    broker.put_model("gpt-4o", family="gpt", name="GPT-4o")
    broker.put_snapshot("gpt-4o", "may", name="May")
    hosted = broker.put_hosted_model("azure", "gpt-4o", model="gpt-4o", snapshot="may").id
    broker.put_price("azure", "gpt-4o", input_price=Decimal(1), output_price=Decimal(2), valid_from=START)
    return hosted


# The model registry


@races("model_registry.register")
def test_a_model_that_many_register_is_one_and_whole(db: Database) -> None:
    scores = [0.1, 0.2, 0.3, 0.4]
    done = together(db, *(lambda uow, score=score: register(uow, score=score) for score in scores))
    assert len(set(results(done))) == 1
    with db.begin() as uow:
        found = uow.model_registry.capabilities("m")
        (endpoint,) = uow.model_registry.endpoints("m")
        assert found["chat"] == found["code"]
        assert endpoint.endpoint_url == f"https://{found['chat']}"


@races("model_registry.update", "model_registry.deprecate")
def test_a_model_is_updated_and_deprecated_at_once(db: Database) -> None:
    call(db, register)
    results(
        together(
            db,
            lambda uow: uow.model_registry.update("m", {"version": "2"}).version,
            lambda uow: uow.model_registry.deprecate("m").name,
            lambda uow: uow.model_registry.deprecate("m").name,
        )
    )
    with db.begin() as uow:
        model = uow.model_registry.get("m")
        assert model is not None
        assert model.version == "2"
        assert model.deprecated_at is not None
        assert uow.model_registry.find_best("chat") is None


@races("model_registry.import_catalog")
def test_registries_in_opposite_order_are_imported_at_once(db: Database) -> None:
    for number in range(20):
        call(db, lambda uow, number=number: register(uow, f"m{number}"))
    document = call(db, lambda uow: uow.model_registry.export_catalog())
    backwards = {"registry": document["registry"][::-1]}
    for _ in range(ROUNDS):
        done = together(
            db, *(lambda uow, of=of: uow.model_registry.import_catalog(of) for of in (document, backwards))
        )
        assert errors(done) == []
    assert count(db, "model_registry.models") == 20


# The broker's catalog


@races(
    "broker_catalog.put_provider",
    "broker_catalog.put_maker",
    "broker_catalog.put_family",
    "broker_catalog.put_model",
    "broker_catalog.put_snapshot",
    "broker_catalog.put_hosted_model",
    "broker_catalog.put_price",
)
def test_a_catalog_that_many_put_is_one(db: Database) -> None:
    assert len(set(results(together(db, *[catalog] * 4)))) == 1
    document = call(db, lambda uow: uow.broker_catalog.export_catalog())
    assert {section: len(rows) for section, rows in document.items()} == dict.fromkeys(document, 1)  # type: ignore[arg-type]


@races("broker_catalog.import_catalog")
def test_catalogs_in_opposite_order_are_imported_at_once(db: Database) -> None:
    providers = [{"code": f"p{number}", "name": "n"} for number in range(30)]
    for number in range(ROUNDS):
        named = [{**provider, "name": f"n{number}"} for provider in providers]
        documents = {"providers": named}, {"providers": named[::-1]}
        done = together(db, *(lambda uow, of=of: uow.broker_catalog.import_catalog(of) for of in documents))
        assert errors(done) == []
    assert count(db, "brk_registry.hosting_provider") == 30


def test_prices_from_the_same_time_are_one(db: Database) -> None:
    call(db, catalog)
    at = START + timedelta(days=1)
    prices = [Decimal(number) for number in range(1, 5)]
    results(
        together(
            db,
            *(
                lambda uow, price=price: (
                    uow.broker_catalog.put_price(
                        "azure", "gpt-4o", input_price=price, output_price=price, valid_from=at
                    ).id
                )
                for price in prices
            ),
        )
    )
    with db.begin() as uow:
        found = uow.broker_catalog.list_prices("azure", "gpt-4o")
        assert [price.valid_from for price in found] == [START, at]
        assert found[1].input_price == found[1].output_price


# The request log


@races("broker_requests.start")
def test_requests_of_one_name_are_as_many_as_were_started(db: Database) -> None:
    hosted = call(db, catalog)
    start = lambda uow: uow.broker_requests.start("r", hosted_model_id=hosted).id  # noqa: E731
    assert len(set(results(together(db, *[start] * 4)))) == 4
    with db.begin() as uow:
        assert [one.model for one in uow.broker_requests.attempts("r")] == ["gpt-4o"] * 4


@races("broker_requests.finish")
def test_a_request_that_many_finish_ends_once(db: Database) -> None:
    hosted = call(db, catalog)
    for _ in range(ROUNDS):
        key = call(
            db,
            lambda uow: (lambda row: (row.id, row.created_at))(
                uow.broker_requests.start("r", hosted_model_id=hosted)
            ),
        )
        done = together(
            db,
            *(
                lambda uow, key=key, tokens=tokens: uow.broker_requests.finish(*key, prompt_tokens=tokens).id
                for tokens in (1_000_000, 2_000_000, 3_000_000)
            ),
        )
        assert errors(done) == [InvalidTransition] * 2
        with db.begin() as uow:
            request = uow.broker_requests.get(*key)
            assert request is not None
            assert request.cost == Decimal(request.prompt_tokens or 0) / 1_000_000


@races("broker_requests.log_many")
def test_requests_are_logged_while_months_are_made(db: Database) -> None:
    hosted = call(db, catalog)
    now = datetime.now(UTC)
    rows = [
        {
            "request_id": "r",
            "hosted_model_id": hosted,
            "prompt_tokens": 1,
            "created_at": now + timedelta(days=days),
        }
        for days in range(0, 180, 3)
    ]
    for months in range(3, 7):
        done = together(
            db,
            lambda uow: uow.broker_requests.log_many(rows),  # type: ignore[arg-type]
            lambda uow, months=months: uow.broker_requests.make_partitions(months),
            lambda uow: uow.broker_requests.log_many(rows),  # type: ignore[arg-type]
            lambda uow: len(uow.broker_requests.usage(now, now + timedelta(days=200))),
        )
        # A conflicting import asks to be retried, and leaves nothing behind.
        conflicts = [error for future in done if (error := future.exception()) is not None]
        assert all(isinstance(error, ConflictError) and error.retryable for error in conflicts), conflicts
    logged = count(db, "brk_tracking.broker_request")
    assert logged % len(rows) == 0
    call(db, lambda uow: uow.broker_requests.make_partitions(7))
    assert call(db, lambda uow: uow.broker_requests.count_default()) == 0
    with db.begin() as uow:
        (used,) = uow.broker_requests.usage(now - timedelta(days=1), now + timedelta(days=200))
        assert used.requests == logged


@races("broker_requests.purge", "broker_requests.purgeable")
def test_each_old_request_is_purged_once(db: Database) -> None:
    old = datetime.now(UTC) - timedelta(days=2)
    rows: Any = [{"request_id": "r", "created_at": old}] * 50 + [{"request_id": "r"}] * 5
    call(db, lambda uow: uow.broker_requests.log_many(rows))
    assert call(db, lambda uow: uow.broker_requests.purgeable(older_than=86_400)) == 50
    purged = results(together(db, *[lambda uow: uow.broker_requests.purge(older_than=86_400, limit=20)] * 4))
    left = call(db, lambda uow: uow.broker_requests.purge(older_than=86_400))
    assert sum(purged) + left == 50
    assert count(db, "brk_tracking.broker_request") == 5


@races("broker_requests.make_partitions", "broker_requests.due_partitions", "broker_requests.partitions")
def test_the_coming_months_are_made_once(db: Database) -> None:
    for months in range(4, 4 + ROUNDS):
        before, due = call(db, names), call(db, lambda uow, n=months: uow.broker_requests.due_partitions(n))
        make = lambda uow, n=months: uow.broker_requests.make_partitions(n)  # noqa: E731
        seen, still_due, *made = together(
            db, names, lambda uow, n=months: uow.broker_requests.due_partitions(n), *[make] * 3
        )
        assert sorted(results(made)) == [0, 0, 1]
        assert seen.result() in (before, call(db, names))
        assert still_due.result() in (due, [])
    with db.begin() as uow:
        assert uow.broker_requests.due_partitions(months) == []


@races(
    "broker_requests.detach_partition",
    "broker_requests.old_partitions",
    "broker_requests.partition_readers",
    "broker_requests.count_default",
)
@pytest.mark.parametrize("drop", [False, True], ids=["detach", "drop"])
def test_a_month_is_taken_away_once(db: Database, drop: bool) -> None:
    after = call(db, names)
    for _ in range(ROUNDS):
        name = old_month(db)
        before = call(db, names)
        take = lambda uow, name=name: uow.broker_requests.detach_partition(name, drop=drop)  # noqa: E731
        seen, old, readers, counted, *taken = together(
            db,
            names,
            lambda uow: [part.name for part in uow.broker_requests.old_partitions(1)],
            lambda uow, name=name: uow.broker_requests.partition_readers(name),
            lambda uow: uow.broker_requests.count_default(),
            *[take] * 2,
        )
        assert errors(taken) == [NotFoundError]
        assert seen.result() in (before, after)
        assert old.result() in ([name], [])
        assert errors([readers]) in ([], [NotFoundError])
        assert counted.result() == 0
        assert call(db, names) == after
        with db.begin() as uow:
            uow.session.execute(text(f"DROP TABLE IF EXISTS {name}"))


def names(uow: UnitOfWork) -> list[str]:
    return [part.name for part in uow.broker_requests.partitions()]


def old_month(db: Database) -> str:
    """Make a partition that is older than any other; return its name."""
    with db.begin() as uow:
        uow.session.execute(
            text(
                "CREATE TABLE brk_tracking.broker_request_2020_01 PARTITION OF brk_tracking.broker_request"
                " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')"
            )
        )
    return "brk_tracking.broker_request_2020_01"


def test_who_asks_for_a_month_while_it_is_dropped_does_not_get_it(db: Database) -> None:
    name = old_month(db)
    after = [one for one in call(db, names) if one != name]
    asks: list[Callable[[UnitOfWork], Any]] = [
        names,
        lambda uow: list(uow.broker_requests.old_partitions(1)),
        lambda uow: uow.broker_requests.count_default(),
        lambda uow: uow.broker_requests.partition_readers(name),
    ]
    with ThreadPoolExecutor(len(asks)) as pool, db.begin() as uow:
        uow.broker_requests.detach_partition(name, drop=True)
        asked = [pool.submit(call, db, ask) for ask in asks]
        wait_until_all_wait(db, len(asks))
    *seen, readers = asked
    assert results(seen) == [after, [], 0]
    assert errors([readers]) == [NotFoundError]


def wait_until_all_wait(db: Database, many: int) -> None:
    """Until so many of the database's transactions wait for a lock."""
    deadline = time.monotonic() + 30
    waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while count(db, waiting) < many:
        assert time.monotonic() < deadline, f"{count(db, waiting)} of {many} wait"
        time.sleep(0.02)


@races("broker_requests.schedule_maintenance", "broker_requests.unschedule_maintenance")
def test_a_job_is_made_and_taken_away_once(cron: Database) -> None:
    schedule = lambda uow: uow.broker_requests.schedule_maintenance()  # noqa: E731
    for _ in range(ROUNDS):
        assert len(set(results(together(cron, *[schedule] * 4)))) == 1
        gone = together(cron, *[lambda uow: uow.broker_requests.unschedule_maintenance()] * 4)
        assert sorted(results(gone)) == [False, False, False, True]


# The graph


@races("entities.upsert_node", "entities.upsert_edge")
def test_nodes_and_facts_that_many_state_are_one(db: Database) -> None:
    def state(uow: UnitOfWork, number: int) -> Any:
        ada = uow.entities.upsert_node("person", "ada", properties={f"p{number}": number}).id
        bob = uow.entities.upsert_node("person", "bob", properties={f"p{number}": number}).id
        return uow.entities.upsert_edge(ada, bob, "knows", properties={f"p{number}": number}).id

    done = together(db, *(lambda uow, number=number: state(uow, number) for number in range(4)))
    assert len(set(results(done))) == 1
    with db.begin() as uow:
        ada = uow.entities.find_node("person", "ada")
        assert ada is not None
        assert set(ada.properties) == {"p0", "p1", "p2", "p3"}
        (fact,) = uow.entities.facts(ada.id)
        assert set(fact.properties) == {"p0", "p1", "p2", "p3"}


@races("entities.delete_node")
def test_an_edge_and_the_end_of_its_node_do_not_miss_each_other(db: Database) -> None:
    for number in range(ROUNDS):
        a, b = call(db, lambda uow, n=number: [uow.entities.upsert_node("t", f"{n}{k}").id for k in "ab"])
        stated, deleted = together(
            db,
            lambda uow, a=a, b=b: uow.entities.upsert_edge(a, b, "next").id,
            lambda uow, b=b: uow.entities.delete_node(b),
        )
        assert deleted.exception() is None
        assert stated.exception() is None or isinstance(stated.exception(), ConflictError)
        assert call(db, lambda uow, a=a: uow.entities.neighbours(a)) == []
    assert count(db, "entity.entity_edge") == 0


@races("entities.end_edge", "entities.supersede_edge", "entities.delete_edge")
def test_a_fact_ends_once_however_it_ends(db: Database) -> None:
    for number in range(ROUNDS):
        a, b = call(db, lambda uow, n=number: [uow.entities.upsert_node("t", f"{n}{k}").id for k in "ab"])
        edge = call(db, lambda uow, a=a, b=b: uow.entities.upsert_edge(a, b, "next").id)
        done = together(
            db,
            lambda uow, edge=edge: uow.entities.end_edge(edge).id,
            lambda uow, edge=edge: uow.entities.supersede_edge(edge).id,
            lambda uow, edge=edge: uow.entities.delete_edge(edge),
        )
        assert set(errors(done)) <= {NotFoundError}
        assert count(db, "entity.entity_edge") == 0


def test_walks_see_whole_transactions(db: Database) -> None:
    nodes = call(db, lambda uow: [uow.entities.upsert_node("t", str(number)).id for number in range(6)])

    def chain(uow: UnitOfWork) -> int:
        for one, next_ in pairwise(nodes):
            uow.entities.upsert_edge(one, next_, "next")
        return len(nodes) - 1

    done = together(
        db,
        chain,
        lambda uow: len(uow.entities.neighbours(nodes[0], depth=10)),
        lambda uow: len(uow.entities.subgraph([nodes[0]], depth=10, direction="out").edges),
        lambda uow: uow.entities.shortest_path(nodes[0], nodes[-1]) is not None and 5,
    )
    assert set(results(done)) <= {0, 5}
    path = call(db, lambda uow: uow.entities.shortest_path(nodes[0], nodes[-1]))
    assert path is not None
    assert [node.id for node in path.nodes] == nodes


# Validation


@races("validation.create_suite", "validation.start_run")
def test_suites_and_runs_are_as_many_as_are_begun(db: Database) -> None:
    suites = results(together(db, *[lambda uow: uow.validation.create_suite("s").id] * 4))
    runs = results(together(db, *[lambda uow: uow.validation.start_run(suites[0]).id] * 4))
    with db.begin() as uow:
        assert sorted(suites) == [suite.id for suite in uow.validation.list_suites()]
        assert sorted(runs) == [run.id for run in uow.validation.list_runs(suites[0])]


@races("validation.record", "validation.finish_run", "validation.cancel_run")
def test_a_run_ends_once_and_counts_every_figure(db: Database) -> None:
    suite = call(db, lambda uow: uow.validation.create_suite("s").id)
    case = call(db, lambda uow: uow.validation.add_case(suite, "c").id)
    for _ in range(ROUNDS):
        run = call(db, lambda uow: uow.validation.start_run(suite).id)
        recorded, ended, again, cancelled = together(
            db,
            lambda uow, run=run: uow.validation.record(case, "m", 0, threshold=1, run_id=run).id,
            lambda uow, run=run: uow.validation.finish_run(run).status,
            lambda uow, run=run: uow.validation.finish_run(run).status,
            lambda uow, run=run: uow.validation.cancel_run(run).status,
        )
        assert errors([ended, again, cancelled]) == [InvalidTransition] * 2
        (status,) = {one.result() for one in (ended, again, cancelled) if one.exception() is None}
        if status is not TestRunStatus.CANCELLED:
            failed = recorded.exception() is None
            assert status is (TestRunStatus.FAILED if failed else TestRunStatus.PASSED)


@races("validation.set_baseline")
def test_one_run_is_the_baseline(db: Database) -> None:
    suite = call(db, lambda uow: uow.validation.create_suite("s").id)
    runs = [call(db, lambda uow: uow.validation.start_run(suite).id) for _ in range(3)]
    for run in runs:
        call(db, lambda uow, run=run: uow.validation.finish_run(run).id)
    for order in permutations(runs):
        results(together(db, *(lambda uow, run=run: uow.validation.set_baseline(run).id for run in order)))
        assert count(db, "test_runs WHERE is_baseline") == 1


@races("validation.add_case", "validation.finish_case")
def test_cases_are_added_and_executed_at_once(db: Database) -> None:
    suite = call(db, lambda uow: uow.validation.create_suite("s").id)
    cases = results(together(db, *[lambda uow: uow.validation.add_case(suite, "c").id] * 4))
    assert len(set(cases)) == 4
    statuses = results(
        together(
            db,
            *(
                lambda uow, status=status: (
                    uow.validation.finish_case(cases[0], status, result=status.value).status
                )
                for status in (TestCaseStatus.PASSED, TestCaseStatus.FAILED)
            ),
        )
    )
    assert statuses == [TestCaseStatus.PASSED, TestCaseStatus.FAILED]
    with db.begin() as uow:
        case = uow.validation.get_case(cases[0])
        assert case is not None
        assert case.result == case.status.value


def test_every_error_is_one_of_the_librarys(db: Database) -> None:
    done = together(db, *[lambda uow: uow.broker_catalog.put_family("f", maker="none", name="n").id] * 2)
    assert all(issubclass(kind, AlfredDBError) for kind in errors(done))
    assert len(errors(done)) == 2
