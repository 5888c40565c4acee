"""Facts about the server, the database, the role, and the extensions that the library uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from ..models import Base
from ..sql import MADE_HERE, SHARED_SCHEMAS, TENANT_SCHEMAS
from .platforms import GUIDES, ROLES, Guide, Platform, Signs, recognise

__all__ = [
    "EXTENSIONS",
    "OTHERS",
    "OTHERS_TABLES",
    "Extension",
    "Facts",
    "Schema",
    "Status",
    "Tier",
    "probe",
]

OTHERS = ("auth", "storage")
"""Schemas that belong to somebody else on platforms such as Supabase."""

OTHERS_TABLES = tuple(table.fullname for table in Base.metadata.sorted_tables if table.schema in OTHERS)
"""The models' tables in them, as `schema.table`."""


class Tier(StrEnum):
    """How much the library depends on an extension."""

    REQUIRED = "required"
    WANTED = "wanted"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that the library uses."""

    name: str
    tier: Tier
    purpose: str
    without: str
    """What the library does where it is missing."""
    replaced: bool = False
    """Whether that does all that the extension would."""
    minimum: str | None = None
    advised: str | None = None
    """Oldest version without faults that matter."""
    settings: str | None = None
    """Prefix of the settings that exist if, and only if, the server preloads it, as it must for this one."""


EXTENSIONS = (
    Extension(
        "vector", Tier.REQUIRED, "vectors, their distances and their indexes", "nothing works",
        minimum="0.8.0", advised="0.8.4",
    ),
    Extension(
        "uuid-ossp", Tier.WANTED, "random UUIDs",
        "extensions.uuid_generate_v4() is a function over PostgreSQL's own gen_random_uuid()",
        replaced=True,
    ),
    Extension(
        "pgcrypto", Tier.WANTED, "digests in SQL", "PostgreSQL's own sha functions are used",
        replaced=True,
    ),
    Extension(
        "pgjwt", Tier.WANTED, "JSON web tokens in SQL",
        "extensions.sign() and extensions.verify() are SQL functions over PostgreSQL's own sha functions",
        replaced=True,
    ),
    Extension(
        "pg_trgm", Tier.WANTED, "search by similar spelling",
        "there are no trigram indexes, and search by similar spelling raises an error that names them",
    ),
    Extension(
        "pg_stat_statements", Tier.OPTIONAL, "statistics of statements", "there are no statistics of statements",
        settings="pg_stat_statements",
    ),
    Extension(
        "pg_cron", Tier.OPTIONAL, "a scheduler inside the server", "the library's own scheduler does all of it",
        settings="cron",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Status:
    """One extension in one database."""

    name: str
    tier: Tier
    installed: str | None = None
    """Version in this database; None: not installed."""
    schema: str | None = None
    available: str | None = None
    """Version that CREATE EXTENSION would install; None: the server does not have it."""
    creatable: bool = False
    """Whether this role may create it. Providers decide in their own code: in doubt yes, there."""
    visible: bool = False
    """Whether its schema is in the search_path."""
    usable: bool = False
    """Whether this role may use its schema."""
    preloaded: bool | None = None
    """Whether the server preloads it; None: it need not, or this role may not know."""


@dataclass(frozen=True, slots=True)
class Schema:
    """An existing schema, and what this role may do in it."""

    name: str
    owner: str
    owned: bool
    """Whether this role is its owner or a member of its owner."""
    may_create: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a server, a database and a role that the library needs."""

    server_version: int
    """As in 170004 for 17.4."""
    version: str
    """The result of `version()`."""
    platform: Platform
    database: str
    role: str
    superuser: bool
    can_create_schema: bool
    home: str | None
    """Schema of unqualified tables: the first in the search_path that this role may use; None if there is no such schema."""
    schemas: tuple[Schema, ...]
    """Those of the library's schemas, and `home`, that are there."""
    extensions: tuple[Status, ...]
    allowed: tuple[str, ...] | None = None
    """Extensions that the platform lets anybody create, "*" for all; None: it has no such list."""
    citus: bool = False
    creators: tuple[tuple[str, str], ...] = ()
    """Schemas of the search_path, with the roles that may create in them, other than their owners and this role."""
    read_only: bool = False
    """A standby, or a session that may only read."""
    standby: bool = False
    """Whether the server follows another one."""
    encoding: str = "UTF8"
    """The database's."""
    shared_tables: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """Those of OTHERS_TABLES that are there, and whether this library made them: it leaves a comment on what it makes."""
    search_path: str = '"$user", public'
    """As the session has it."""

    @property
    def major(self) -> int:
        """Major version of the server."""
        return self.server_version // 10000

    def extension(self, name: str) -> Status:
        """Return the status of one of EXTENSIONS.

        Raises:
            KeyError: The name is not one of EXTENSIONS.
        """
        return {status.name: status for status in self.extensions}[name]

    def schema(self, name: str) -> Schema | None:
        """Return one of the library's schemas, or None if it does not exist."""
        return next((schema for schema in self.schemas if schema.name == name), None)


