"""The migrated database against the specification in `reference_facts`.

The facts come from the documentation of the platforms that move to this library. Nothing may differ but the
upgrades that `fits`, `nullability` and `upgraded` spell out; columns may be added. A failure names table,
column, expected and got. Then the platforms' own SQL runs, each test in a transaction that is rolled back.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.exc import DBAPIError

from .reference_facts import (
    COLLECTIONS,
    EXAMPLES,
    HNSW_OPTIONS,
    RETRIEVE_MEMORIES,
    SCHEMAS,
    SEARCH_MEMORIES,
    TABLES,
    TOUCH_MEMORY,
    Collection,
    Column,
    Index,
    Query,
    Table,
)

DEFAULT_SCHEMA = "public"
TENANT_SCHEMAS = ("wm", "entity", "brk_tracking")

BY_NAME = {str(table): table for table in TABLES}
WITH_DDL = [table for table in TABLES if table.primary_key]

every_table = pytest.mark.parametrize("table", TABLES, ids=str)
every_table_with_ddl = pytest.mark.parametrize("table", WITH_DDL, ids=str)
every_table_with_checks = pytest.mark.parametrize("table", [t for t in TABLES if t.checks], ids=str)
every_table_with_indexes = pytest.mark.parametrize("table", [t for t in TABLES if t.indexes], ids=str)


# ---- the allowed upgrades ---------------------------------------------------------------------------------

TYPES = {
    "UUID": ("uuid",),
    "TEXT": ("text",),
    "JSONB": ("jsonb",),
    "BOOLEAN": ("boolean",),
    "INTEGER": ("integer",),
    "SERIAL": ("bigint", "integer"),
    "FLOAT": ("double precision",),
    "DECIMAL(10,4)": ("numeric(10,4)",),
    "TIMESTAMPTZ": ("timestamp with time zone",),
    "TIMESTAMP": ("timestamp with time zone", "timestamp without time zone"),
}


def fits(expected: str, got: str, *, key: bool) -> bool:
    """Whether a type is the documented one, a bigint in place of an integer key, or a longer text."""
    if short := re.fullmatch(r"VARCHAR\((\d+)\)", expected):
        longer = re.fullmatch(r"character varying(?:\((\d+)\))?", got)
        return got == "text" or (longer is not None and int(longer[1] or 2**31) >= int(short[1]))
    if expected == "INTEGER" and key:
        return got in TYPES["SERIAL"]
    return got in TYPES.get(expected, (expected,))


def nullability(table: Table, column: Column) -> tuple[bool, ...]:
    """What NOT NULL may be: as documented; a column with a default may refuse NULL too."""
    if column.type is None or column.not_null is None:
        return (True, False)
    if column.not_null or column.name in table.primary_key:
        return (True,)
    return (False,) if column.default is None else (False, True)


def upgraded(index: Index) -> Index:
    """IVFFlat becomes HNSW: built on an empty table, it would stay untrained."""
    return replace(index, method="hnsw", options=HNSW_OPTIONS) if index.method == "ivfflat" else index


# ---- the live catalog -------------------------------------------------------------------------------------

OPTIONS_BY_DEFAULT = {"hnsw": dict(HNSW_OPTIONS)}
FOREIGN_KEY_ACTIONS = {"a": "NO ACTION", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT", "r": "RESTRICT"}

COLUMNS = text("""
    SELECT a.attname AS name, a.attnum AS number, a.attnotnull AS not_null, a.attidentity AS identity,
           a.attgenerated AS generated, format_type(a.atttypid, a.atttypmod) AS type,
           pg_get_expr(d.adbin, d.adrelid) AS default
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = :relation AND a.attnum > 0 AND NOT a.attisdropped
""")
CHECKS = text("""
    SELECT pg_get_expr(conbin, conrelid) AS expression, pg_get_constraintdef(oid) AS definition
    FROM pg_constraint
    WHERE conrelid = :relation AND contype = 'c' AND conkey = ARRAY[CAST(:number AS smallint)]
