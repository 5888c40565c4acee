"""The functions that stand in for extensions, the trigger, and the maker of partitions."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import URL, Connection, text

from alfred_db import migrate

from .catalog import column, connected, engine_of, run, scalar, wait_until

DIGESTS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
SECRETS = {
    "short": "secret",
    "empty": "",
    "one block of SHA-256": "k" * 64,
    "a block and one": "k" * 65,
    "one block of SHA-512": "k" * 128,
    "more than each block": "k" * 129,
    "very long": "0123456789" * 100,
    "unicode": "пароль 🔑",
}
LOG = "brk_tracking.broker_request"


@pytest.fixture(scope="module", params=["embedded", "full", "pixeltable16"])
def any_url(request: pytest.FixtureRequest, new_database: Callable[..., URL]) -> URL:
    """A migrated database on a server with pgcrypto and uuid-ossp, and on those without."""
    url = new_database(on=request.param)
    migrate.upgrade(url)
    return url


@pytest.fixture
def connection(any_url: URL) -> Iterator[Connection]:
    with engine_of(any_url).connect() as connection:
        yield connection


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(payload: object, secret: str, algorithm: str, header: object = None) -> str:
    """A JWT made as RFC 7519 says."""
    parts = [header or {"alg": algorithm, "typ": "JWT"}, payload]
    signed = ".".join(encoded(json.dumps(part, ensure_ascii=False).encode()) for part in parts)
    digest = hmac.new(secret.encode(), signed.encode(), DIGESTS[algorithm]).digest()
    return f"{signed}.{encoded(digest)}"


def decoded(part: str) -> object:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def verified(connection: Connection, given: str, secret: str, algorithm: str = "HS256") -> object:
    row = connection.execute(
        text("SELECT header, payload, valid FROM extensions.verify(:token, :secret, :algorithm)"),
        {"token": given, "secret": secret, "algorithm": algorithm},
    ).one()
    return row.valid


def test_keys_are_random_uuids(connection: Connection) -> None:
    keys = list(connection.scalars(text("SELECT extensions.uuid_generate_v4() FROM generate_series(1, 500)")))
    assert len(set(keys)) == 500
    assert {key.version for key in keys} == {4}
    assert all(isinstance(key, uuid.UUID) and key.variant == uuid.RFC_4122 for key in keys)


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("algorithm", DIGESTS)
def test_a_signature_is_the_one_of_hmac(connection: Connection, algorithm: str, secret: str) -> None:
    payload = {"sub": "1234567890", "name": 'Zoë 🎉 \\ " \n', "n": [1, None, True], "long": "x" * 300}
    signed = connection.scalar(
        text("SELECT extensions.sign(CAST(:payload AS json), :secret, :algorithm)"),
        {"payload": json.dumps(payload), "secret": secret, "algorithm": algorithm},
    )
    assert isinstance(signed, str)
    assert not {"\n", "=", "+", "/"} & set(signed)
    header, body, signature = signed.split(".")
    assert decoded(header) == {"alg": algorithm, "typ": "JWT"}
    assert decoded(body) == payload
    digest = hmac.new(secret.encode(), f"{header}.{body}".encode(), DIGESTS[algorithm]).digest()
    assert signature == encoded(digest)
    assert verified(connection, signed, secret, algorithm) is True


def test_the_example_of_the_web_verifies(connection: Connection) -> None:
    given = (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
        "eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiYWRtaW4iOnRydWV9."
        "TJVA95OrM7E2cBab30RMHrHDcEfxjoYZgeFONFh7HgQ"
    )
    row = connection.execute(text("SELECT * FROM extensions.verify(:t, 'secret')"), {"t": given}).one()
    assert row.payload == {"sub": "1234567890", "name": "John Doe", "admin": True}
    assert row.header == {"alg": "HS256", "typ": "JWT"}
    assert row.valid is True


@pytest.mark.parametrize("algorithm", DIGESTS)
def test_a_token_made_elsewhere_verifies(connection: Connection, algorithm: str) -> None:
    given = token({"user": "Ünï", "exp": time.time() + 60, "nbf": time.time() - 60}, "пароль", algorithm)
    assert verified(connection, given, "пароль", algorithm) is True
    assert verified(connection, given, "парол", algorithm) is False


@pytest.mark.parametrize(
    "payload",
    [
        {"exp": 1},
        {"exp": 1.5},
        {"nbf": 32503680000},
        {"exp": 1, "nbf": 0},
        {"exp": 32503680000, "nbf": 32503680000},
    ],
    ids=str,
)
def test_a_token_outside_its_time_is_not_valid(connection: Connection, payload: dict[str, float]) -> None:
    assert verified(connection, token(payload, "s", "HS256"), "s") is False


def test_a_token_that_was_changed_is_not_valid(connection: Connection) -> None:
    header, body, signature = token({"admin": False}, "s", "HS256").split(".")
    forged = encoded(b'{"admin": true}')
    none = encoded(b'{"alg": "none", "typ": "JWT"}')
    other = "A" if signature[0] != "A" else "B"
    for given in (
        f"{header}.{forged}.{signature}",
        f"{header}.{body}.{other}{signature[1:]}",
        f"{header}.{body}.{signature[:-1]}",
        f"{header}.{body}.",
        f"{header}.{body}",
        f"{none}.{body}.",
        f"{none}.{body}.{signature}",
    ):
        assert verified(connection, given, "s") is False, given


def test_the_algorithm_is_the_callers_and_not_the_tokens(connection: Connection) -> None:
    for mine in DIGESTS:
        for theirs in DIGESTS:
            assert verified(connection, token({}, "s", theirs), "s", mine) is (mine == theirs)
    mixed = token({}, "s", "HS256", {"alg": "HS512", "typ": "JWT"})
    assert verified(connection, mixed, "s", "HS256") is False
    assert verified(connection, mixed, "s", "HS512") is False


@pytest.mark.parametrize("algorithm", ["none", "", "RS256", "hs256"])
def test_an_unknown_algorithm_is_an_error(connection: Connection, algorithm: str) -> None:
    with pytest.raises(Exception, match=r"use sha256, sha384 or sha512|Cannot use|pgcrypto|algorithm"):
        connection.scalar(text("SELECT extensions.sign('{}', 's', :algorithm)"), {"algorithm": algorithm})


def test_a_raw_update_moves_updated_at(any_url: URL) -> None:
    run(
        any_url,
        "DELETE FROM tasks",
        "INSERT INTO tasks (task_id, intent, updated_at) VALUES ('t', 'x', '2020-01-01Z')",
    )
    begun = datetime.now(UTC) - timedelta(minutes=1)
    run(any_url, "UPDATE tasks SET intent = 'y'")
    assert scalar(any_url, "SELECT updated_at FROM tasks") > begun
    set_to = datetime(2021, 2, 3, tzinfo=UTC)
    with connected(any_url) as connection:
        connection.execute(text("UPDATE tasks SET intent = 'z', updated_at = :at"), {"at": set_to})
    assert scalar(any_url, "SELECT updated_at FROM tasks") == set_to
    run(any_url, "DELETE FROM tasks")


def months(count: int) -> list[tuple[str, datetime, datetime]]:
    """This month of UTC and those after it: name, first instant, end."""
    now = datetime.now(UTC)
    first = [
        datetime(now.year + (now.month - 1 + n) // 12, (now.month - 1 + n) % 12 + 1, 1, tzinfo=UTC)
        for n in range(count + 1)
    ]
    return [(f"broker_request_{start:%Y_%m}", start, end) for start, end in pairwise(first)]


PARTITIONS = f"""
    SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = '{LOG}'::regclass ORDER BY relname
