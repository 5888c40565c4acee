"""The rights of each kind of role: what is missing, what is too much, and the SQL that makes it right.

    for statement in plan(connection, {"app": "shop_app", "reader": "shop_read"}): ...   # changes nothing
    apply(connection, {"app": "shop_app"})                                               # the same, executed
    for finding in excess(connection, {"reader": "shop_read"}): ...                      # what no REVOKE here takes away

The tables are those of the models. Tables that a later revision, or a later collection, makes are covered by default
privileges of the role that owns the version table, for the kinds that may use every table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, Table, text

from ..config import command
from ..errors import InvalidInputError, NotFoundError, SchemaOutdatedError, shown
from ..models import Base
from ..models.base import table_of
from ..server import requirements
from ..server.databases import VERSION_TABLE
from ..sql import SHARED_SCHEMAS, qualified, quoted, schema_translate_map
from .owner_functions import granted_functions, revoked_functions
from .rights_beyond import beyond, revocations
from .version import home

__all__ = ["KINDS", "Kind", "apply", "check_kind", "excess", "lacking", "plan"]

READS = ("SELECT",)
WRITES = ("SELECT", "INSERT", "UPDATE", "DELETE")
DIRECTORY = "servers"
"""The noun of the directory of tenants, which only the owner writes."""
GRANTABLE = (*WRITES, "TRUNCATE", "REFERENCES", "TRIGGER")


@dataclass(frozen=True, slots=True)
class Kind:
    """What roles of one kind may do."""

    writes: frozenset[str] | None = frozenset()
    """The nouns whose tables it reads and writes; None is all of them."""
    reads: frozenset[str] | None = frozenset()
    """The nouns whose tables it reads; None is all of them."""
    creates: bool = False
    """Whether it creates schemas and tables: it runs the migrations."""

    def privileges(self, noun: str) -> tuple[str, ...]:
        """Return the privileges on the tables of a noun."""
        if noun == DIRECTORY and not self.creates:
            return READS  # a role that writes it decides which server the others send their passwords to
        if self.writes is None or noun in self.writes:
            return WRITES
        return READS if self.reads is None or noun in self.reads else ()

    @property
    def on_database(self) -> tuple[str, ...]:
        """The privileges on the database; bulk writes stage their rows in a temporary table."""
        reads_only = self.writes is not None and not self.writes
        return (
            "CONNECT",
            *(() if reads_only else ("TEMPORARY",)),
            *(("CREATE",) if self.creates else ()),
        )

    @property
    def covers_all(self) -> bool:
        """Whether it uses every table, those of later revisions included."""
        return self.writes is None or self.reads is None

    @property
    def calls_owner(self) -> bool:
        """Whether it may call the functions that create and drop partitions as the owner."""
        return self.writes is None and not self.creates


KINDS: Mapping[str, Kind] = {
    "owner": Kind(writes=None, creates=True),
    "app": Kind(writes=None),
    "worker": Kind(
        writes=frozenset(
            {
                "agents",
                "cache",
                "events",
                "messages",
                "queues",
                "rate_limits",
                "scheduler",
                "tasks",
                "web_sessions",
            }
            | {"workflows"}
        ),
        reads=frozenset({"capabilities"}),
    ),
    "broker": Kind(
        writes=frozenset({"broker_requests"}),
        reads=frozenset({"broker", "capabilities", "model_registry"}),
    ),
    "reader": Kind(reads=None),
}
"""The kinds of roles by name.

The owner runs the migrations and owns what they make. The others use the rows: all of them, or those of some nouns.
"""

_ROLE = text("SELECT oid FROM pg_catalog.pg_roles WHERE CAST(rolname AS text) = CAST(:role AS text)")

_TABLES = text("""
    WITH models AS (
        SELECT c.oid, named.noun
        FROM ROWS FROM (
            pg_catalog.unnest(CAST(:schemas AS text[])),
            pg_catalog.unnest(CAST(:names AS text[])),
            pg_catalog.unnest(CAST(:nouns AS text[]))
        ) AS named (schema, name, noun)
        JOIN pg_catalog.pg_namespace n ON CAST(n.nspname AS text) = named.schema
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND CAST(c.relname AS text) = named.name
    )
    SELECT c.oid, models.noun, n.nspname AS schema, c.relname AS name, owner.rolname AS owner, n.oid AS schema_oid,
        ARRAY(
            SELECT pg_catalog.format('%I.%I', sn.nspname, s.relname)
            FROM pg_catalog.pg_depend d
            JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
            JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
            WHERE d.refobjid = c.oid AND d.refclassid = CAST('pg_catalog.pg_class'::pg_catalog.regclass AS oid)
                AND d.classid = CAST('pg_catalog.pg_class'::pg_catalog.regclass AS oid) AND d.deptype IN ('a', 'i')
        ) AS sequences
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_roles owner ON owner.oid = c.relowner
    JOIN models ON c.oid = models.oid
        OR c.oid IN (SELECT CAST(relid AS oid) FROM pg_catalog.pg_partition_tree(models.oid))
    ORDER BY n.nspname, c.relname