_PROBE = text("""
    WITH settings AS MATERIALIZED (SELECT name, setting FROM pg_catalog.pg_settings)
    SELECT
        pg_catalog.version() AS version,
        CAST(pg_catalog.current_setting('server_version_num') AS integer) AS server_version,
        pg_catalog.current_database() AS database,
        current_user AS role,
        (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS superuser,
        pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS can_create_schema,
        pg_catalog.current_schema() AS home,
        EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') AS citus,
        pg_catalog.pg_is_in_recovery() AS standby,
        pg_catalog.pg_is_in_recovery() OR CAST(pg_catalog.current_setting('transaction_read_only') AS boolean) AS read_only,
        pg_catalog.to_regnamespace('heroku_ext') IS NOT NULL AS heroku_schema,
        ARRAY(SELECT DISTINCT pg_catalog.split_part(name, '.', 1) FROM settings WHERE name LIKE '%.%') AS prefixes,
        (
            SELECT pg_catalog.json_object_agg(name, setting) FROM settings
            WHERE name IN (
                'azure.extensions', 'rds.allowed_extensions', 'cron.database_name',
                'cluster_name', 'data_directory', 'unix_socket_directories', 'search_path', 'server_encoding'
            )
        ) AS settings,
        (
            SELECT pg_catalog.json_object_agg(rolname, pg_catalog.pg_has_role(oid, 'MEMBER')) FROM pg_catalog.pg_roles
            WHERE rolname = ANY (CAST(:roles AS text[]))
        ) AS roles,
        (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                nspname, pg_catalog.pg_get_userbyid(nspowner), pg_catalog.pg_has_role(nspowner, 'USAGE'),
                pg_catalog.has_schema_privilege(oid, 'CREATE') AND pg_catalog.has_schema_privilege(oid, 'USAGE')
            ) ORDER BY nspname)
            FROM pg_catalog.pg_namespace WHERE nspname = ANY (CAST(:schemas AS text[])) OR nspname = pg_catalog.current_schema()
        ) AS schemas,
        (
            SELECT pg_catalog.json_object_agg(
                pg_catalog.concat(nspname, '.', relname), COALESCE(pg_catalog.obj_description(pg_class.oid, 'pg_class') = :made_here, false)
            )
            FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
            WHERE pg_catalog.concat(nspname, '.', relname) = ANY (CAST(:others AS text[]))
        ) AS shared_tables,
        (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_array(nspname, grantee) ORDER BY nspname, grantee)
            FROM (
                SELECT nspname, CASE WHEN acl.grantee = '0'::oid THEN 'PUBLIC'
                    ELSE pg_catalog.quote_ident(CAST(pg_catalog.pg_get_userbyid(acl.grantee) AS text)) END AS grantee
                FROM pg_catalog.pg_namespace CROSS JOIN LATERAL pg_catalog.aclexplode(nspacl) AS acl
                WHERE nspname = ANY (pg_catalog.current_schemas(false)) AND acl.privilege_type = 'CREATE'
                    AND acl.grantee <> nspowner AND pg_catalog.pg_get_userbyid(acl.grantee) <> current_user
            ) AS granted
        ) AS creators,
        (
            SELECT pg_catalog.json_object_agg(wanted.name, pg_catalog.json_build_object(
                'installed', extversion,
                'schema', nspname,
                'available', available.default_version,
                'trusted', COALESCE(versions.trusted, false),
                'visible', COALESCE(nspname = ANY (pg_catalog.current_schemas(true)), false),
                'usable', COALESCE(pg_catalog.has_schema_privilege(extnamespace, 'USAGE'), false)
            ))
            FROM pg_catalog.unnest(CAST(:extensions AS text[])) AS wanted (name)
            LEFT JOIN pg_catalog.pg_extension ON extname = wanted.name
            LEFT JOIN pg_catalog.pg_namespace ON pg_namespace.oid = extnamespace
            LEFT JOIN pg_catalog.pg_available_extensions AS available ON available.name = wanted.name
            LEFT JOIN pg_catalog.pg_available_extension_versions AS versions
                ON versions.name = wanted.name AND versions.version = available.default_version
        ) AS extensions
""")