"""
STORED = f"SELECT tableoid::regclass::text FROM {LOG} WHERE request_id = :id"


def insert(url: URL, request_id: str, at: datetime) -> str:
    """Store a request of some time; gives the partition that has it."""
    with connected(url) as connection:
        connection.execute(
            text(f"INSERT INTO {LOG} (request_id, created_at) VALUES (:id, :at)"),
            {"id": request_id, "at": at},
        )
        found = connection.scalar(text(STORED), {"id": request_id})
    return str(found).rpartition(".")[2]


def test_four_months_have_partitions_with_bounds_in_utc(any_url: URL) -> None:
    assert column(any_url, PARTITIONS) == [
        "broker_request_default",
        *(name for name, _, _ in months(4)),
    ] or column(any_url, PARTITIONS) == [*(name for name, _, _ in months(4)), "broker_request_default"]
    tick = timedelta(microseconds=1)
    for zone in ("Pacific/Kiritimati", "America/Los_Angeles"):
        tenant = f"in_{zone.split('/')[0].lower()}"
        run(any_url, f"ALTER DATABASE {any_url.database} SET timezone = '{zone}'")
        migrate.upgrade(any_url, schema=tenant)
        bounds = "SELECT pg_get_expr(relpartbound, pg_class.oid) FROM pg_class WHERE oid = to_regclass(:name)"
        for name, _, _ in months(4):
            ours, theirs = (
                scalar(any_url, bounds, name=f"{home}.{name}") for home in ("brk_tracking", tenant)
            )
            assert ours == theirs
            assert ours is not None
    for number, (name, start, end) in enumerate(months(4)):
        assert insert(any_url, f"first {number}", start) == name
        assert insert(any_url, f"last {number}", end - tick) == name
    assert insert(any_url, "before", months(1)[0][1] - tick) == "broker_request_default"
    assert insert(any_url, "after", months(4)[3][2]) == "broker_request_default"
    run(any_url, f"ALTER DATABASE {any_url.database} RESET timezone", f"DELETE FROM {LOG}")


def test_keys_of_requests_count_up_whatever_the_partition(any_url: URL) -> None:
    for number, (_, start, _) in enumerate([*months(6), *months(6)]):
        insert(any_url, f"key {number}", start)
    keys = column(
        any_url, f"SELECT id FROM {LOG} WHERE request_id LIKE 'key %' ORDER BY substr(request_id, 5)::int"
    )
    assert keys == list(range(keys[0], keys[0] + 12))
    run(any_url, f"DELETE FROM {LOG}")


def test_early_rows_move_from_the_default_partition_and_a_second_call_does_nothing(any_url: URL) -> None:
    make = f"SELECT extensions.make_month_partitions('{LOG}', :months)"
    there = scalar(any_url, f"SELECT count(*) FROM ({PARTITIONS}) AS p") - 1
    name, start, end = months(there + 1)[there]
    early = [
        insert(any_url, f"early {n}", at)
        for n, at in enumerate((start, end - timedelta(microseconds=1), end))
    ]
    assert early == ["broker_request_default"] * 3
    before = column(any_url, f"SELECT to_jsonb(r) FROM {LOG} AS r ORDER BY request_id")
    assert scalar(any_url, make, months=there) == 1
    assert scalar(any_url, make, months=there) == 0
    assert column(any_url, f"SELECT to_jsonb(r) FROM {LOG} AS r ORDER BY request_id") == before
    assert [str(scalar(any_url, STORED, id=f"early {n}")).rpartition(".")[2] for n in range(3)] == [
        name,
        name,
        "broker_request_default",
    ]
    like = "SELECT reloptions FROM pg_class WHERE relname = :name AND relnamespace = 'brk_tracking'::regnamespace"
    assert scalar(any_url, like, name=name) == ["fillfactor=90"]
    run(any_url, f"DELETE FROM {LOG}")
    migrate.check(any_url)


def test_two_callers_at_once_make_each_partition_once(any_url: URL) -> None:
    make = f"SELECT extensions.make_month_partitions('{LOG}', :months)"
    there = scalar(any_url, f"SELECT count(*) FROM ({PARTITIONS}) AS p") - 1
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: scalar(any_url, make, months=there + 4), range(4)))
    assert sorted(made) == [0, 0, 0, 5]
    assert scalar(any_url, f"SELECT count(*) FROM ({PARTITIONS}) AS p") - 1 == there + 5


def test_a_writer_who_has_not_committed_is_waited_for(any_url: URL) -> None:
    make = f"SELECT extensions.make_month_partitions('{LOG}', :months)"
    there = scalar(any_url, f"SELECT count(*) FROM ({PARTITIONS}) AS p") - 1
    name, start, _ = months(there + 1)[there]
    with ThreadPoolExecutor(1) as pool, engine_of(any_url).connect() as writer:
        writer.execute(
            text(f"INSERT INTO {LOG} (request_id, created_at) VALUES ('late', :at)"), {"at": start}
        )
        making = pool.submit(scalar, any_url, make, months=there)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        wait_until(lambda: scalar(any_url, waiting) or making.done())
        writer.commit()
        assert making.result(10) == 1
    assert str(scalar(any_url, STORED, id="late")).rpartition(".")[2] == name
    run(any_url, f"DELETE FROM {LOG}")
