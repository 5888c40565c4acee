"""The broker's catalog in a separate database, which others read through postgres_fdw and cannot write.

The names of the tables stay: views in `brk_registry` read foreign tables in `brk_registry_link`, with the rights and the
password of the role that owns both and that nobody can log in as. The tables that were there before are in
`brk_registry_local`: the last known state, for when the other database cannot be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, Table, create_engine, text
from sqlalchemy.pool import NullPool

from ..config import command, parse_url
from ..engine.pool import connect_args
from ..errors import (
    ConfigurationError,
    ConflictError,
    DatabaseUnavailable,
    InvalidTransition,
    SchemaOutdatedError,
    translated,
)
from ..models import Base
from ..server.databases import VERSION_TABLE
from ..sql import LAST_KNOWN_CATALOG, literal, qualified, quoted
from .version import current, head

__all__ = ["CatalogLink", "check_catalog", "link_catalog", "refresh_catalog", "unlink_catalog"]

CATALOG = "brk_registry"
FOREIGN = "brk_registry_link"
SERVER = "alfred_catalog"
OWNER = "alfred_catalog_link"
"""The role that owns the views and the user mapping; it cannot log in."""

_LIBPQ = (
    "host",
    "hostaddr",
    "port",
    "dbname",
    "sslmode",
    "sslrootcert",
    "channel_binding",
    "target_session_attrs",
)


@dataclass(frozen=True, slots=True)
class CatalogLink:
    """The state of the link to the database of the broker's catalog."""

    linked: bool
    host: str | None = None
    database: str | None = None
    reachable: bool = False
    revision: str | None = None
    """The revision of the other database; None if it cannot be reached."""
    rows: int | None = None
    """The hosted models that are read through the link."""
    last_known: str | None = None
    """When the last known state was taken."""
    problems: tuple[str, ...] = ()


def link_catalog(connection: Connection, catalog_url: str | URL) -> list[str]:
    """Replace the broker's catalog by views of the one in another database, in the caller's transaction.

    Run it again after the other database has been upgraded, or when its address or its password has changed.

    Args:
        connection: A connection of a role that may create roles and foreign servers, and owns the catalog.
        catalog_url: The other database, as a role with a password that may only read.

    Returns:
        The names of the linked tables.

    Raises:
        ConfigurationError: The role may write the catalog, or the extension postgres_fdw cannot be created.
        SchemaOutdatedError: One of the databases is not at the newest revision.
    """
    url = parse_url(catalog_url)
    tables = _tables()
    _require_reader(url, connection)
    with translated():
        if not _is_linked(connection):
            _require_free(connection)
            _run(connection, f"ALTER SCHEMA {CATALOG} RENAME TO {LAST_KNOWN_CATALOG}")
            _run(connection, f"CREATE SCHEMA {CATALOG}", _made(f"SCHEMA {CATALOG}"))
        readers = _grantees(connection)
        _make_server(connection, url)
        _run(connection, f"CREATE SCHEMA {FOREIGN} AUTHORIZATION {OWNER}", _made(f"SCHEMA {FOREIGN}"))
        _run(connection, f"GRANT USAGE, CREATE ON SCHEMA {CATALOG} TO {OWNER}")
        for table in tables:
            _run(connection, *_foreign_table(table), *_view(table), *_read_only(table, readers))
        _run(
            connection,
            f"CREATE FOREIGN TABLE {FOREIGN}.{_VERSION} (version_num text) SERVER {SERVER}"
            f" OPTIONS (schema_name '{CATALOG}', table_name '{VERSION_TABLE}')",
            f"ALTER FOREIGN TABLE {FOREIGN}.{_VERSION} OWNER TO {OWNER}",
            f"CREATE VIEW {CATALOG}.{_VERSION} AS SELECT version_num FROM {FOREIGN}.{_VERSION}",
            f"ALTER VIEW {CATALOG}.{_VERSION} OWNER TO {OWNER}",
        )
        _run(connection, f"REVOKE CREATE ON SCHEMA {CATALOG} FROM {OWNER}")
        for role in readers:
            _run(connection, f"GRANT USAGE ON SCHEMA {CATALOG}, {LAST_KNOWN_CATALOG} TO {role}")
    refresh_catalog(connection)
    return [table.fullname for table in tables]