""")
"""The tables of the models and their partitions; each of these has rights that count when it is named itself."""

_ON_TABLE = text("""
    SELECT wanted.privilege,
        pg_catalog.has_table_privilege(CAST(:role AS oid), CAST(:table AS oid), wanted.privilege) AS held,
        EXISTS (
            SELECT FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
            WHERE c.oid = CAST(:table AS oid) AND a.grantee = CAST(:role AS oid) AND a.grantee <> c.relowner
                AND a.privilege_type = wanted.privilege
        ) AS direct
    FROM pg_catalog.unnest(CAST(:privileges AS text[])) AS wanted (privilege)
""")

_DEFAULTS = text("""
    SELECT a.privilege_type FROM pg_catalog.pg_default_acl d, pg_catalog.aclexplode(d.defaclacl) a
    WHERE d.defaclnamespace = CAST(:schema AS oid) AND d.defaclobjtype = CAST(:type AS "char")
        AND d.defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE CAST(rolname AS text) = CAST(:owner AS text))
        AND a.grantee = CAST(:role AS oid)
""")


_ONE_AT_A_TIME = text("SELECT pg_catalog.pg_advisory_xact_lock(:key)")
"""Two transactions that grant rights on the same object fail, each for its own tenant too: on the shared catalogs."""

_KEY = int.from_bytes(sha256(b"alfred_db grants").digest()[:8], signed=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A table of the models as it is in the database."""

    noun: str
    row: Row[Any]

    @property
    def name(self) -> str:
        return qualified(self.row.schema, self.row.name)

    def privileges(self, kind: Kind) -> tuple[str, ...]:
        if kind.creates:  # it owns the others; the tables of each tenant refer to the shared catalogs
            return ("SELECT", "REFERENCES") if self.row.schema in SHARED_SCHEMAS else ()
        return READS if self.noun == VERSION_TABLE else kind.privileges(self.noun)


def plan(connection: Connection, roles: Mapping[str, str], schema: str | None = None) -> list[str]:
    """Return the statements that each role still needs, and those that revoke what it was granted beyond that.

    Run them as the owner of the tables; a role that does not exist is created as a group, without a login. For a
    database that is as it should be, the list is empty.

    Args:
        connection: A connection to the migrated database.
        roles: The name of the role by its kind, one of `KINDS`.
        schema: The tenant; None is the default tenant.

    Raises:
        InvalidInputError: There is no such kind.
        SchemaOutdatedError: The database has not been migrated; only an owner can be granted its rights before that.
    """
    kinds = {name: check_kind(name) for name in roles}
    places = _places(connection, schema)
    if not any(place.noun == VERSION_TABLE for place in places) and not all(
        one.creates for one in kinds.values()
    ):
        upgrade = command("upgrade", connection.engine.url, schema)
        raise SchemaOutdatedError(f"grants: the database has no schema of alfred-db; run {upgrade} first")
    statements: list[str] = []
    for name, role in roles.items():
        statements += _statements(connection, kinds[name], role, places)
        statements += _functions(connection, kinds[name], role, schema)
    return list(dict.fromkeys(statements))  # what is taken from PUBLIC is so for all of them


def apply(connection: Connection, roles: Mapping[str, str], schema: str | None = None) -> list[str]:
    """Execute the statements of `plan` in the transaction of the connection, and return them."""
    connection.execute(_ONE_AT_A_TIME, {"key": _KEY})
    statements = plan(connection, roles, schema)
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    return statements


def excess(connection: Connection, roles: Mapping[str, str], schema: str | None = None) -> list[str]:
    """Return what each role may do beyond its kind, that `plan` does not revoke.

    That is what it may as a superuser or owner, by its attributes, or through a group or PUBLIC.

    Raises:
        NotFoundError: A role does not exist.
    """
    found: list[str] = []
    places = _places(connection, schema)
    for name, role in roles.items():
        kind, oid = check_kind(name), connection.scalar(_ROLE, {"role": role})
        if oid is None:
            create = command("grants apply", connection.engine.url, schema, "--role", f"{name}={role}")
            raise NotFoundError(f"role {shown(role)}: not found; run {create}")
        if connection.scalar(
            text("SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = CAST(:oid AS oid)"), {"oid": oid}
        ):
            found.append(f"role {shown(role)} is a superuser: no right of {name} limits it")
            continue
        if kind.creates:
            continue
        found += [f"role {shown(role)}: {one}" for one in beyond(connection, oid, _schemas(places))]
        for place in places:
            more = [
                privilege
                for privilege, held, direct in _rights(connection, oid, place, GRANTABLE)
                if held and not direct and privilege not in place.privileges(kind)
            ]
            if more:
                found.append(
                    f"role {shown(role)}: {', '.join(more)} on {place.name}, as its owner, through a group or"
                    " PUBLIC; revoke that there"
                )
    return found