def probe(connection: Connection) -> Facts:
    """Collect the facts with one query of the catalog that any role may run."""
    names = [extension.name for extension in EXTENSIONS]
    schemas = [*SHARED_SCHEMAS, *TENANT_SCHEMAS]
    parameters = {
        "roles": list(ROLES),
        "schemas": schemas,
        "extensions": names,
        "others": list(OTHERS_TABLES),
        "made_here": MADE_HERE,
    }
    row = connection.execute(_PROBE, parameters).one()
    settings: dict[str, str] = row.settings or {}
    roles: dict[str, bool] = row.roles or {}
    platform = recognise(
        Signs(
            version=row.version,
            prefixes=frozenset(row.prefixes),
            roles=frozenset(roles),
            database=row.database,
            role=row.role,
            heroku_schema=row.heroku_schema,
            cluster_name=settings.get("cluster_name"),
            data_directory=settings.get("data_directory"),
            sockets=settings.get("unix_socket_directories"),
        )
    )
    allowed = _allowed(platform, settings)

    def status(extension: Extension) -> Status:
        found: dict[str, Any] = row.extensions[extension.name]
        trusted = found.pop("trusted") and row.can_create_schema
        listed = allowed is None or bool({"*", extension.name} & set(allowed))
        may_create = row.superuser or (listed and _may_create(GUIDES[platform], roles, trusted=trusted))
        if extension.name == "pg_cron":
            may_create = may_create and settings.get("cron.database_name", row.database) == row.database
        return Status(
            extension.name,
            extension.tier,
            creatable=may_create and found["available"] is not None,
            preloaded=_preloaded(extension, row.prefixes, sees_all="data_directory" in settings),
            **found,
        )

    return Facts(
        server_version=row.server_version,
        version=row.version,
        platform=platform,
        database=row.database,
        role=row.role,
        superuser=row.superuser,
        can_create_schema=row.can_create_schema,
        home=row.home,
        search_path=settings.get("search_path", '"$user", public'),
        schemas=tuple(Schema(*found) for found in row.schemas or ()),
        extensions=tuple(status(extension) for extension in EXTENSIONS),
        allowed=allowed,
        citus=row.citus,
        creators=tuple((schema, role) for schema, role in row.creators or ()),
        read_only=row.read_only,
        standby=row.standby,
        encoding=settings.get("server_encoding", "UTF8"),
        shared_tables=row.shared_tables or {},
    )


def _allowed(platform: Platform, settings: dict[str, str]) -> tuple[str, ...] | None:
    if platform is Platform.AZURE and "azure.extensions" in settings:
        value = settings["azure.extensions"]
    elif platform is Platform.RDS:
        value = settings.get("rds.allowed_extensions") or "*"
    else:
        return None
    return tuple(name.strip().lower() for name in value.split(",") if name.strip())


def _may_create(guide: Guide, roles: dict[str, bool], *, trusted: bool) -> bool:
    there = [role for role in guide.admins if role in roles]
    if guide.managed and not there:
        return True
    return any(roles[role] for role in there) or (trusted and guide.trusted)


def _preloaded(extension: Extension, prefixes: Sequence[str], *, sees_all: bool) -> bool | None:
    if extension.settings is None:
        return None
    if extension.settings in prefixes:
        return True
    # pg_cron shows its settings only to those who see all.
    return None if extension.name == "pg_cron" and not sees_all else False
