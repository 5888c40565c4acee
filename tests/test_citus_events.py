"""Events on a coordinator of Citus, as tests/fake_citus.py makes it: the node of the table commits later than it."""

from __future__ import annotations

import fake_citus
import pytest
from sqlalchemy import URL

from alfred_db import ConfigurationError, Database, DatabaseUnavailable

pytestmark = pytest.mark.not_on_citus("a stand-in for Citus is installed")

MODS = "SET allow_system_table_mods = on"


@pytest.fixture
def url(database_url: URL) -> URL:
    fake_citus.install(database_url)
    return database_url


def test_what_the_node_has_only_prepared_is_waited_for(url: URL) -> None:
    fake_citus.distribute(url, "events")
    with Database(url) as db:
        with db.begin() as uow:
            uow.events.subscribe("reader", ["t"])
        with db.begin() as uow:  # the coordinator's part of a transaction in two phases
            uow.events.publish("t", {"number": 1})
            uow.session.connection().exec_driver_sql(MODS)
            uow.session.connection().exec_driver_sql(
                "INSERT INTO pg_catalog.pg_dist_transaction (groupid, gid) VALUES (1, 'citus_0_7_1_1')"
            )
        with db.begin() as uow:
            uow.events.publish("t", {"number": 2})
        # Until the node commits, its rows cannot be seen. To read the second event would leave out the first one.
        fake_citus.execute(url, MODS, "INSERT INTO pg_catalog.fake_prepared VALUES ('citus_0_7_1_1')")
        with db.begin() as uow:
            assert uow.events.read("reader") == []
            assert uow.events.list("t").items == []
            assert uow.events.purge(older_than=0) == 0
        fake_citus.execute(url, MODS, "DELETE FROM pg_catalog.fake_prepared")
        with db.begin() as uow:
            assert [event.payload["number"] for event in uow.events.read("reader")] == [1, 2]


def test_a_prepared_transaction_without_a_record_holds_nobody_back(url: URL) -> None:
    fake_citus.distribute(url, "events")
    with Database(url) as db, db.begin() as uow:
        uow.events.subscribe("reader", ["t"])
        uow.events.publish("t")
    fake_citus.execute(url, MODS, "INSERT INTO pg_catalog.fake_prepared VALUES ('citus_0_8_1_1')")
    with Database(url) as db, db.begin() as uow:
        assert len(uow.events.read("reader")) == 1


def test_events_wait_while_the_node_does_not_answer(url: URL) -> None:
    fake_citus.distribute(url, "events")
    with Database(url) as db, db.begin() as uow:
        uow.events.subscribe("reader", ["t"])
    fake_citus.execute(url, MODS, "INSERT INTO pg_catalog.fake_prepared VALUES ('', false)")
    with (
        Database(url) as db,
        pytest.raises(DatabaseUnavailable, match="does not answer") as caught,
        db.begin() as uow,
    ):
        uow.events.read("reader")
    assert caught.value.retryable


def test_a_tenant_that_is_not_distributed_asks_no_node(url: URL) -> None:
    with Database(url) as db, db.begin() as uow:
        uow.events.subscribe("reader", ["t"])
        uow.events.publish("t")
    fake_citus.execute(url, MODS, "INSERT INTO pg_catalog.fake_prepared VALUES ('', false)")
    with Database(url) as db, db.begin() as uow:
        assert len(uow.events.read("reader")) == 1


@pytest.mark.parametrize("call", ["publish", "publish_many", "read", "peek", "list", "subscribe"])
def test_events_are_refused_through_a_worker(url: URL, call: str) -> None:
    with Database(url) as db, db.begin() as uow:
        uow.events.subscribe("reader", ["t"])
    fake_citus.become_worker(url)
    arguments = {
        "publish": ["t"],
        "publish_many": [[{"topic": "t"}]],
        "read": ["reader"],
        "peek": ["reader"],
        "list": ["t"],
        "subscribe": ["another", ["t"]],
    }
    with (
        Database(url) as db,
        pytest.raises(ConfigurationError, match="connect to the coordinator"),
        db.begin() as uow,
    ):
        getattr(uow.events, call)(*arguments[call])


def test_the_size_of_a_distributed_table_is_that_of_its_shards(url: URL) -> None:
    from alfred_db.execution._sync.citus import size_of

    with Database(url) as db, db.begin() as uow:
        bank = uow.memory_banks.get_or_create("bank").id
        for number in range(50):
            uow.memories.remember(bank, f"text {number}")
    fake_citus.execute(url, "ANALYZE memories")
    with Database(url) as db, db.begin() as uow:
        rows, pages = size_of(uow.session, "memories")
        assert (rows, pages > 0) == (50, True)
    fake_citus.distribute(url, "memories")
    fake_citus.execute(
        url,
        MODS,
        # What the coordinator knows of it is nothing; the stand-in answers for the shard.
        "CREATE OR REPLACE FUNCTION pg_catalog.run_command_on_shards(relation regclass, command text, parallel boolean DEFAULT true)"
        " RETURNS TABLE (shardid bigint, success boolean, result text) LANGUAGE sql AS $$ SELECT 102008, true, '50 3' $$",
        "UPDATE pg_catalog.pg_class SET reltuples = -1, relpages = 0 WHERE oid = 'memories'::regclass",
    )
    with Database(url) as db, db.begin() as uow:
        assert size_of(uow.session, "memories") == (50, 3)
