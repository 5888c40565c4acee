"""Rights of a role beyond its kind, other than privileges on whole tables; and rights that REVOKE cannot remove."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from ..sql import quoted

__all__ = ["beyond", "revocations"]

_COLUMNS = text("""
    SELECT a.attrelid AS oid, CAST(a.attname AS text) AS name, acl.privilege_type AS privilege
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid, pg_catalog.aclexplode(a.attacl) acl
    WHERE a.attrelid = ANY (CAST(CAST(:tables AS bigint[]) AS oid[])) AND acl.grantee = CAST(:role AS oid)
        AND acl.grantee <> c.relowner
    ORDER BY a.attrelid, a.attnum, acl.privilege_type
""")

_TABLES = text("""
    SELECT c.oid, acl.privilege_type AS privilege, acl.is_grantable AS grantable
    FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) acl
    WHERE c.oid = ANY (CAST(CAST(:tables AS bigint[]) AS oid[])) AND acl.grantee = CAST(:role AS oid)
        AND acl.grantee <> c.relowner
    ORDER BY c.oid, acl.privilege_type
""")

_SEQUENCES = text("""
    SELECT named.name, acl.privilege_type AS privilege
    FROM pg_catalog.unnest(CAST(:names AS text[])) AS named (name)
    JOIN pg_catalog.pg_class c ON c.oid = CAST(pg_catalog.to_regclass(named.name) AS oid),
        pg_catalog.aclexplode(c.relacl) acl
    WHERE acl.grantee = CAST(:role AS oid) AND acl.grantee <> c.relowner
    ORDER BY named.name, acl.privilege_type
""")

_SCHEMAS = text("""
    SELECT CAST(n.nspname AS text) AS name,
        pg_catalog.has_schema_privilege(CAST(:role AS oid), n.oid, 'CREATE') AS held,
        EXISTS (
            SELECT FROM pg_catalog.aclexplode(n.nspacl) acl WHERE acl.grantee = CAST(:role AS oid)
                AND acl.grantee <> n.nspowner AND acl.privilege_type = 'CREATE'
        ) AS direct
    FROM pg_catalog.pg_namespace n WHERE n.oid = ANY (CAST(CAST(:schemas AS bigint[]) AS oid[]))
    ORDER BY n.nspname
""")

_DATABASE = text("""
    SELECT CAST(d.datname AS text) AS name,
        pg_catalog.has_database_privilege(CAST(:role AS oid), d.oid, 'CREATE') AS held,
        EXISTS (
            SELECT FROM pg_catalog.aclexplode(d.datacl) acl WHERE acl.grantee = CAST(:role AS oid)
                AND acl.grantee <> d.datdba AND acl.privilege_type = 'CREATE'
        ) AS direct
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
""")

_ROLE = text("""
    SELECT r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls,
        ARRAY(
            SELECT CAST(of.rolname AS text) FROM pg_catalog.pg_roles of
            WHERE pg_catalog.starts_with(CAST(of.rolname AS text), 'pg_')
                AND pg_catalog.pg_has_role(r.oid, of.oid, 'MEMBER')
            ORDER BY of.rolname
        ) AS groups
    FROM pg_catalog.pg_roles r WHERE r.oid = CAST(:role AS oid)
""")

_ATTRIBUTES = {
    "rolcreaterole": "CREATEROLE",
    "rolcreatedb": "CREATEDB",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}


def revocations(
    connection: Connection,
    role: int,
    name: str,
    tables: Mapping[int, tuple[str, Sequence[str]]],
    sequences: Mapping[str, Sequence[str]],
    schemas: Sequence[int],
) -> Iterator[str]:
    """Yield the REVOKE of what the role was granted itself: on columns, to pass on, on sequences, and to create.

    Args:
        connection: A connection to the database.
        role: The oid of the role.
        name: Its quoted name.
        tables: The qualified name of each table, and the privileges that the role needs on it, by oid.
        sequences: The privileges that it needs on each sequence, by qualified name.
        schemas: The oids of the schemas that it must not create in.
    """
    given: dict[str, Any] = {"role": role, "tables": list(tables)}
    for row in connection.execute(_COLUMNS, given):
        yield f"REVOKE {row.privilege} ({quoted(row.name)}) ON TABLE {tables[row.oid][0]} FROM {name}"
    for row in connection.execute(_TABLES, given):
        table, wanted = tables[row.oid]
        if row.privilege == "MAINTAIN":
            yield f"REVOKE MAINTAIN ON TABLE {table} FROM {name}"
        elif row.grantable and row.privilege in wanted:
            yield f"REVOKE GRANT OPTION FOR {row.privilege} ON TABLE {table} FROM {name}"
    for row in connection.execute(_SEQUENCES, {"role": role, "names": list(sequences)}):
        if row.privilege not in sequences[row.name]:
            yield f"REVOKE {row.privilege} ON SEQUENCE {row.name} FROM {name}"
    for row in connection.execute(_SCHEMAS, {"role": role, "schemas": list(schemas)}):
        if row.direct:
            yield f"REVOKE CREATE ON SCHEMA {quoted(row.name)} FROM {name}"
    for row in connection.execute(_DATABASE, {"role": role}):
        if row.direct:
            yield f"REVOKE CREATE ON DATABASE {quoted(row.name)} FROM {name}"


def beyond(connection: Connection, role: int, schemas: Sequence[int]) -> Iterator[str]:
    """Yield what the role may do by its attributes, through a group, through PUBLIC, or as an owner."""
    row = connection.execute(_ROLE, {"role": role}).one()
    attributes = [word for column, word in _ATTRIBUTES.items() if getattr(row, column)]
    if attributes:
        yield f"it has {', '.join(attributes)}; ALTER ROLE ... {' '.join('NO' + one for one in attributes)} removes that"
    if row.groups:
        yield f"it is a member of {', '.join(row.groups)}; revoke the membership"
    for found in connection.execute(_SCHEMAS, {"role": role, "schemas": list(schemas)}):
        if found.held and not found.direct:
            yield (
                f"it may create in the schema {quoted(found.name)}, as its owner, through a group or PUBLIC; revoke that there"
            )
    for found in connection.execute(_DATABASE, {"role": role}):
        if found.held and not found.direct:
            yield (
                f"it may create schemas in {quoted(found.name)}, as its owner, through a group or PUBLIC; revoke that there"
            )
