"""`alfred-db catalog` and `alfred-db maintain`, and the same upkeep by pg_cron."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from forked import Program
from injection import HOSTILE
from sqlalchemy import URL, Engine, event, text

from alfred_db import Database, Event
from alfred_db.cli import main
from alfred_db.config import command
from alfred_db.errors import InvalidInputError
from alfred_db.interchange.catalog import seed
from alfred_db.migrate.grants import apply
from alfred_db.repositories import UnitOfWork
from alfred_db.repositories._sync.broker import BrokerCatalogRepository
from alfred_db.repositories._sync.broker_requests import BrokerRequestRepository

Run = Callable[..., Result]


def on(url: URL) -> Run:
    """Runs the command on a database: `run("catalog", "load")`."""
    address = url.render_as_string(hide_password=False)

    def run(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(main, [*arguments, "--url", address], input=text)

    return run


@pytest.fixture
def run(database_url: URL) -> Run:
    return on(database_url)


@pytest.fixture(params=[None, "acme"], ids=["public", "acme"])
def tenant(request: pytest.FixtureRequest, database_url: URL) -> Iterator[Database]:
    with Database(database_url, schema=request.param) as database:
        yield database


def of(tenant: Database) -> list[str]:
    return [] if tenant.schema is None else ["--schema", tenant.schema]


def sql(database: Database, statement: str) -> list[tuple[object, ...]]:
    with database.session() as session:
        done = session.execute(text(statement))
        rows = [tuple(row) for row in done] if done.returns_rows else []  # type: ignore[attr-defined]
        session.commit()
        return rows


# catalog


def test_the_seed_is_loaded_by_default_and_again(run: Run, database_url: URL) -> None:
    for _ in range(2):
        done = run("catalog", "load")
        assert done.exit_code == 0, done.output
        assert re.fullmatch(r"loaded providers \d+, makers \d+, .* prices 0, registry 0\n", done.output), (
            done.output
        )
    with Database(database_url) as database, database.begin() as uow:
        assert BrokerCatalogRepository(uow.session).get_family("claude") is not None


def test_what_is_exported_is_what_was_loaded(run: Run, tmp_path: Path) -> None:
    document = json.loads(seed())
    document["prices"] = [
        {"provider": "openai", "code": "gpt-4o", "valid_from": "2025-01-01T00:00:00+00:00"}
        | {"input_price": "0.123456789", "output_price": "1000", "currency": "EUR"}
    ]
    document["registry"] = [
        {"name": "ours", "display_name": "Ö", "provider": "openai", "model_type": "chat"}
        | {"endpoints": [{"endpoint_type": "rest", "headers": {"a": "b"}}], "capabilities": {"chat": 0.5}}
    ]
    done = run("catalog", "load", "-", text=json.dumps(document))
    assert done.exit_code == 0, done.output
    file = tmp_path / "out.json"
    done = run("catalog", "export", str(file))
    assert (done.exit_code, done.output) == (0, "")
    exported = file.read_text("utf-8")
    assert "Ö" in exported
    assert json.loads(exported)["prices"] == document["prices"]
    assert json.loads(exported)["registry"] == document["registry"]
    assert [entry["code"] for entry in json.loads(exported)["models"]] == sorted(
        entry["code"] for entry in document["models"]
    )
    assert run("catalog", "load", str(file)).exit_code == 0
    assert run("catalog", "export").output == exported


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "not JSON"),
        ('{"makers": [{"code": "a"}]}', r"makers\[0\]: without name"),
        ('{"registry": [{"name": "a"}], "makers": [{"code": "a", "name": "A"}]}', r"registry\[0\]: without"),
        (
            '{"makers": [{"code": "a", "name": "A"}], "families": [{"code": "f", "name": "F", "maker": "b"}]}',
            "maker 'b'",
        ),
    ],
)
def test_a_wrong_file_is_one_line_and_leaves_nothing(
    run: Run, database_url: URL, document: str, says: str
) -> None:
    done = run("catalog", "load", "-", text=document)
    assert done.exit_code == 2
    assert re.match(f"alfred-db: .*{says}", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    with Database(database_url) as database, database.begin() as uow:
        assert len(BrokerCatalogRepository(uow.session).list_makers()) == 0


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"{}\n\xc3\x28", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_text_is_named(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.json").write_bytes(content)
    done = run("catalog", "load", str(tmp_path / "catalog.json"))
    assert done.exit_code == 2
    assert re.match(r"alfred-db: .*catalog\.json, line \d: expected UTF-8 text", done.stderr), done.stderr


def test_a_file_that_is_not_there_is_a_usage_error(run: Run) -> None:
    done = run("catalog", "load", "/nowhere.json")
    assert done.exit_code == 2
    assert "No such file" in done.stderr


def test_a_database_without_the_tables_is_one_line(empty_url: URL) -> None:
    done = on(empty_url)("catalog", "load")
    assert done.exit_code == 2
    assert f"run {command('upgrade', empty_url)}" in done.stderr


# maintain


def test_the_coming_months_are_made(tenant: Database) -> None:
    run = on(tenant.url)
    assert run("maintain", *of(tenant)).output == "nothing to make\n"
    before = sql(tenant, "SELECT count(*) FROM pg_inherits")
    planned = run("maintain", *of(tenant), "--months-ahead", "5", "--dry-run")
    home = tenant.schema or "brk_tracking"
    assert re.fullmatch(
        rf"(would make {home}\.broker_request_\d{{4}}_\d\d\n){{2}}"
        rf"(would make {tenant.schema or 'public'}\.events_\d{{4}}_\d\d\n){{2}}",
        planned.output,
    )
    assert sql(tenant, "SELECT count(*) FROM pg_inherits") == before
    done = run("maintain", *of(tenant), "--months-ahead", "5")
    assert done.exit_code == 0
    assert done.output == planned.output.replace("would make", "made")
    assert run("maintain", *of(tenant), "--months-ahead", "5").output == "nothing to make\n"


@pytest.mark.parametrize("drop", [False, True], ids=["detach", "drop"])
def test_old_months_are_taken_away_one_by_one(tenant: Database, drop: bool) -> None:
    run, home = on(tenant.url), tenant.schema or "brk_tracking"
    for year in (2020, 2021, 2022):
        sql(
            tenant,
            f"CREATE TABLE {home}.broker_request_{year}_01 PARTITION OF {home}.broker_request"
            f" FOR VALUES FROM ('{year}-01-01 00:00+00') TO ('{year}-02-01 00:00+00')",
        )
    with tenant.begin() as uow:
        BrokerRequestRepository(uow.session).log_many(
            [
                {"request_id": "r", "created_at": datetime(year, month, 1, tzinfo=UTC)}
                for year in (2020, 2022, 2023)
                for month in (1, 2)
            ]
        )
    arguments = ["maintain", *of(tenant), "--keep-months", "1", *(["--drop", "--yes"] if drop else [])]
    planned = run(*arguments, "--dry-run")
    verb = "drop" if drop else "detach"
    lines = [line for line in planned.stdout.splitlines() if "would" in line]
    assert [re.sub(r", [\d,]+ bytes", "", line) for line in lines] == [
        f"would {verb} {home}.broker_request_{year}_01" for year in (2020, 2021, 2022)
    ]
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    done_verb = "dropped" if drop else "detached"
    assert done.stdout == planned.stdout.replace(f"would {verb}", done_verb)
    assert "4 rows are in the default partition" in done.stderr
    left = sql(tenant, f"SELECT to_regclass('{home}.broker_request_2020_01') IS NOT NULL")
    assert left == [(not drop,)]
    assert sql(tenant, f"SELECT count(*) FROM {home}.broker_request") == [(4,)]
    assert run(*arguments).stdout == "nothing to make\n"


def test_one_of_the_logs_is_looked_after(tenant: Database) -> None:
    run = on(tenant.url)
    done = run("maintain", *of(tenant), "--only", "events", "--months-ahead", "4")
    assert re.fullmatch(rf"made {tenant.schema or 'public'}\.events_\d{{4}}_\d\d\n", done.output)
    assert (
        run("maintain", *of(tenant), "--only", "requests", "--months-ahead", "3").output
        == "nothing to make\n"
    )
    assert run("maintain", "--only", "tasks").exit_code == 2


@pytest.mark.parametrize("drop", [False, True], ids=["detach", "drop"])
def test_events_that_are_still_to_be_read_are_kept(tenant: Database, drop: bool) -> None:
    run, home = on(tenant.url), tenant.schema or "public"
    old_months(tenant)
    verb, done_verb = ("drop", "dropped") if drop else ("detach", "detached")
    arguments = ["maintain", *of(tenant), "--keep-months", "1", *(["--drop", "--yes"] if drop else [])]
    for extra, verb_then in ((["--dry-run"], f"would {verb}"), ([], done_verb)):
        done = run(*arguments, *extra)
        assert done.exit_code == 1
        assert f"kept {home}.events_2020_01: still to be read by c\n" in done.stderr
        assert re.search(rf"^{verb_then} {home}\.events_2021_01, [\d,]+ bytes$", done.stdout, re.MULTILINE)
        assert "events_2020_01" not in done.stdout
    with tenant.begin() as uow:
        assert len(uow.events.read("c")) == 1
    done = run(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{done_verb} {home}.events_2020_01" in done.stdout
    assert sql(tenant, f"SELECT to_regclass('{home}.events_2020_01') IS NOT NULL") == [(not drop,)]


def old_months(database: Database) -> None:
    """Partitions of events of two Januaries; of the first a consumer has one still to read."""
    home = database.schema or "public"
    for year in (2020, 2021):
        sql(
            database,
            f"CREATE TABLE {home}.events_{year}_01 PARTITION OF {home}.events"
            f" FOR VALUES FROM ('{year}-01-01 00:00+00') TO ('{year}-02-01 00:00+00')",
        )
    with database.begin() as uow:
        uow.events.subscribe("c", ["t"], start="beginning")
        for topic, year in (("t", 2020), ("x", 2021)):
            at = datetime(year, 1, 2, tzinfo=UTC)
            uow.session.add(Event(topic=topic, payload={}, created_at=at, began_at=at))
            uow.session.flush()


def test_what_would_destroy_too_much_is_refused(run: Run) -> None:
    done = run("maintain", "--drop")
    assert done.exit_code == 2
    assert "--drop needs --keep-months" in done.stderr
    done = run("maintain", "--keep-months", "-1")
    assert done.exit_code == 2
    assert "keep_months: expected 0 to 1,200, got -1" in done.stderr


def test_without_pg_cron_the_error_states_what_to_do_instead(run: Run) -> None:
    done = run("maintain", "--schedule", "0 3 * * *")
    assert done.exit_code == 2
    assert (
        "alfred-db: pg_cron is not installed in this database: have cron run `alfred-db maintain"
        in done.stderr
    )


# Two at once


def at_once(database: Database, lock: str, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Run the commands, each in a process, which go on together when all wait for the lock; status, stdout, stderr."""
    waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    address = database.url.render_as_string(hide_password=False)
    with ExitStack() as stack:
        with database.engine.begin() as connection:
            connection.execute(text(f"LOCK TABLE {lock}"))
            running = [
                stack.enter_context(Program("-m", "alfred_db.cli", *command, "--url", address))
                for command in commands
            ]
            deadline = time.monotonic() + 60
            while sql(database, f"SELECT count(*) FROM {waiting}") != [(len(commands),)]:
                assert time.monotonic() < deadline, "they do not meet"
                time.sleep(0.05)
        outputs = [process.communicate(timeout=180) for process in running]
        return [(process.returncode, *output) for process, output in zip(running, outputs, strict=True)]


