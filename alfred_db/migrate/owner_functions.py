"""Functions that run as the owner of a tenant what only the owner may, for roles that use all of its tables.

Each does one thing to tables of the tenant in whose schema it is, whatever its arguments, with nothing but PostgreSQL and the schema of
`vector` in its search_path. PUBLIC may not call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Connection, TextClause, text

from ..models import SpaceIndex, SpaceKind, SpaceState, SpaceStorage
from ..models.functions import OWNER_FUNCTIONS
from ..models.knowledge import DIMENSIONS
from ..queries import spaces
from ..queries.shapes.knowledge import MOST_INDEXED, MOST_INDEXED_IN_HALF
from ..queries.shapes.spaces import Space, vectors_of
from ..sql import MADE_HERE, literal, qualified, quoted, schema_translate_map
from .ddl import function_signature

__all__ = ["granted_functions", "revoked_functions"]

_LIVE = text("""
    SELECT p.oid, p.prosrc AS body, p.prosecdef AS definer, CAST(owner.rolname AS text) AS owner, p.proconfig AS settings,
        EXISTS (
            SELECT FROM pg_catalog.aclexplode(COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))) acl
            WHERE acl.grantee = CAST(0 AS oid)
        ) AS public
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_roles owner ON owner.oid = p.proowner
    WHERE p.oid = CAST(pg_catalog.to_regprocedure(CAST(:signature AS text)) AS oid)
""")

_GRANTED = text("""
    SELECT pg_catalog.has_function_privilege(CAST(:role AS oid), p.oid, 'EXECUTE') AS held,
        EXISTS (
            SELECT FROM pg_catalog.aclexplode(p.proacl) acl
            WHERE acl.grantee = CAST(:role AS oid) AND acl.grantee <> p.proowner
        ) AS direct
    FROM pg_catalog.pg_proc p
    WHERE p.oid = CAST(pg_catalog.to_regprocedure(CAST(:signature AS text)) AS oid)
""")

_OWNER = text("""
    SELECT CAST(owner.rolname AS text) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles owner ON owner.oid = c.relowner
    WHERE c.oid = CAST(pg_catalog.to_regclass(CAST(:name AS text)) AS oid)
""")


def granted_functions(
    connection: Connection, home: str, schema: str | None, role: int | None, name: str
) -> Iterator[str]:
    """Yield the statements after which the functions are those of this version, and the role may call them.

    Args:
        connection: A connection to the migrated database.
        home: The schema of the tables of the tenant.
        schema: The tenant; None is the default tenant.
        role: The oid of the role; None if it is still to be created.
        name: Its quoted name.
    """
    owner = connection.scalar(_OWNER, {"name": qualified(home, "tasks")})
    if owner is None:  # the broker's catalog alone
        return
    current = connection.scalar(text("SELECT CAST(CURRENT_USER AS text)"))
    vector = connection.scalar(_VECTOR)
    path = ", ".join(["pg_catalog", *([] if vector in (None, "pg_catalog") else [str(vector)]), "pg_temp"])
    settings = [f"search_path={path}", "standard_conforming_strings=on"]
    for function, (head, body) in _functions(home, schema).items():
        signature = function_signature(home, function)
        live = connection.execute(_LIVE, {"signature": signature}).one_or_none()
        if live is None or (live.body, live.definer, live.settings) != (body, True, settings):
            yield (
                f"CREATE OR REPLACE FUNCTION {qualified(home, function)}{head} LANGUAGE plpgsql SECURITY DEFINER"
                f" SET search_path = {path} SET standard_conforming_strings = on AS {literal(body)}"
            )
            yield f"COMMENT ON FUNCTION {signature} IS '{MADE_HERE}'"
        another = (current if live is None else live.owner) != owner
        if another:
            yield f"ALTER FUNCTION {signature} OWNER TO {quoted(str(owner))}"
        if live is None or live.public:
            yield f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"
        if (
            live is None
            or another
            or role is None
            or not _callable(connection, signature, role, public=live.public)
        ):
            yield f"GRANT EXECUTE ON FUNCTION {signature} TO {name}"


def _callable(connection: Connection, signature: str, role: int, *, public: bool) -> bool:
    """Return whether the role may call the function, otherwise than through PUBLIC."""
    row = connection.execute(_GRANTED, {"signature": signature, "role": role}).one()
    return bool(row.direct or (row.held and not public))


def revoked_functions(connection: Connection, home: str, role: int | None, name: str) -> Iterator[str]:
    """Yield the statements that take the functions from a role that needs none, and from PUBLIC."""
    for function in OWNER_FUNCTIONS:
        signature = function_signature(home, function)
        live = connection.execute(_LIVE, {"signature": signature}).one_or_none()
        if live is None:
            continue
        if live.public:
            yield f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"
        if (
            role is not None
            and connection.execute(_GRANTED, {"signature": signature, "role": role}).one().direct
        ):
            yield f"REVOKE ALL ON FUNCTION {signature} FROM {name}"


_VECTOR = text("""
    SELECT pg_catalog.quote_ident(CAST(n.nspname AS text)) FROM pg_catalog.pg_extension e
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
""")


# Bodies


def _functions(home: str, schema: str | None) -> dict[str, tuple[str, str]]:
    """Return arguments with result, and body, of each function of a tenant."""
    mapped = schema_translate_map(schema) or {}

    def place(name: str | None) -> str:
        return mapped.get(name, name) or home

    points, collections = qualified(home, "knowledge_points"), qualified(home, "knowledge_collections")
    logs = {
        "events": (home, "events"),
        "broker_request": (place("brk_tracking"), "broker_request"),
    }
    return {
        "alfred_create_collection": (
            "(collection text, partition text) RETURNS void",
            f"""
