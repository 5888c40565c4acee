"""The doctor behind a PgBouncer of each mode, and without one."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from servers import pgbouncer
from sqlalchemy import URL, NullPool, create_engine

from alfred_db.cli import main
from alfred_db.engine import poolers
from alfred_db.engine.poolers import recognise_pooler


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_the_mode_of_a_pooler_is_seen(
    migrated_url: URL, mode: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poolers, "PATIENCE", 1.0)
    with pgbouncer(migrated_url, mode, size=size) as url:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            found = recognise_pooler(connection)
        assert found is not None
        # With one session in all, a session pooler has none for a second client while the first one is there.
        assert found.transaction_mode == (mode == "transaction")
        assert found.name is not None
        assert found.name.startswith("PgBouncer ")


def test_the_doctor_names_the_pooler(migrated_url: URL) -> None:
    with pgbouncer(migrated_url, "transaction") as url:
        result = CliRunner().invoke(
            main, ["doctor", "--json", "--url", url.render_as_string(hide_password=False)]
        )
        shown = json.loads(result.output)["pooler"]
        assert shown.startswith("PgBouncer ")
        assert shown.endswith("it seems in transaction mode")
        text = CliRunner().invoke(main, ["doctor", "--url", url.render_as_string(hide_password=False)]).output
        assert "\npooler      PgBouncer " in text


def test_without_a_pooler_none_is_named(migrated_url: URL) -> None:
    with create_engine(migrated_url, poolclass=NullPool).connect() as connection:
        assert recognise_pooler(connection) is None
    result = CliRunner().invoke(
        main, ["doctor", "--json", "--url", migrated_url.render_as_string(hide_password=False)]
    )
    assert json.loads(result.output)["pooler"] is None


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("aws-0-eu-central-1.pooler.supabase.com", "Supavisor"),
        ("shop.proxy-cq2xyz.eu-west-1.rds.amazonaws.com", "RDS Proxy"),
        ("shop.cq2xyz.eu-west-1.rds.amazonaws.com", None),
        ("db.example", None),
    ],
)
def test_some_are_known_by_their_hosts(host: str, name: str | None) -> None:
    assert poolers._by_host(URL.create("postgresql+psycopg", host=host)) == name
