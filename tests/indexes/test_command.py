"""`alfred-db vectors`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from alfred_db import Database
from alfred_db.cli import Commands
from alfred_db.cli.vectors import vectors
from alfred_db.indexes import rebuilding

from .care import DOCUMENTS, KNOWLEDGE, LOADED, PARTITIONS, TABLES, home, indexes, invalidate

Run = Callable[..., Result]


def command(database: Database) -> Run:
    commands = Commands("alfred-db", commands=[vectors])
    address = database.url.render_as_string(hide_password=False)
    of = [] if database.schema is None else ["--schema", database.schema]

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(commands, ["vectors", *arguments, "--url", address, *of])

    return run


def test_the_command_shows_the_state(tenant: Database) -> None:
    run = command(tenant)
    well = run("status")
    assert well.exit_code == (1 if "can corrupt" in well.output else 0), well.output
    lines = well.output.splitlines()
    assert len([line for line in lines if "idx" in line]) == len(TABLES)
    assert f"{home(tenant)}.documents" in lines[1]
    assert f"{LOADED:,}" in lines[1]
    invalidate(tenant, DOCUMENTS)
    broken = run("status")
    assert broken.exit_code == 1
    assert f"warning  {home(tenant)}.{DOCUMENTS}: invalid" in broken.output
    done = run("status", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert [one["table"] for one in found] == TABLES
    assert found[0]["state"] == "invalid"
    assert found[0]["valid"] is False
    assert found[0]["rows"] == LOADED


def test_the_command_rebuilds(tenant: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "POLLED_EVERY", 0.002)
    run = command(tenant)
    assert run("rebuild").output == "nothing to rebuild\n"
    invalidate(tenant, DOCUMENTS)
    done = run("rebuild", "--maintenance-work-mem", "128MB")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"rebuilt {home(tenant)}.{DOCUMENTS} in ")
    assert done.stdout.count("\n") == 1
    assert f"{DOCUMENTS}: building index" in done.stderr
    done = run("rebuild", "--index", KNOWLEDGE, "--json")
    assert [one["table"] for one in json.loads(done.stdout)] == PARTITIONS
    assert all(one.valid for one in indexes(tenant))


def test_the_command_measures(library: Database) -> None:
    run = command(library)
    done = run(
        "recall", "--table", "documents", "--target", "0.9", "--samples", "20", "--ef", "40", "--ef", "200"
    )
    assert done.exit_code == 0, done.output
    assert "recall@10 of 20 stored vectors" in done.output
    assert "is the smallest that meets 0.9" in done.output


def test_the_command_reports_when_none_meets_the_target(poor: Database) -> None:
    done = command(poor)("recall", "--table", "documents", "--samples", "60", "--ef", "10", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["ef"] is None
    assert found["target"] == 0.95
    assert found["measured"][0]["ef"] == 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rebuild", "--index", "nobody"], "no vector index has this name"),
        (["recall", "--table", "nobody"], "has no vector index"),
        (["recall", "--table", "memories"], "fewer than two vectors"),
        (["recall", "--table", "documents", "--target", "2"], "target: expected"),
        (["status", "--schema", "no such"], "the name of a tenant"),
    ],
)
def test_a_mistake_is_one_line(library: Database, arguments: list[str], says: str) -> None:
    done = command(library)(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("alfred-db: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_wants_a_table(library: Database) -> None:
    done = command(library)("recall")
    assert done.exit_code == 2
    assert "Missing option '--table'" in done.stderr