def catalogs(name: str) -> dict[str, list[dict[str, object]]]:
    """Two makers and two models of that name."""
    model = {"display_name": name, "provider": name, "model_type": "chat", "capabilities": {name: 1}}
    return {
        "makers": [{"code": code, "name": name} for code in "ab"],
        "registry": [{"name": code, **model} for code in "ab"],
    }


def names_in(document: dict[str, list[dict[str, object]]]) -> set[object]:
    return {
        *(maker["name"] for maker in document["makers"]),
        *(model["display_name"] for model in document["registry"]),
        *(capability for model in document["registry"] for capability in model["capabilities"]),  # type: ignore[attr-defined]
    }


def test_of_two_files_loaded_at_once_one_is_the_last(run: Run, database_url: URL, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(json.dumps(catalogs(name)), "utf-8")
    with Database(database_url) as database:
        loads = [["catalog", "load", str(tmp_path / name)] for name in ("one", "two")]
        done = at_once(database, "brk_registry.model_maker IN SHARE MODE", *loads)
    assert [(status, errors) for status, _, errors in done] == [(0, "")] * 2
    assert names_in(json.loads(run("catalog", "export").stdout)) in ({"one"}, {"two"})


def test_what_is_loaded_during_an_export_is_not_in_it(run: Run, database_url: URL) -> None:
    assert run("catalog", "load", "-", text=json.dumps(catalogs("old"))).exit_code == 0
    loaded: list[bool] = []
    with Database(database_url) as database:

        def load(connection: object, cursor: object, statement: str, *_: object) -> None:
            if "model_maker" in statement and not loaded:
                loaded.append(True)
                with database.begin() as uow:
                    uow.broker_catalog.import_catalog(catalogs("new"))  # type: ignore[arg-type]
                    uow.model_registry.import_catalog(catalogs("new"))  # type: ignore[arg-type]

        event.listen(Engine, "after_cursor_execute", load)
        try:
            assert names_in(json.loads(run("catalog", "export").stdout)) == {"old"}
        finally:
            event.remove(Engine, "after_cursor_execute", load)
    assert names_in(json.loads(run("catalog", "export").stdout)) == {"new"}


def test_of_two_who_maintain_at_once_one_makes_the_months(tenant: Database) -> None:
    home = tenant.schema or "brk_tracking"
    command = ["maintain", *of(tenant), "--months-ahead", "5", "--only", "requests"]
    done = at_once(tenant, f"{home}.broker_request IN SHARE UPDATE EXCLUSIVE MODE", command, command)
    assert [(status, errors) for status, _, errors in done] == [(0, "")] * 2
    made, nothing = sorted((output for _, output, _ in done), key=len, reverse=True)
    assert re.fullmatch(rf"(made {home}\.broker_request_\d{{4}}_\d\d\n){{2}}", made)
    assert nothing == "nothing to make\n"


@pytest.mark.parametrize("log", ["events", "broker_request"])
@pytest.mark.parametrize("drop", [False, True], ids=["detach", "drop"])
def test_of_two_who_maintain_at_once_one_takes_the_month_away(tenant: Database, drop: bool, log: str) -> None:
    home = tenant.schema or ("public" if log == "events" else "brk_tracking")
    for year in (2020, 2021):
        sql(
            tenant,
            f"CREATE TABLE {home}.{log}_{year}_01 PARTITION OF {home}.{log}"
            f" FOR VALUES FROM ('{year}-01-01 00:00+00') TO ('{year}-02-01 00:00+00')",
        )
    with tenant.begin() as uow:
        uow.events.subscribe("c", ["t"])
    command = ["maintain", *of(tenant), "--keep-months", "1", *(["--drop", "--yes"] if drop else [])]
    done = at_once(tenant, f"{home}.{log} IN SHARE UPDATE EXCLUSIVE MODE", command, command)
    assert [(status, errors) for status, _, errors in done] == [(0, "")] * 2
    lines = "".join(output for _, output, _ in done)
    verb = "dropped" if drop else "detached"
    for year in (2020, 2021):
        assert len(re.findall(rf"^{verb} {home}\.{log}_{year}_01, ", lines, re.MULTILINE)) == 1
    assert f"{home}.{log}_2020_01 no longer exists\n" in lines


# pg_cron


def wait_for_both(cron: Database) -> None:
    """Wait until both jobs have begun and ended once more, and well."""
    ended = (
        "SELECT jobid, status, return_message FROM cron.job_run_details"
        " WHERE status IN ('succeeded', 'failed') AND start_time > :since"
    )
    deadline = time.monotonic() + 60
    with cron.session() as session:
        since = session.scalar(text("SELECT clock_timestamp()"))
        found: dict[int, str] = {}
        while len(found) < 2 and time.monotonic() < deadline:
            for job, status, message in session.execute(text(ended), {"since": since}):
                assert status == "succeeded", message
                found[job] = status
            session.rollback()
            time.sleep(0.2)
    assert len(found) == 2


def test_pg_cron_does_the_upkeep(cron: Database) -> None:
    run = on(cron.url)
    sql(
        cron,
        "CREATE TABLE brk_tracking.broker_request_2020_01 PARTITION OF brk_tracking.broker_request"
        " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')",
    )
    old_months(cron)
    arguments = ["maintain", "--months-ahead", "6", "--keep-months", "12", "--drop", "--yes", "--schedule"]
    for schedule in ("0 3 * * *", "1 seconds"):
        done = run(*arguments, schedule)
        assert done.exit_code == 0, done.output
        assert re.fullmatch(r"(pg_cron runs it as job \d+\n){2}", done.output)
    assert sql(cron, "SELECT jobname, schedule FROM cron.job ORDER BY jobname") == [
        ('alfred-db maintain "brk_tracking".broker_request', "1 seconds"),
        ("alfred-db maintain events", "1 seconds"),
    ]
    wait_for_both(cron)
    assert sql(cron, "SELECT to_regclass('events_2021_01'), to_regclass('events_2020_01')") == [
        (None, "events_2020_01")
    ], "what is still to be read is kept"
    with cron.begin() as uow:
        assert len(uow.events.read("c")) == 1
    wait_for_both(cron)
    assert sql(cron, "SELECT to_regclass('events_2020_01')") == [(None,)]
    with cron.begin() as uow:
        assert uow.events.due_partitions(6) == []
        assert uow.events.unschedule_maintenance() is True
        requests = BrokerRequestRepository(uow.session)
        assert requests.due_partitions(6) == []
        assert list(requests.old_partitions(12)) == []
        assert requests.unschedule_maintenance() is True
        assert requests.unschedule_maintenance() is False
    assert sql(cron, "SELECT to_regclass('brk_tracking.broker_request_2020_01')") == [(None,)]
    assert sql(cron, "SELECT count(*) FROM cron.job") == [(0,)]


def test_pg_cron_does_the_upkeep_of_a_role_that_does_not_own_the_tables(cron: Database) -> None:
    """The jobs run as the application, and call the functions of the owner."""
    role = f"cron_app_{os.getpid()}"
    sql(
        cron,
        "CREATE TABLE brk_tracking.broker_request_2020_01 PARTITION OF brk_tracking.broker_request"
        " FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')",
    )
    old_months(cron)
    with cron.engine.begin() as connection:
        apply(connection, {"app": role}, None)
        connection.execute(text(f"ALTER ROLE {role} LOGIN; GRANT USAGE ON SCHEMA cron TO {role}"))
    try:
        arguments = ["maintain", "--months-ahead", "6", "--keep-months", "12", "--drop", "--yes"]
        done = on(cron.url.set(username=role))(*arguments, "--schedule", "1 seconds")
        assert done.exit_code == 0, done.output
        assert sql(cron, "SELECT DISTINCT username FROM cron.job WHERE jobname LIKE 'alfred-db%'") == [
            (role,)
        ]
        assert sql(cron, "SELECT count(*) FROM cron.job WHERE command LIKE '%alfred_make_partitions%'") == [
            (2,)
        ]
        wait_for_both(cron)
        assert sql(cron, "SELECT to_regclass('events_2021_01'), to_regclass('events_2020_01')") == [
            (None, "events_2020_01")
        ], "what is still to be read is kept"
        with cron.begin() as uow:
            assert len(uow.events.read("c")) == 1
        wait_for_both(cron)
        assert sql(cron, "SELECT to_regclass('events_2020_01')") == [(None,)]
        assert sql(cron, "SELECT to_regclass('brk_tracking.broker_request_2020_01')") == [(None,)]
        owner = sql(cron, "SELECT DISTINCT relowner FROM pg_class WHERE oid IN ('events'::regclass)")
        made = "SELECT DISTINCT relowner FROM pg_class JOIN pg_inherits ON inhrelid = oid WHERE inhparent = 'events'::regclass"
        assert sql(cron, made) == owner
        with Database(cron.url.set(username=role)) as app, app.begin() as uow:
            assert uow.events.due_partitions(6) == []
            assert uow.events.unschedule_maintenance() is True
            assert uow.broker_requests.unschedule_maintenance() is True
    finally:
        sql(cron, f"SELECT cron.unschedule(jobid) FROM cron.job WHERE username = '{role}'")
        sql(cron, f'DROP OWNED BY "{role}"')
        sql(cron, f'DROP ROLE "{role}"')


def test_a_hostile_schedule_is_refused(cron: Database) -> None:
    on(cron.url)("maintain", "--schedule", "0 3 * * *")
    for kind, value in HOSTILE.items():
        for noun in ("broker_requests", "events"):
            with cron.session() as session, pytest.raises(InvalidInputError) as refused:
                getattr(UnitOfWork(session), noun).schedule_maintenance(schedule=value)
            message = str(refused.value)
            assert len(message) < 1000, kind
            assert message.isprintable(), kind
    assert sql(cron, "SELECT DISTINCT schedule FROM cron.job") == [("0 3 * * *",)]


def test_a_schedule_that_pg_cron_does_not_understand_is_one_line(cron: Database) -> None:
    done = on(cron.url)("maintain", "--schedule", "whenever")
    assert done.exit_code == 2
    assert done.stderr.startswith("alfred-db: "), done.stderr