def refresh_catalog(connection: Connection) -> int:
    """Copy the linked catalog to the last known state; return the number of its rows.

    Raises:
        DatabaseUnavailable: The database of the catalog cannot be reached; the last known state is kept.
        InvalidTransition: The catalog is not linked.
    """
    _require_linked(connection)
    tables, rows = _tables(), 0
    with translated():
        names = ", ".join(f"{LAST_KNOWN_CATALOG}.{quoted(table.name)}" for table in tables)
        _run(connection, f"LOCK TABLE {names} IN EXCLUSIVE MODE")
        for table in reversed(tables):
            _run(connection, f"DELETE FROM {LAST_KNOWN_CATALOG}.{quoted(table.name)}")
        for table in tables:
            columns = _columns(table)
            rows += connection.execute(
                text(
                    f"INSERT INTO {LAST_KNOWN_CATALOG}.{quoted(table.name)} ({columns})"
                    f" SELECT {columns} FROM {CATALOG}.{quoted(table.name)}"
                )
            ).rowcount
        moment = connection.scalar(text("SELECT CAST(pg_catalog.now() AS text)"))
        _run(
            connection, f"COMMENT ON SCHEMA {LAST_KNOWN_CATALOG} IS {literal(f'made by alfred-db: {moment}')}"
        )
    return rows


def unlink_catalog(connection: Connection, *, stale: bool = False) -> None:
    """Have the catalog in this database again, with the rows of the linked one.

    Args:
        connection: A connection of the role that linked it.
        stale: Keep the last known state, for when the other database is gone for good.

    Raises:
        DatabaseUnavailable: The other database cannot be reached, and `stale` is not set.
        InvalidTransition: The catalog is not linked.
    """
    _require_linked(connection)
    if not stale:
        refresh_catalog(connection)
    with translated():
        _run(
            connection,
            f"DROP SERVER {SERVER} CASCADE",
            f"DROP SCHEMA {FOREIGN}",
            f"DROP SCHEMA {CATALOG}",
            f"ALTER SCHEMA {LAST_KNOWN_CATALOG} RENAME TO {CATALOG}",
            _made(f"SCHEMA {CATALOG}"),
        )
        for table in _tables():
            key = literal(f"{CATALOG}.{quoted(table.name)}")
            _run(
                connection,
                # The rows came with their ids.
                f"SELECT pg_catalog.setval(pg_catalog.pg_get_serial_sequence({key}, 'id'), coalesce(pg_catalog.max(id), 0) + 1, false)"
                f" FROM {CATALOG}.{quoted(table.name)}",
            )


def check_catalog(connection: Connection) -> CatalogLink:
    """Return the state of the link; raises nothing if the other database cannot be reached."""
    if not _is_linked(connection):
        return CatalogLink(linked=False)
    found = connection.execute(text(_STATE), {"server": SERVER}).one()
    options = dict(option.split("=", 1) for option in found.options or ())
    problems = [
        f"role {role} may use the server {SERVER} and make another user mapping; run in"
        f" {quoted(found.database)}: REVOKE USAGE ON FOREIGN SERVER {SERVER} FROM {role}"
        for role in found.users or ()
    ]
    if found.login:
        problems.append(f"role {OWNER} may log in; as a superuser, take LOGIN from it")
    problems += [
        f"role {member} is a member of {OWNER}, and can read its password" for member in found.members or ()
    ]
    rows, revision = None, None
    try:
        with translated(), connection.begin_nested():
            rows = connection.scalar(text(f"SELECT pg_catalog.count(*) FROM {CATALOG}.hosted_model"))
            revision = connection.scalar(text(f"SELECT version_num FROM {CATALOG}.{_VERSION}"))
    except DatabaseUnavailable as error:
        problems.append(str(error))
    if revision is not None and revision != head():
        problems.append(
            f"the catalog's database is at {revision}, this version of alfred-db needs {head()}; upgrade it, with"
            " `--target broker`, then link it again"
        )
    return CatalogLink(
        linked=True,
        host=options.get("host"),
        database=options.get("dbname"),
        reachable=rows is not None,
        revision=revision,
        rows=rows,
        last_known=(found.comment or "").removeprefix("made by alfred-db: ") or None,
        problems=tuple(problems),
    )


_VERSION = "alfred_catalog_version"
"""The view of the other database's version table."""