DECLARE
    length integer;
    compared text;
    kind text;
BEGIN
    SELECT known.dimensions, known.distance INTO length, compared FROM {collections} AS known WHERE known.name = collection;
    IF partition !~ '^knowledge_points_[a-z0-9_]{{1,46}}$' OR length IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the collection is not in knowledge_collections';
    END IF;
    EXECUTE format('CREATE TABLE %I.%I (LIKE %I.knowledge_points INCLUDING ALL)', {literal(home)}, partition, {literal(home)});
    IF length <> {DIMENSIONS} THEN
        EXECUTE format('ALTER TABLE %I.%I ADD CHECK (embedding IS NULL AND vector_dims(other_embedding) = %s)', {literal(home)}, partition, length);
    END IF;
    IF length <= {MOST_INDEXED_IN_HALF} AND (length <> {DIMENSIONS} OR compared <> 'cosine') THEN
        kind := CASE WHEN length <= {MOST_INDEXED} THEN 'vector' ELSE 'halfvec' END;
        EXECUTE format(
            'CREATE INDEX ON %I.%I USING hnsw (%s %s_%s_ops) WITH (m = 16, ef_construction = 64)', {literal(home)}, partition,
            CASE WHEN length = {DIMENSIONS} THEN 'embedding' ELSE format('(CAST(other_embedding AS %s(%s)))', kind, length) END,
            kind, CASE compared WHEN 'dot' THEN 'ip' WHEN 'euclid' THEN 'l2' WHEN 'manhattan' THEN 'l1' ELSE 'cosine' END
        );
    END IF;
    EXECUTE format('ALTER TABLE %I.knowledge_points ATTACH PARTITION %I.%I FOR VALUES IN (%L)', {literal(home)}, {literal(home)}, partition, collection);
END
""",
        ),
        "alfred_drop_collection": (
            "(collection text, partition text) RETURNS void",
            f"""
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = CAST({literal(points)} AS regclass) AND CAST(c.relname AS text) = partition
            AND pg_get_expr(c.relpartbound, c.oid)
                = 'FOR VALUES IN (''' || replace(collection, '''', '''''') || ''')'
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the table is not that of the collection';
    END IF;
    EXECUTE format('DROP TABLE %I.%I', {literal(home)}, partition);
END
""",
        ),
        "alfred_create_space": ("(space bigint) RETURNS void", _of_space(home, place, _create)),
        "alfred_index_space": ("(space bigint) RETURNS void", _of_space(home, place, _index)),
        "alfred_drop_space": ("(space bigint) RETURNS void", _of_space(home, place, _drop)),
        "alfred_make_partitions": (
            "(log text, months integer) RETURNS integer",
            f"""
BEGIN
    IF months IS NULL OR months < 0 OR months > 1200 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'months: expected 0 to 1200';
    END IF;
    {_chosen(logs, "RETURN extensions.make_month_partitions(CAST({} AS regclass), months);")}
END
""",
        ),
        "alfred_detach_partition": (
            "(log text, partition text) RETURNS void",
            f"""
DECLARE
    parent regclass;
