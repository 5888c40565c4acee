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
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import URL, Connection, text

from alfred_db import migrate

from .catalog import column, connected, engine_of, run, scalar, wait_until

DIGESTS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
SECRETS = {
    "short": "secret",
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


# pgjwt 0.2 in Python: what its functions do, read from its source.


def sign(payload: str, secret: str, algorithm: str = "HS256") -> str:
    """A token, byte for byte: the header without spaces, the payload as it was given."""
    parts = [f'{{"alg":"{algorithm}","typ":"JWT"}}', payload]
    signed = ".".join(encoded(part.encode()) for part in parts)
    return f"{signed}.{encoded(hmac.new(secret.encode(), signed.encode(), DIGESTS[algorithm]).digest())}"


def double(found: Any) -> float | None:
    """`try_cast_double` of what `->>` returns."""
    try:
        return None if found is None or isinstance(found, bool) else float(found)
    except (TypeError, ValueError):
        return None


def valid(given: str, secret: str, algorithm: str, now: float) -> bool:
    """What `verify` of pgjwt says; raises where it does."""
    header, body, *rest = given.split(".")
    json.loads(
        base64.b64decode(header.replace("-", "+").replace("_", "/") + "=" * (-len(header) % 4), validate=True)
    )
    claims = decoded(body)
    signature = encoded(hmac.new(secret.encode(), f"{header}.{body}".encode(), DIGESTS[algorithm]).digest())
    assert isinstance(claims, dict)
    early, late = (double(claims.get(name)) for name in ("nbf", "exp"))
    if early is not None and late is not None and early > late:
        raise ValueError("range lower bound must be less than or equal to range upper bound")
    return rest[:1] == [signature] and (early is None or early <= now) and (late is None or now < late)


FAR = 9_000_000_000
PAYLOADS = [
    "{}",
    '{"b":1, "a" :2,"b": 3}',
    '{ "sub" : "1234567890","name":"J\\u00f6hn \\ud83d\\udd11 пароль" }',
    "[1, 2]",
    '{"exp": null, "nbf": null}',
    *(f'{{"exp": {when}}}' for when in (1, 1.5, -1, FAR, f"{FAR}.25", "1e1", "9e9", f'"{FAR}"', '"1"')),
    *(f'{{"nbf": {when}}}' for when in (1, 0.5, -7, FAR, "9e9", f'"{FAR}"', '"1"')),
    *(f'{{"nbf": {early}, "exp": {late}}}' for early, late in ((1, FAR), (FAR, FAR + 1), (1, 2), (FAR, 1))),
]


@pytest.mark.parametrize("algorithm", DIGESTS)
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_tokens_are_those_of_pgjwt_byte_for_byte(connection: Connection, secret: str, algorithm: str) -> None:
    signs = text("SELECT extensions.sign(CAST(:payload AS json), :secret, :algorithm)")
    for payload in PAYLOADS:
        given = {"payload": payload, "secret": secret, "algorithm": algorithm}
        assert connection.scalar(signs, given) == sign(payload, secret, algorithm)


def test_the_algorithm_need_not_be_passed(connection: Connection) -> None:
    assert connection.scalar(text("SELECT extensions.sign('{}', 'k')")) == sign("{}", "k")
    assert (
        connection.scalar(text("SELECT valid FROM extensions.verify(:t, 'k')"), {"t": sign("{}", "k")})
        is True
    )


@pytest.mark.parametrize("payload", [each for each in PAYLOADS if each.startswith("{")])
def test_a_token_is_as_valid_as_for_pgjwt(connection: Connection, payload: str) -> None:
    """What makes pgjwt fail is not valid."""
    for secret, algorithm in (("k", "HS256"), ("k", "HS512"), ("other", "HS256")):
        given = sign(payload, "k", "HS256")
        expected = False
        with suppress(ValueError):
            expected = valid(given, secret, algorithm, time.time())
        assert verified(connection, given, secret, algorithm) is expected


HUGE = "9" * 400
BAD_TIMES = (
    '"soon"', '""', '"NaN"', '"nan"', '"Infinity"', '"-Infinity"', "true", "false", "[]", "{}", "[9000000000]",
    '{"a": 1}', '"2030-01-01"', '"9000000000 "', '"0x7fffffffff"', '"\\u0000"', "1e999999999", '"1,5"',
)  # fmt: skip


@pytest.mark.parametrize("claim", ["exp", "nbf"])
def test_a_time_that_is_no_number_is_never_valid_and_never_an_error(
    connection: Connection, claim: str
) -> None:
    for when in BAD_TIMES:
        assert verified(connection, sign(f'{{"{claim}": {when}}}', "k"), "k") is False, when
    # Numbers of any size are compared as what they are.
    for when, late in (
        (HUGE, True),
        (f"-{HUGE}", False),
        ("1e400", True),
        ("-1e400", False),
        ("1e-400", False),
    ):
        given = sign(f'{{"{claim}": {when}}}', "k")
        assert verified(connection, given, "k") is (late is (claim == "exp")), when


@pytest.mark.parametrize(
    "header",
    [
        "{}", '{"typ":"JWT"}', '{"alg":null}', '{"alg":""}', '{"alg":"none"}', '{"alg":"hs256"}', '{"alg":["HS256"]}',
        '{"alg":{"HS256":1}}', '{"alg":"HS256\\u0000"}', '{"ALG":"HS256"}', "[]", '["alg"]', "null", '"HS256"', "1", "",
        "no JSON", '{"alg":"HS256"', "\x00", "ü",
    ],
)  # fmt: skip
def test_a_header_without_the_algorithm_is_not_valid(connection: Connection, header: str) -> None:
    """Though its signature is right."""
    signed = f"{encoded(header.encode('latin-1' if header == 'ü' else 'utf-8'))}.{encoded(b'{}')}"
    digest = hmac.new(b"k", signed.encode(), hashlib.sha256).digest()
    assert verified(connection, f"{signed}.{encoded(digest)}", "k") is False


@pytest.mark.parametrize(
    "given",
    [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b",
        "a.b.c",
        "!.!.!",
        "é.é.é",
        "a.b.c.d",
        "e30",
        "e30.e30",
        "e30.e30.",
        ".e30.e30",
    ],
)
def test_what_is_no_token_is_not_valid(connection: Connection, given: str) -> None:
    assert verified(connection, given, "k") is False


def test_a_token_with_more_or_other_parts_is_not_valid(connection: Connection) -> None:
    whole = sign('{"a":1}', "k")
    header, body, signature = whole.split(".")
    assert verified(connection, whole, "k") is True
    for given in (
        f"{whole}.",
        f"{whole}.{signature}",
        f".{whole}",
        f"{header}.{body}",
        f"{whole} ",
        f"{whole}=",
    ):
        assert verified(connection, given, "k") is False, given


def test_an_empty_secret_is_refused(connection: Connection) -> None:
    """Whoever forgot to set it would sign for everybody, and take what anybody signed."""
    forged = sign("{}", "", "HS256")
    for statement in (
        "SELECT extensions.sign('{}', '')",
        "SELECT extensions.sign('{}', '', 'HS512')",
        f"SELECT valid FROM extensions.verify('{forged}', '')",
        "SELECT valid FROM extensions.verify('no token', '')",
    ):
        with pytest.raises(Exception, match="the secret is empty"), connection.begin_nested():
            connection.scalar(text(statement.replace(":", "\\:")))
    assert connection.scalar(text("SELECT extensions.sign('{}', NULL)")) is None
    assert connection.scalar(text("SELECT valid FROM extensions.verify(:t, NULL)"), {"t": forged}) is None


def test_a_database_with_the_first_stand_ins_gets_the_new_ones(new_database: Callable[..., URL]) -> None:
    url = new_database()
    migrate.upgrade(url, "alfred_0022_events")
    old = scalar(url, "SELECT extensions.sign('{}', 'k')")
    assert old != sign("{}", "k")
    run(
        url, "COMMENT ON FUNCTION extensions.sign(json, text, text) IS NULL"
    )  # as a dump without comments has it
    migrate.upgrade(url)
    assert scalar(url, "SELECT extensions.sign('{}', 'k')") == sign("{}", "k")
    assert scalar(url, "SELECT valid FROM extensions.verify(:old, 'k')", old=old) is True
    migrate.downgrade(url, "alfred_0022_events")
    assert scalar(url, "SELECT extensions.sign('{}', 'k')") == old


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
    """Store a request of some time; return the partition that has it."""
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
        assert making.result(60) == 1
    assert str(scalar(any_url, STORED, id="late")).rpartition(".")[2] == name
    run(any_url, f"DELETE FROM {LOG}")