_STATE = f"""
    SELECT srvoptions AS options, pg_catalog.current_database() AS database,
        ARRAY(
            SELECT DISTINCT CAST(pg_catalog.quote_ident(rolname) AS text)
            FROM pg_catalog.aclexplode(srvacl) AS acl JOIN pg_catalog.pg_roles ON pg_roles.oid = acl.grantee
            WHERE acl.grantee <> srvowner AND rolname <> '{OWNER}' AND NOT rolsuper
        ) AS users,
        (SELECT rolcanlogin FROM pg_catalog.pg_roles WHERE rolname = '{OWNER}') AS login,
        ARRAY(
            SELECT CAST(pg_catalog.quote_ident(member.rolname) AS text)
            FROM pg_catalog.pg_auth_members JOIN pg_catalog.pg_roles AS granted ON granted.oid = roleid
            JOIN pg_catalog.pg_roles AS member ON member.oid = pg_auth_members.member
            WHERE granted.rolname = '{OWNER}' AND NOT member.rolsuper AND pg_auth_members.member <> srvowner
        ) AS members,
        pg_catalog.obj_description(pg_catalog.to_regnamespace('{LAST_KNOWN_CATALOG}'), 'pg_namespace') AS comment
    FROM pg_catalog.pg_foreign_server WHERE srvname = CAST(:server AS name)
"""


# What is made


def _tables() -> list[Table]:
    """The tables of the catalog, those that others refer to first."""
    return [table for table in Base.metadata.sorted_tables if table.schema == CATALOG]


def _columns(table: Table) -> str:
    return ", ".join(quoted(column.name) for column in table.c)


def _make_server(connection: Connection, url: URL) -> None:
    """Make role, server and user mapping anew: their options may have changed."""
    given: dict[str, Any] = {"host": url.host, "port": url.port, "dbname": url.database, **url.query}
    options = {name: str(value) for name, value in given.items() if name in _LIBPQ and value is not None}
    options |= {
        "updatable": "false",
        "truncatable": "false",
        "connect_timeout": "3",
        "keep_connections": "on",
    }
    login = {"user": url.username or "", "password": str(url.password or "")}
    if not url.password:
        # Without a password the other server trusts the role: only a superuser may have that.
        login = {"user": url.username or "", "password_required": "false"}
    _run(
        connection,
        "CREATE EXTENSION IF NOT EXISTS postgres_fdw SCHEMA extensions",
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{OWNER}')"
        f" THEN CREATE ROLE {OWNER} NOLOGIN; END IF; END $$",
        f"DROP SERVER IF EXISTS {SERVER} CASCADE",
        f"DROP SCHEMA IF EXISTS {FOREIGN}",
        f"CREATE SERVER {SERVER} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({_options(options)})",
        f"CREATE USER MAPPING FOR {OWNER} SERVER {SERVER} OPTIONS ({_options(login)})",
        _made(f"SERVER {SERVER}"),
    )


def _options(options: dict[str, str]) -> str:
    return ", ".join(f"{name} {literal(value)}" for name, value in options.items())


def _foreign_table(table: Table) -> Sequence[str]:
    dialect: Any = URL.create("postgresql+psycopg").get_dialect()()
    columns = ", ".join(
        f"{quoted(column.name)} {column.type.compile(dialect=dialect)}{'' if column.nullable else ' NOT NULL'}"
        for column in table.c
    )
    name = f"{FOREIGN}.{quoted(table.name)}"
    return (
        f"CREATE FOREIGN TABLE {name} ({columns}) SERVER {SERVER}"
        f" OPTIONS (schema_name '{CATALOG}', table_name {literal(table.name)})",
        f"ALTER FOREIGN TABLE {name} OWNER TO {OWNER}",
    )


def _view(table: Table) -> Sequence[str]:
    view = f"{CATALOG}.{quoted(table.name)}"
    # As a superuser's, the view would read with a superuser's rights, and look for its user mapping.
    return (
        f"CREATE VIEW {view} AS SELECT {_columns(table)} FROM {FOREIGN}.{quoted(table.name)}",
        f"ALTER VIEW {view} OWNER TO {OWNER}",
        f"COMMENT ON VIEW {view} IS 'made by alfred-db: linked'",
    )


def _read_only(table: Table, readers: Sequence[str]) -> Sequence[str]:
    view, last = f"{CATALOG}.{quoted(table.name)}", f"{LAST_KNOWN_CATALOG}.{quoted(table.name)}"
    return [
        statement
        for role in readers
        for statement in (
            f"GRANT SELECT ON {view} TO {role}",
            f"REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON {last} FROM {role}",
            f"GRANT SELECT ON {last} TO {role}",
        )
    ]