BEGIN
    {_chosen(logs, "parent := CAST({} AS regclass);")}
    IF NOT EXISTS (
        SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = CAST(parent AS oid) AND i.inhrelid = CAST(to_regclass(partition) AS oid)
            AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the table is not a monthly partition';
    END IF;
    EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', parent, to_regclass(partition));
END
""",
        ),
        "alfred_drop_partition": (
            "(log text, partition text) RETURNS void",
            f"""
DECLARE
    parent regclass;
BEGIN
    {_chosen(logs, "parent := CAST({} AS regclass);")}
    IF NOT EXISTS (
        SELECT FROM pg_class AS part JOIN pg_class AS whole ON whole.relnamespace = part.relnamespace
        WHERE whole.oid = CAST(parent AS oid) AND part.oid = CAST(to_regclass(partition) AS oid)
            AND part.relkind = 'r' AND NOT part.relispartition AND part.relowner = whole.relowner
            AND CAST(part.relname AS text) ~ ('^' || CAST(whole.relname AS text) || '_[0-9]{{4}}_[0-9]{{2}}$')
    ) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the table is not a detached partition';
    END IF;
    EXECUTE format('DROP TABLE %s', to_regclass(partition));
END
""",
        ),
    }


def _chosen(logs: dict[str, tuple[str, str]], statement: str) -> str:
    """Return a statement with the name of the table of a log, chosen by the argument `log`."""
    first, *others = logs
    lines = [f"IF log = '{first}' THEN {statement.format(literal(qualified(*logs[first])))}"]
    lines += [
        f"ELSIF log = '{log}' THEN {statement.format(literal(qualified(*logs[log])))}" for log in others
    ]
    lines.append(
        "ELSE RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'there is no such log'; END IF;"
    )
    return "\n    ".join(lines)


_DIMENSIONS, _ID = 15_999, 987_654_321
"""Stand for the numbers of a space in the statements of `queries.spaces`, from which the bodies are made."""


def _of_space(
    home: str, place: Callable[[str | None], str], statements: Callable[[Space], Sequence[TextClause | None]]
) -> str:
    """Return the body of a function that runs statements about the partition of a space."""
    tables = {kind: vectors_of(kind) for kind in SpaceKind}
    schemas = " ".join(f"WHEN '{kind}' THEN {literal(place(table.schema))}" for kind, table in tables.items())
    names = " ".join(f"WHEN '{kind}' THEN '{table.name}'" for kind, table in tables.items())
    cases: list[str] = []
    for storage in SpaceStorage:
        for index in SpaceIndex:
            space = Space(_ID, "", SpaceKind.DOCUMENTS, None, _DIMENSIONS, storage, index, SpaceState.ACTIVE)
            run = " ".join(map(_run, (one for one in statements(space) if one is not None)))
            cases.append(
                f"IF chosen.storage = '{storage}' AND chosen.index = '{index}' THEN {run or 'NULL;'} END IF;"
            )
    return f"""
DECLARE
    chosen record;
    parent text;
    own text;
    name text;
BEGIN
    SELECT s.id, s.kind, s.dimensions, s.storage, s.index INTO chosen
    FROM {qualified(home, "embedding_spaces")} AS s WHERE s.id = space AND s.name <> 'builtin';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'the space is not in embedding_spaces';
    END IF;
    name := CASE chosen.kind {names} END;
    parent := format('%I.%I', CASE chosen.kind {schemas} END, name);
    own := format('%I.%I', CASE chosen.kind {schemas} END, name || '_' || CAST(chosen.id AS text));
    name := format('%I', 'idx_' || name || '_' || CAST(chosen.id AS text));
    {chr(10).join(cases).replace(chr(10), chr(10) + "    ")}
END
"""


def _run(statement: TextClause) -> str:
    """Return what executes a statement with the names and numbers of the space in `chosen`."""
    template = statement.text.replace(str(_DIMENSIONS), "%4$s").replace(str(_ID), "%5$s")
    return f"EXECUTE format({literal(template)}, parent, own, name, chosen.dimensions, chosen.id);"


def _create(space: Space) -> Sequence[TextClause]:
    return spaces.create_partition("%1$s", "%2$s", space)


def _index(space: Space) -> Sequence[TextClause | None]:
    return [spaces.create_index("%2$s", "%3$s", space)]


def _drop(_: Space) -> Sequence[TextClause]:
    return [spaces.drop_partition("%2$s")]