def lacking(connection: Connection, schema: str | None = None) -> tuple[str, dict[str, list[str]]]:
    """Return the kind that the current role is of, and the privileges that it lacks for that, by noun.

    It is of the kind with the fewest rights that include all that it holds on the tables.
    """
    oid = connection.scalar(text("SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user"))
    places = _places(connection, schema)
    held = {
        (place, privilege)
        for place in places
        for privilege, has, _ in _rights(connection, oid, place, WRITES)
        if has and (place.noun not in (VERSION_TABLE, DIRECTORY) or privilege in READS)
    }
    wanted = {
        name: {(place, privilege) for place in places for privilege in place.privileges(kind)}
        for name, kind in KINDS.items()
        if not kind.creates
    }
    name = min((name for name in wanted if held <= wanted[name]), key=lambda name: len(wanted[name]))
    found: dict[str, set[str]] = {}
    for place, privilege in wanted[name] - held:
        found.setdefault(place.noun, set()).add(privilege)
    return name, {noun: sorted(lacks) for noun, lacks in sorted(found.items())}


def check_kind(name: str) -> Kind:
    """Return one of `KINDS`.

    Raises:
        InvalidInputError: There is no such kind.
    """
    try:
        return KINDS[name]
    except KeyError:
        raise InvalidInputError(f"role: {shown(name)} is no kind of role; use {', '.join(KINDS)}") from None


def _places(connection: Connection, schema: str | None) -> list[_Place]:
    """Return the tables of the models that exist, and the version table, in the order of their names."""
    default = home(connection) if schema is None else schema
    mapped: Mapping[str | None, str | None] = schema_translate_map(schema) or {None: default}
    facts = requirements.probe(connection)
    left_alone = {name for name in SHARED_SCHEMAS if requirements.external(facts, name)}
    nouns: dict[tuple[str, str], str] = {(str(default), VERSION_TABLE): VERSION_TABLE}
    for mapper in Base.registry.mappers:
        model: type[Any] = mapper.class_
        table = table_of(model)
        place = mapped.get(table.schema, table.schema)
        if place not in left_alone:
            nouns[str(place), table.name] = _noun(model.__module__, table)
    parameters = {
        "schemas": [schema for schema, _ in nouns],
        "names": [name for _, name in nouns],
        "nouns": list(nouns.values()),
    }
    return [_Place(row.noun, row) for row in connection.execute(_TABLES, parameters)]


def _noun(module: str, table: Table) -> str:
    """Return the noun of a table: the file of its model; the broker's log is apart from its catalog."""
    return "broker_requests" if table.schema == "brk_tracking" else module.rpartition(".")[2]


def _rights(
    connection: Connection, role: int, place: _Place, privileges: Sequence[str]
) -> Iterator[tuple[str, bool, bool]]:
    """Yield each privilege with whether the role holds it, and whether by a grant to itself.

    What an owner holds of its table is no grant: to revoke it would take the table from its owner.
    """
    parameters = {"role": role, "table": place.row.oid, "privileges": list(privileges)}
    for row in connection.execute(_ON_TABLE, parameters):
        yield row.privilege, row.held, row.direct


def _statements(connection: Connection, kind: Kind, role: str, places: Sequence[_Place]) -> Iterator[str]:
    oid, name = connection.scalar(_ROLE, {"role": role}), quoted(role)
    if oid is None:
        yield f"CREATE ROLE {name} NOLOGIN"
    database = quoted(str(connection.scalar(text("SELECT pg_catalog.current_database()"))))
    yield from _granted(connection, oid, name, "database", database, kind.on_database)
    used = {
        place.row.schema: place.row.schema_oid for place in places if place.privileges(kind) or kind.creates
    }
    schemas = used or _current_schema(connection)  # before the first migration
    schemas |= _extension_schemas(connection)
    for schema, number in sorted(schemas.items()):
        wanted = ("USAGE", "CREATE") if kind.creates else ("USAGE",)
        yield from _granted(connection, oid, name, "schema", quoted(schema), wanted, number=number)
    for place in places:
        yield from _on_table(connection, kind, oid, name, place)
    if oid is not None and not kind.creates:
        yield from revocations(
            connection,
            oid,
            name,
            {place.row.oid: (place.name, place.privileges(kind)) for place in places},
            {
                sequence: ("USAGE",) if "INSERT" in place.privileges(kind) else ()
                for place in places
                for sequence in place.row.sequences
            },
            _schemas(places),
        )
    if kind.covers_all and not kind.creates:
        owner = next(place.row.owner for place in places if place.noun == VERSION_TABLE)
        for schema, number in sorted({place.row.schema: place.row.schema_oid for place in places}.items()):
            yield from _defaults(connection, kind, oid, name, owner, schema, number)