def _grantees(connection: Connection) -> Sequence[str]:
    """The roles that may read the catalog, other than its owner."""
    return connection.scalars(
        text(
            "SELECT DISTINCT CASE acl.grantee WHEN CAST(0 AS oid) THEN 'PUBLIC'"
            " ELSE pg_catalog.quote_ident(CAST(pg_catalog.pg_get_userbyid(acl.grantee) AS text)) END"
            " FROM pg_catalog.pg_class CROSS JOIN LATERAL pg_catalog.aclexplode(relacl) AS acl"
            " WHERE relnamespace = CAST(pg_catalog.to_regnamespace(:schema) AS oid) AND relkind = 'r'"
            " AND acl.privilege_type = 'SELECT' AND acl.grantee <> relowner ORDER BY 1"
        ),
        {"schema": LAST_KNOWN_CATALOG},
    ).all()


# What is checked


def _is_linked(connection: Connection) -> bool:
    return bool(
        connection.scalar(
            text(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relkind = 'v'"
                " AND oid = CAST(pg_catalog.to_regclass('brk_registry.hosting_provider') AS oid))"
            )
        )
    )


def _require_free(connection: Connection) -> None:
    """Refuse a database that is not at this version, or in which something else depends on the catalog."""
    found = current(connection)
    if found != head():
        raise SchemaOutdatedError(
            f"the database is at {found or 'no revision'}, this version of alfred-db needs {head()}: run"
            f" {command('upgrade', connection.engine.url, None)} first"
        )
    keys = connection.scalars(text(_KEYS_TO_CATALOG)).all()
    if keys:
        raise ConflictError(
            f"the broker's catalog: foreign keys of {', '.join(keys[:10])} refer to it, and cannot refer to another"
            " database; upgrade these tenants, or drop your own keys"
        )


_KEYS_TO_CATALOG = """
    SELECT DISTINCT CAST(CAST(conrelid AS regclass) AS text) FROM pg_catalog.pg_constraint
    JOIN pg_catalog.pg_class AS referred ON referred.oid = confrelid
    JOIN pg_catalog.pg_class AS referring ON referring.oid = conrelid
    WHERE contype = 'f' AND referred.relnamespace = CAST(pg_catalog.to_regnamespace('brk_registry') AS oid)
        AND referring.relnamespace <> referred.relnamespace AND NOT referring.relispartition
    ORDER BY 1
"""


def _require_linked(connection: Connection) -> None:
    if not _is_linked(connection):
        raise InvalidTransition(
            "the broker's catalog is in this database; link it first"
            f" ({command('catalog link', connection.engine.url)} and the URL of its database)"
        )


def _require_reader(url: URL, connection: Connection) -> None:
    """Refuse a role that may write the catalog, or a database that has none of this version."""
    engine = create_engine(url, poolclass=NullPool, connect_args=connect_args(url, "alfred-db catalog"))
    names = [qualified(CATALOG, table.name) for table in _tables()]
    with translated(), engine.connect() as other:
        revision = current(other, CATALOG)
        if revision != head():
            raise SchemaOutdatedError(
                f"the catalog's database is at {revision or 'no revision'}, this version of alfred-db needs {head()}: run"
                f" {command('upgrade', url, None)} with --target broker"
            )
        row = other.execute(text(_RIGHTS), {"names": names}).one()
    if row.writes:
        raise ConfigurationError(
            f"role {quoted(row.role)}: it may write the catalog ({', '.join(row.writes)}), and a link is to read it; use a"
            f" role that has USAGE on the schema {CATALOG} and SELECT on its tables, and no other right"
        )
    if row.unreadable:
        raise ConfigurationError(
            f"role {quoted(row.role)}: it may not read {', '.join(row.unreadable)}; run in the catalog's database: GRANT"
            f" USAGE ON SCHEMA {CATALOG} TO {quoted(row.role)}; GRANT SELECT ON ALL TABLES IN SCHEMA {CATALOG} TO"
            f" {quoted(row.role)};"
        )


_RIGHTS = """
    SELECT current_user AS role,
        ARRAY(
            SELECT name FROM pg_catalog.unnest(CAST(:names AS text[])) AS name
            WHERE pg_catalog.has_table_privilege(name, 'INSERT, UPDATE, DELETE, TRUNCATE')
        ) AS writes,
        ARRAY(
            SELECT name FROM pg_catalog.unnest(CAST(:names AS text[])) AS name
            WHERE NOT pg_catalog.has_table_privilege(name, 'SELECT')
        ) AS unreadable
"""


def _made(what: str) -> str:
    return f"COMMENT ON {what} IS 'made by alfred-db'"


def _run(connection: Connection, *statements: str) -> None:
    driver: Any = connection.connection.driver_connection
    for statement in statements:
        driver.execute(statement)  # without parameters, so that a `%` in a password is a `%`