""")
FOREIGN_KEYS = text("""
    SELECT c.conname AS name, c.conrelid AS relation, c.confrelid AS target, c.confdeltype AS on_delete,
           c.confupdtype AS on_update, c.convalidated AS validated,
           ARRAY(SELECT attname FROM unnest(c.conkey) WITH ORDINALITY AS k (number, n)
                 JOIN pg_attribute ON attrelid = c.conrelid AND attnum = number ORDER BY n) AS columns,
           ARRAY(SELECT attname FROM unnest(c.confkey) WITH ORDINALITY AS k (number, n)
                 JOIN pg_attribute ON attrelid = c.confrelid AND attnum = number ORDER BY n) AS targets
    FROM pg_constraint c WHERE c.conrelid = :relation AND c.contype = 'f' AND c.conparentid = 0
""")
UNIQUES = text("""
    SELECT i.indexrelid::regclass::text AS name, i.indisprimary AS is_primary, i.indimmediate AS immediate,
           i.indpred IS NULL AND i.indexprs IS NULL AS plain,
           COALESCE((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_equal,
           ARRAY(SELECT attname FROM generate_series(0, i.indnkeyatts - 1) AS n
                 JOIN pg_attribute ON attrelid = i.indrelid AND attnum = i.indkey[n] ORDER BY n) AS columns,
           ARRAY(SELECT attname FROM pg_depend JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
                 WHERE classid = 'pg_class'::regclass AND objid = i.indexrelid AND refobjid = i.indrelid) AS uses
    FROM pg_index i WHERE i.indrelid = :relation AND i.indisunique
""")
TYPE = text("""
    SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = :relation AND attname = :name
""")
# The keys as in CREATE INDEX: what is the default of the method or of the direction is not written.
INDEX = text("""
    SELECT i.indrelid AS relation, m.amname AS method, i.indisvalid AS valid, c.reloptions AS options,
           pg_get_expr(i.indpred, i.indrelid) AS predicate,
           ARRAY(SELECT concat_ws(' ', pg_get_indexdef(i.indexrelid, n, true),
                                  CASE WHEN NOT o.opcdefault THEN o.opcname END,
                                  CASE i.indoption[n - 1] WHEN 1 THEN 'DESC NULLS LAST'
                                      WHEN 2 THEN 'NULLS FIRST' WHEN 3 THEN 'DESC' END)
                 FROM generate_series(1, i.indnkeyatts) AS n JOIN pg_opclass o ON o.oid = i.indclass[n - 1]
                 ORDER BY n) AS keys
    FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am m ON m.oid = c.relam
    WHERE c.relname = :name AND c.relnamespace = to_regnamespace(:schema)
""")


class Live:
    """A connection to the migrated database, and where the documented tables are in it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.schema: str = connection.scalar(text("SELECT current_schema()"))

    def place(self, schema: str | None) -> str:
        """The schema in the database: a named tenant has the tables of all its schemas in its own one."""
        if schema is None or (schema in TENANT_SCHEMAS and self.schema != DEFAULT_SCHEMA):
            return self.schema
        return schema

    def sql(self, sql: str) -> str:
        """The platform's SQL, verbatim in the default schema."""
        if self.schema == DEFAULT_SCHEMA:
            return sql
        return re.sub(rf"\b({'|'.join(TENANT_SCHEMAS)})\.", f'"{self.schema}".', sql)

    def relation(self, schema: str | None, name: str) -> int:
        found = self.connection.scalar(
            text("""
                SELECT oid FROM pg_class
                WHERE relname = :name AND relnamespace = to_regnamespace(:schema) AND relkind IN ('r', 'p')
            """),
            {"name": name, "schema": self.place(schema)},
        )
        assert found is not None, f"{self.place(schema)}.{name}: expected a table, got none"
        return int(found)

    def rows(self, statement: Any, table: Table, **parameters: Any) -> list[Row[Any]]:
        relation = self.relation(table.schema, table.name)
        return list(self.connection.execute(statement, {"relation": relation, **parameters}))

    def columns(self, table: Table) -> dict[str, Row[Any]]:
        return {row.name: row for row in self.rows(COLUMNS, table)}

    def run(self, sql: str, *parameters: Any) -> Any:
        """Execute the platform's SQL, with `?` for each parameter."""
        names = [f"p{n}" for n in range(len(parameters))]
        parts = sql.split("?")
        assert len(parts) == len(names) + 1
        bound = parts[0] + "".join(f":{name}{part}" for name, part in zip(names, parts[1:], strict=True))
        return self.connection.execute(text(self.sql(bound)), dict(zip(names, parameters, strict=True)))


@pytest.fixture
def live(migrated: Engine) -> Iterator[Live]:
    with migrated.connect() as connection, connection.begin() as transaction:
        yield Live(connection)
        transaction.rollback()


def show(problems: list[str]) -> str:
    return "differs from the documentation:\n  " + "\n  ".join(problems)


# ---- what is there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schema_exists(live: Live, schema: str) -> None:
    found = live.connection.scalar(
        text("SELECT count(*) FROM pg_namespace WHERE nspname = :name"), {"name": live.place(schema)}
    )
    assert found == 1, f"schema {schema}: expected it to exist, got none"


def test_schema_entity_holds_nodes_and_edges(live: Live) -> None:
    found = live.connection.scalar(
        text("SELECT count(*) FROM pg_tables WHERE schemaname = :name"), {"name": live.place("entity")}
    )
    assert found >= 2, f"schema entity: expected tables of nodes and of edges, got {found} tables"


@every_table
def test_columns(live: Live, table: Table) -> None:
    columns = live.columns(table)
    keys = {key.column for key in table.foreign_keys}
    problems = []
    for column in table.columns:
        got = columns.get(column.name)
        if got is None:
            problems.append(
                f"{table}.{column.name}: expected {column.type or 'a column'}, got no such column"
            )
            continue
        type_ = re.sub(r"^.*\.(?=vector\()", "", got.type)
        if column.type is not None and not fits(column.type, type_, key=column.name in keys):
            problems.append(f"{table}.{column.name}: expected type {column.type}, got {type_}")
        if got.not_null not in nullability(table, column):
            expected = "NULL" if got.not_null else "NOT NULL"
            problems.append(f"{table}.{column.name}: expected {expected}, got {'NOT ' * got.not_null}NULL")
        if got.generated:
            problems.append(f"{table}.{column.name}: expected a column to write to, got a generated one")
    assert not problems, show(problems)


@every_table
def test_defaults(live: Live, table: Table) -> None:
    columns = live.columns(table)
    stated = [column for column in table.columns if column.type is not None and column.name in columns]
    # The server itself brings the documented expressions into its own form, for columns of the same types.
    given = ", ".join(
        f'"{column.name}" {columns[column.name].type} DEFAULT {column.default}'
        for column in stated
        if column.default is not None
    )
    live.connection.execute(text(f"CREATE TEMP TABLE documented ({given}) ON COMMIT DROP"))
    temporary = live.connection.scalar(text("SELECT 'pg_temp.documented'::regclass::oid"))
    documented = {row.name: row for row in live.connection.execute(COLUMNS, {"relation": temporary})}
    problems = []
    for column in stated:
        got = columns[column.name]
        if column.type == "SERIAL":
            # A serial takes a number that is given, and so does only an identity BY DEFAULT.
            if got.identity != "d" and not str(got.default).startswith("nextval("):
                shown = "GENERATED ALWAYS" if got.identity else got.default
                problems.append(f"{table}.{column.name}: expected identity BY DEFAULT, got {shown}")
            continue
        want = documented[column.name].default if column.name in documented else None
        if got.identity or normalised(got.default) != normalised(want):
            shown = "an identity" if got.identity else got.default
            problems.append(f"{table}.{column.name}: expected default {want}, got {shown}")
    assert not problems, show(problems)


def normalised(expression: str | None) -> str | None:
    return None if expression is None else expression.replace("CURRENT_TIMESTAMP", "now()")


@every_table_with_ddl
def test_added_columns_leave_inserts_alone(live: Live, table: Table) -> None:
    known = {column.name for column in table.columns}
    problems = [
        f"{table}.{got.name}: expected an added column to be NULL or to have a default, got NOT NULL without"
        for got in live.columns(table).values()
        if got.name not in known and got.not_null and got.default is None and not got.identity
    ]
    assert not problems, show(problems)


@every_table_with_ddl
def test_primary_key_and_uniques(live: Live, table: Table) -> None:
    known = {column.name for column in table.columns}
    rows = live.rows(UNIQUES, table)
    full = [row for row in rows if row.plain and row.immediate and not row.nulls_equal]
    primary = [tuple(row.columns) for row in full if row.is_primary]
    problems = []
    if [sorted(key) for key in primary] != [sorted(table.primary_key)]:
        problems.append(f"{table}: expected PRIMARY KEY {table.primary_key}, got {primary}")
    for key in table.uniques:
        if not any(set(row.columns) == set(key) for row in full):
            problems.append(f"{table}: expected UNIQUE {key}, got {[tuple(row.columns) for row in full]}")
    for row in rows:
        # No more may be unique among the documented columns: rows that the platform has would be refused.
        implied = any(set(key) <= set(row.columns) for key in (table.primary_key, *table.uniques))
        if {*row.columns, *row.uses} <= known and not implied:
            problems.append(f"{table}: expected no UNIQUE {tuple(row.columns)}, got {row.name}")
    assert not problems, show(problems)


@every_table_with_checks
def test_checks(live: Live, table: Table) -> None:
    columns = live.columns(table)
    problems = []
    for check in table.checks:
        column = columns[check.column]
        rows = live.rows(CHECKS, table, number=column.number)
        shown = "; ".join(row.definition for row in rows) or "no CHECK"
        problems += [
            f"{table}.{check.column}: expected a CHECK that holds for all rows, got {row.definition}"
            for row in rows
            if row.definition.endswith(("NOT VALID", "NOT ENFORCED"))
        ]
        for value in (*check.accepts, *check.refuses):
            # The expression alone, as other constraints of the row are not in question.
            taken = all(
                live.connection.scalar(
                    text(
                        f"SELECT {row.expression} FROM"
                        f' (SELECT CAST(CAST(:value AS text) AS {column.type}) AS "{check.column}") AS probe'
                    ),
                    {"value": value},
                )
                is not False
                for row in rows
            )
            if taken != (value in check.accepts):
                expected = "accepted" if value in check.accepts else "refused"
                problems.append(f"{table}.{check.column}: expected {value!r} to be {expected}, got {shown}")
        named = {value for row in rows for value in re.findall(r"'([^']*)'", row.expression)}
        if check.exact and named and named != set(check.accepts):
            problems.append(
                f"{table}.{check.column}: expected exactly {sorted(check.accepts)}, got {sorted(named)}"
            )
    assert not problems, show(problems)


@every_table_with_ddl
def test_foreign_keys(live: Live, table: Table) -> None:
    known = {column.name for column in table.columns}
    rows = live.rows(FOREIGN_KEYS, table)
    problems = []
    for key in table.foreign_keys:
        target = live.relation(key.schema, key.table)
        where = f"{table}.{key.column}"
        want = f"REFERENCES {live.place(key.schema)}.{key.table} ({key.target})"
        found = [
            row
            for row in rows
            if row.columns == [key.column] and (row.target, row.targets) == (target, [key.target])
        ]
        if len(found) != 1:
            problems.append(f"{where}: expected one foreign key {want}, got {len(found)}")
            continue
        for action, rule, expected in (
            ("DELETE", found[0].on_delete, key.on_delete),
            ("UPDATE", found[0].on_update, "NO ACTION"),
        ):
            got = FOREIGN_KEY_ACTIONS[rule]
            if got != expected:
                problems.append(f"{where}: expected {want} ON {action} {expected}, got ON {action} {got}")
        if not found[0].validated:
            problems.append(f"{where}: expected {want} to hold for all rows, got NOT VALID")
        types = [
            live.connection.scalar(TYPE, {"relation": relation, "name": name})
            for relation, name in ((found[0].relation, key.column), (target, key.target))
        ]
        if types[0] != types[1]:
            problems.append(
                f"{where}: expected the type of {key.table}.{key.target}, {types[1]}, got {types[0]}"
            )
    documented = {(key.column,) for key in table.foreign_keys}
    problems += [
        f"{table}: expected no foreign key on {tuple(row.columns)}, got {row.name}"
        for row in rows
        if set(row.columns) <= known and tuple(row.columns) not in documented
    ]
    assert not problems, show(problems)


@every_table_with_indexes
def test_indexes(live: Live, table: Table) -> None:
    relation = live.relation(table.schema, table.name)
    schema = live.place(table.schema)
    problems = []
    for index in map(upgraded, table.indexes):
        got = live.connection.execute(INDEX, {"name": index.name, "schema": schema}).one_or_none()
        if got is None or got.relation != relation:
            problems.append(
                f"{table}: expected index {index.name}, got {'none' if got is None else 'another table'}"
            )
            continue
        options = OPTIONS_BY_DEFAULT.get(got.method, {}) | dict(o.split("=", 1) for o in got.options or ())
        for what, expected, found in (
            ("method", index.method, got.method),
            # More columns behind the reference's serve its use of the index as well.
            ("keys", list(index.keys), list(got.keys)[: len(index.keys)]),
            ("predicate", None, got.predicate),
            ("valid", True, got.valid),
            *((name, value, options.get(name)) for name, value in index.options),
        ):
            if expected != found:
                problems.append(f"{table}: index {index.name}: expected {what} {expected}, got {found}")
    assert not problems, show(problems)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda collection: collection.name)
def test_collection(live: Live, collection: Collection) -> None:
    row = live.connection.execute(
        text("SELECT dimensions, lower(distance) AS distance FROM knowledge_collections WHERE name = :name"),
        {"name": collection.name},
    ).one_or_none()
    assert row is not None, f"knowledge_collections: expected {collection.name}, got no such row"
    expected = (collection.dimensions, collection.distance)
    assert tuple(row) == expected, f"{collection.name}: expected {expected}, got {tuple(row)}"
    # It takes a point at once, of that many dimensions and no others.
    add = "INSERT INTO knowledge_points (collection, id, embedding) VALUES (?, ?, ?)"
    live.run(add, collection.name, "p-1", vector(collection.dimensions))
    with pytest.raises(DBAPIError, match=f"expected {collection.dimensions} dimensions"):
        live.run(add, collection.name, "p-2", vector(3))


# ---- the platforms' own SQL -------------------------------------------------------------------------------

NUMBERS = count(1_000_000)
SAMPLES: dict[str, Any] = {
    "TEXT": "some text",
    "JSONB": "{}",
    "INTEGER": 1,
    "FLOAT": 0.5,
    "DECIMAL(10,4)": 0.5,
    "BOOLEAN": True,
    "TIMESTAMP": "2025-08-20 12:00:00",
    "TIMESTAMPTZ": "2025-08-20 12:00:00+00",
}
TIMES = {("scheduler_executions", status): "end_time" for status in ("completed", "failed")}
SAMPLES_BY_NAME = {"capabilities": "[]", "schedule": "*/5 * * * *"}


def vector(dimensions: int, first: float = 1) -> str:
    return f"[{first},{','.join(['1'] * (dimensions - 1))}]"


def sample(table: Table, column: Column) -> Any:
    """A value that the documentation allows; another one each time where it has to be unique."""
    listed = [check.accepts[0] for check in table.checks if check.column == column.name]
    assert column.type is not None
    if listed:
        return listed[0]
    if column.type == "UUID":
        return str(uuid.uuid4())
    if column.type == "SERIAL":
        return next(NUMBERS)
    if any(column.name in key for key in (*table.uniques, table.primary_key)):
        return uuid.uuid4().hex
    if found := re.fullmatch(r"(VARCHAR|vector)\((\d+)\)", column.type):
        length = int(found[2])
        return SAMPLES_BY_NAME.get(column.name) or ("x" * length if found[1] == "VARCHAR" else vector(length))
    return SAMPLES_BY_NAME.get(column.name, SAMPLES[column.type])


def insert(live: Live, table: Table, values: dict[str, Any]) -> Any:
    names = ", ".join(values)
    marks = f"({names}) VALUES ({', '.join('?' * len(values))})" if values else "DEFAULT VALUES"
    sql = f"INSERT INTO {table} {marks} RETURNING {table.primary_key[0]}"
    try:
        return live.run(sql, *values.values()).scalar_one()
    except DBAPIError as error:
        reason = error.orig
    pytest.fail(f"{table}: expected an INSERT of ({names}) to be taken, got {reason}")


def minimal(table: Table) -> dict[str, Any]:
    """Only what the documentation makes one write: NOT NULL, or the key, without a default."""
    return {
        column.name: sample(table, column)
        for column in table.columns
        if column.default is None
        and column.type != "SERIAL"
        and (column.not_null or column.name in table.primary_key)
    }


def time_of(table: Table, status: str) -> str | None:
    """The documented column with the time of a status, which a platform writes together with the status."""
    name = TIMES.get((table.name, status), f"{status}_at")
    return name if any(column.name == name for column in table.columns) else None


@every_table_with_ddl
def test_minimal_insert(live: Live, table: Table) -> None:
    first, second = (insert(live, table, minimal(table)) for _ in range(2))
    assert first != second, f"{table}.{table.primary_key[0]}: expected a key for each row, got {first} twice"


@every_table_with_ddl
def test_insert_update_delete_of_every_column(live: Live, table: Table) -> None:
    parents = {
        key.column: insert(live, parent, minimal(parent))
        for key in table.foreign_keys
        for parent in [BY_NAME[key.table if key.schema is None else f"{key.schema}.{key.table}"]]
    }
    # The rows get the first status; the times of the others are left out.
    left_out = {time_of(table, status) for check in table.checks for status in check.accepts[1:]}
    columns = [column for column in table.columns if column.name not in left_out]
    (key,) = table.primary_key
    names = [column.name for column in columns]
    # Two rows that differ only where they have to: no more of them may be unique.
    for _ in range(2):
        values = {column.name: parents.get(column.name) or sample(table, column) for column in columns}
        got = insert(live, table, values)
        assert str(got) == str(values[key]), f"{table}.{key}: expected the given {values[key]}, got {got}"
    set_ = ", ".join(f"{name} = ?" for name in names)
    for what, done in (
        ("UPDATE", live.run(f"UPDATE {table} SET {set_} WHERE {key} = ?", *values.values(), got)),
        ("SELECT", live.run(f"SELECT {', '.join(names)} FROM {table} WHERE {key} = ?", got)),
        ("DELETE", live.run(f"DELETE FROM {table} WHERE {key} = ?", got)),
    ):
        assert done.rowcount == 1, f"{table}: expected {what} of 1 row, got {done.rowcount}"


@every_table_with_checks
def test_update_to_each_listed_value(live: Live, table: Table) -> None:
    (key,) = table.primary_key
    id_ = insert(live, table, minimal(table))
    problems = []
    for check in table.checks:
        for value in check.accepts:
            time = time_of(table, value)
            set_ = f"{check.column} = '{value}'" + (f", {time} = NOW()" if time else "")
            update = f"UPDATE {table} SET {set_} WHERE {key} = ?"
            savepoint = live.connection.begin_nested()
            try:
                updated = live.run(update, id_)
            except DBAPIError as error:
                problems.append(f"{table}.{check.column}: expected {value!r} to be stored, got {error.orig}")
            else:
                assert updated.rowcount == 1
            savepoint.rollback()
    assert not problems, show(problems)


@pytest.mark.parametrize("query", EXAMPLES, ids=lambda query: " ".join(query.sql.split())[:60])
def test_example_query(live: Live, query: Query) -> None:
    result = live.connection.execute(text(live.sql(query.sql)))
    got = tuple(result.keys())
    assert set(query.columns) <= set(got), f"{query.sql}: expected columns {query.columns}, got {got}"
    result.all()


def test_memory_operations(live: Live) -> None:
    bank = insert(live, BY_NAME["memory_banks"], {"name": "bank"})
    near, far = (
        insert(
            live,
            BY_NAME["memories"],
            {"memory_bank_id": bank, "content": "c", "embedding": vector(384, first)},
        )
        for first in (1, -100)
    )
    rows = live.run(RETRIEVE_MEMORIES, bank).mappings().all()
    assert {row["id"] for row in rows} == {near, far}
    rows = live.run(SEARCH_MEMORIES, vector(384)).mappings().all()
    assert [row["id"] for row in rows if row["id"] in (near, far)] == [near, far]
    assert live.run(TOUCH_MEMORY, near).rowcount == 1
    count, time = live.run("SELECT access_count, last_accessed FROM memories WHERE id = ?", near).one()
    assert (count, time is None) == (1, False), (
        f"memories: expected one access with its time, got {count}, {time}"
    )