def _functions(connection: Connection, kind: Kind, role: str, schema: str | None) -> Iterator[str]:
    """Yield the statements about the functions that run as the owner."""
    oid, place = connection.scalar(_ROLE, {"role": role}), schema or home(connection)
    if kind.creates or place is None:
        return
    if kind.calls_owner:
        yield from granted_functions(connection, place, schema, oid, quoted(role))
    else:
        yield from revoked_functions(connection, place, oid, quoted(role))


def _schemas(places: Sequence[_Place]) -> list[int]:
    """Return the oids of the schemas of the tables."""
    return sorted({place.row.schema_oid for place in places})


def _extension_schemas(connection: Connection) -> dict[str, int]:
    """Return the schemas of the extensions that the columns and indexes use, but pg_catalog."""
    rows = connection.execute(
        text("""
            SELECT DISTINCT n.nspname, n.oid FROM pg_catalog.pg_extension e
            JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
            WHERE e.extname IN ('vector', 'pg_trgm') AND n.nspname <> 'pg_catalog'
        """)
    )
    return {row.nspname: row.oid for row in rows}


def _current_schema(connection: Connection) -> dict[str, int]:
    rows = connection.execute(
        text("SELECT nspname, oid FROM pg_catalog.pg_namespace WHERE nspname = pg_catalog.current_schema()")
    )
    return {row.nspname: row.oid for row in rows}


_HAS = {
    "database": text(
        "SELECT pg_catalog.has_database_privilege(CAST(:role AS oid), pg_catalog.current_database(), :privilege)"
    ),
    "schema": text(
        "SELECT pg_catalog.has_schema_privilege(CAST(:role AS oid), CAST(:number AS oid), :privilege)"
    ),
    "sequence": text("SELECT pg_catalog.has_sequence_privilege(CAST(:role AS oid), :object, :privilege)"),
}


def _granted(
    connection: Connection,
    role: int | None,
    name: str,
    of: str,
    target: str,
    privileges: Sequence[str],
    **bound: int | str,
) -> Iterator[str]:
    """Yield the GRANT of what the role does not hold yet."""
    missing = [
        privilege
        for privilege in privileges
        if role is None or not connection.scalar(_HAS[of], {"role": role, "privilege": privilege, **bound})
    ]
    if missing:
        yield f"GRANT {', '.join(missing)} ON {of.upper()} {target} TO {name}"


def _on_table(
    connection: Connection, kind: Kind, role: int | None, name: str, place: _Place
) -> Iterator[str]:
    wanted = place.privileges(kind)
    rights = [] if role is None else list(_rights(connection, role, place, GRANTABLE))
    missing = [one for one in wanted if one not in {privilege for privilege, held, _ in rights if held}]
    if missing:
        yield f"GRANT {', '.join(missing)} ON TABLE {place.name} TO {name}"
    beyond = [one for one, _, direct in rights if direct and one not in wanted]
    if beyond and not kind.creates:
        yield f"REVOKE {', '.join(beyond)} ON TABLE {place.name} FROM {name}"
    if "INSERT" in wanted:
        for sequence in place.row.sequences:  # COPY takes its ids from the sequence before it sends the rows
            yield from _granted(connection, role, name, "sequence", sequence, ("USAGE",), object=sequence)


def _defaults(
    connection: Connection, kind: Kind, role: int | None, name: str, owner: str, schema: str, number: int
) -> Iterator[str]:
    writes = kind.writes is None
    for what, letter, wanted in (
        ("TABLES", "r", WRITES if writes else READS),
        ("SEQUENCES", "S", ("USAGE",) if writes else ()),
    ):
        parameters = {"schema": number, "type": letter, "owner": owner, "role": role}
        held: set[str] = set() if role is None else set(connection.scalars(_DEFAULTS, parameters))
        missing = [one for one in wanted if one not in held]
        if missing:
            yield (
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(owner)} IN SCHEMA {quoted(schema)}"
                f" GRANT {', '.join(missing)} ON {what} TO {name}"
            )
