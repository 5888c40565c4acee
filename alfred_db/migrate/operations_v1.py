"""Operations of the revisions, version 1: frozen, so that a released revision always runs the same SQL.

Never edit this module after a release: `tests/unit/released.txt` holds its hash. What a new revision needs beyond it goes
into a module of the next version, which may import this one. It imports nothing of this library, and has copies of the
names that it needs: schemas, tables, the comment on what the library made.

What an operation must know about the run comes from Alembic alone: whether it writes a script, the connection, and
these attributes of its configuration (`context.config.attributes`), which are the interface between all versions of the
operations and the code that runs them. The options among them may also be given as `-x name=value`. All may be missing,
as they are where another application's env.py runs the revisions.

| attribute | is |
|---|---|
| `schema` (option) | the tenant's schema; missing for the default tenant |
| `triggers` (option) | `off`: create no triggers |
| `allow_data_loss` (option) | anything: drop tables with rows |
| `home` | the schema of the default tenant's tables; missing in a script |
| `path` | the search_path of role and database as a list of schemas; the transaction itself has only pg_catalog |
| `rehearsal` | a list; while it is present an operation executes nothing, and appends what it would drop |

Entries of a rehearsal are tuples of text: `("drop", table, name)`, `("drop if made here", table, name)`,
`("delete", table, condition)`, `("forget", table, name, condition, what)`. The table is as SQL names it, the name is for messages.
A function that `shared` wraps has the attribute `shared`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from alembic import context, op
from sqlalchemy import text

__all__ = [
    "MADE_HERE",
    "build_indexes",
    "create_schemas",
    "create_unless_exists",
    "ddl",
    "drop_if_made_here",
    "drop_schemas",
    "drop_tables",
    "full_name",
    "option",
    "refuse_values",
    "shared",
    "trigger_of",
    "trigram_index",
    "updated_by_trigger",
]

MADE_HERE = "made by alfred-db"
"""The comment on a schema, table or function that a downgrade may drop."""

_TENANT_SCHEMAS = ("wm", "entity", "brk_tracking")

_TABLES = (
    "agent_registry", "conversations", "documents", "event_consumers", "knowledge_aliases", "knowledge_collections",
    "memories", "memory_banks", "memory_entries", "processed_messages", "rag_queries", "rag_query_documents",
    "rag_sessions", "scheduler_executions", "scheduler_tasks", "task_results", "tasks", "test_cases", "test_results",
    "test_runs", "test_suites", "workflow_events", "workflow_executions", "workflow_steps", "workflows",
)  # fmt: skip
_PARTITIONED = ("events", "knowledge_points")


def option(name: str) -> str | None:
    """Return an option of this run: an attribute of the configuration, or `-x name=value` of any Alembic command."""
    given: Any = context.config.attributes.get(name)
    if given is None:
        given = context.get_x_argument(as_dictionary=True).get(name)
    return None if given is None else str(given)


def shared(step: Callable[[], None]) -> Callable[[], None]:
    """Mark `upgrade` or `downgrade` of a revision of the shared catalogs: a named tenant skips it."""

    @wraps(step)
    def run() -> None:
        if option("schema") is None:
            step()

    run.shared = True  # type: ignore[attr-defined]
    return run


def _rehearsal() -> list[tuple[str, ...]] | None:
    found: list[tuple[str, ...]] | None = context.config.attributes.get("rehearsal")
    return found


def ddl(sql: str) -> None:
    """Execute SQL that names tables as the default tenant has them; a named tenant's are in its own schema.

    A table without a schema is found where only a table can stand: after CREATE, ALTER or DROP TABLE, INSERT INTO, UPDATE,
    DELETE FROM, REFERENCES, and as the table of an index or a trigger. Elsewhere write `full_name(table)`.
    """
    doomed = _rehearsal()
    if doomed is None:
        op.execute(_at_home(sql.strip()))
    elif (deleted := re.fullmatch(r"\s*DELETE FROM (\S+) WHERE (.*)", sql, re.DOTALL)) is not None:
        doomed.append(("delete", full_name(deleted.group(1)), deleted.group(2)))


def _at_home(sql: str) -> str:
    """The statement with the schema of each table that has none, and a named tenant's tables in its own.

    A migration has nothing but pg_catalog in its search_path: whoever may create in another schema of it could have an
    operator or a function of theirs taken for PostgreSQL's. A script leaves the default tenant's to whoever runs it.
    """
    schema, home = option("schema"), option("schema") or option("home")
    if schema is not None:
        sql = re.sub(rf"\b({'|'.join(_TENANT_SCHEMAS)})\.", lambda _: f"{_quoted(schema)}.", sql)
    if home is None or context.is_offline_mode():
        return sql
    for names in (_UNQUALIFIED, _TARGET, _REFERRED):
        sql = names.sub(lambda found: f"{found[1]}{_quoted(home)}.{found[2]}", sql)
    return _of_extensions(_path_before(sql))


_NAMES = "|".join(sorted([*_TABLES, *(rf"{name}(?:_\w+)?" for name in _PARTITIONED)], key=len, reverse=True))

_UNQUALIFIED = re.compile(
    r"(\b(?:TABLE|TABLE IF EXISTS|TABLE IF NOT EXISTS|ON|INTO|FROM|ONLY|JOIN|UPDATE|REFERENCES|OF|PARTITION)\s+"
    r"|(?:make_month_partitions|to_regclass)\('|^(?:DROP|ALTER) INDEX (?=\w))"
    rf"({_NAMES}|(?<=DROP INDEX )\w+|(?<=ALTER INDEX )\w+)\b(?!\.)"
)
"""The tables of the first releases, wherever they stand, and indexes."""

_TARGET = re.compile(
    r"\A((?:(?:CREATE|ALTER|DROP|LOCK|TRUNCATE|COMMENT ON) TABLE(?: IF (?:NOT )?EXISTS)?(?: ONLY)?"
    r"|INSERT INTO|UPDATE(?: ONLY)?|DELETE FROM(?: ONLY)?"
    r"|CREATE (?:UNIQUE )?INDEX(?: IF NOT EXISTS)? \w+ ON(?: ONLY)?|CREATE TRIGGER \w+(?:(?! ON ).)* ON)\s+)"
    r"(?!(?:IF|ONLY)\b)(\w+)\b(?!\.)",
    re.DOTALL,
)
"""The table of a statement, whatever its name."""

_REFERRED = re.compile(
    r"(\b(?:REFERENCES|PARTITION OF)\s+|(?:make_month_partitions|to_regclass)\(')(\w+)\b(?!\.)"
)


def _path_before(sql: str) -> str:
    """What a statement asks of the search_path is answered by the one of the role and database."""
    names: Sequence[str] = context.config.attributes.get("path") or ()
    listed = ", ".join(_literal(name) for name in names)
    sql = sql.replace("current_schemas(false)", f"ARRAY[{listed}]::name[]")
    return sql.replace("current_schema()", f"{_literal(names[0])}::name" if names else "NULL::name")


_THEIRS = {
    "vector": re.compile(
        r"(?<![\w.\"])((?:VECTOR|HALFVEC|SPARSEVEC)(?=\(\d+\))|(?:vector|halfvec|sparsevec|bit)_\w+_ops)\b",
        re.I,
    ),
    "pg_trgm": re.compile(r"(?<![\w.\"])(gin_trgm_ops|gist_trgm_ops)\b"),
}


def _of_extensions(sql: str) -> str:
    """The statement with the schemas of the types and operator classes of extensions."""
    for extension, names in _THEIRS.items():
        if names.search(sql) is not None:
            home = op.get_bind().scalar(text(_HOME_OF), {"extension": extension})
            if home is not None:
                prefix = f"{_quoted(home)}."
                sql = names.sub(lambda found, prefix=prefix: prefix + found[1].lower(), sql)  # type: ignore[misc]
    return sql


_HOME_OF = """
    SELECT nspname FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace ON pg_namespace.oid = extnamespace
    WHERE extname = :extension
"""


def full_name(table: str) -> str:
    """Return a table by its schema, as the search_path goes on to where another one may have the name."""
    return _at_home(table) if "." in table else _qualified(option("schema") or option("home"), table)


def _here(table: str) -> str:
    """A table for use within a statement; a script has set the search_path for it."""
    return table if "." in table or context.is_offline_mode() else full_name(table)


# Schemas


def create_schemas(*names: str) -> None:
    """Create the schemas that are missing; leave existing ones alone, whoever owns them."""
    for name in names:
        # `IF NOT EXISTS` would want the right to create it.
        ddl(f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = {_literal(name)}) THEN
                CREATE SCHEMA {_quoted(name)};
                COMMENT ON SCHEMA {_quoted(name)} IS '{MADE_HERE}';
            END IF;
        END $$
    """)


def drop_schemas(*names: str) -> None:
    """Drop the schemas that this library created, unless something else has moved in."""
    for name in names:
        ddl(f"""
        DO $$ BEGIN
            IF EXISTS (
                SELECT FROM pg_catalog.pg_namespace
                WHERE nspname = {_literal(name)} AND pg_catalog.obj_description(oid, 'pg_namespace') = '{MADE_HERE}'
                    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid = CAST('pg_catalog.pg_namespace'::regclass AS oid) AND refobjid = pg_namespace.oid)
            ) THEN
                DROP SCHEMA {_quoted(name)};
            END IF;
        END $$
    """)


# Tables


def create_unless_exists(table: str, *statements: str | None) -> None:
    """Create a table, and what belongs to it, that another service may own already; its own is left untouched."""
    body = ";\n".join([*filter(None, statements), f"COMMENT ON TABLE {table} IS '{MADE_HERE}'"])
    ddl(f"DO $do$ BEGIN IF pg_catalog.to_regclass('{table}') IS NULL THEN {body}; END IF; END $do$")


def drop_if_made_here(table: str) -> None:
    """Drop what `create_unless_exists` created; refuses rows as `drop_tables` does."""
    if (doomed := _rehearsal()) is not None:
        doomed.append(("drop if made here", full_name(table), table))
    ddl(f"""
        DO $do$ BEGIN
            IF pg_catalog.obj_description(pg_catalog.to_regclass('{table}'), 'pg_class') = '{MADE_HERE}' THEN
                {"" if option("allow_data_loss") else _refuse_rows(table, table)}
                DROP TABLE {table};
            END IF;
        END $do$
    """)


def drop_tables(*names: str) -> None:
    """Drop tables in the given order; refuses one that holds rows unless the run has `allow_data_loss`."""
    tables = {full_name(name): name for name in names}
    if (doomed := _rehearsal()) is not None:
        doomed += [("drop", table, name) for table, name in tables.items()]
    if not option("allow_data_loss"):
        for table, name in tables.items():
            ddl(f"DO $$ BEGIN {_refuse_rows(table, name)} END $$")
    for table in tables:
        ddl(f"DROP TABLE {table}")


def refuse_values(table: str, condition: str, what: str) -> None:
    """Stop when rows of a table meet the condition, unless the run has `allow_data_loss`; `what` describes them."""
    if (doomed := _rehearsal()) is not None:
        doomed.append(("forget", full_name(table), table, condition, what))
    if not option("allow_data_loss"):
        ddl(f"DO $$ BEGIN {_refuse_rows(full_name(table), table, condition, what)} END $$")


def _refuse_rows(table: str, name: str, condition: str = "true", what: str = "") -> str:
    """The part of a DO block that stops when a table holds rows; `name` is how the message names it.

    The lock comes first, as nobody else sees a row of a transaction that has not committed. No policy hides rows
    meanwhile, not even one that is forced on the owner.
    """
    rows, loss = f"rows {what}" if what else "rows", "forget" if what else "destroy"
    return (
        f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; "
        f"IF (SELECT relforcerowsecurity FROM pg_catalog.pg_class WHERE oid = CAST({_literal(table)}::regclass AS oid))"
        f" THEN ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;"
        f" PERFORM pg_catalog.set_config('alfred_db.forced', {_literal(table)}, true); END IF;"
        " PERFORM pg_catalog.set_config('row_security', 'off', true);"
        f" IF EXISTS (SELECT FROM {table} WHERE {condition}) THEN RAISE EXCEPTION USING ERRCODE = 'AD001', MESSAGE ="
        f" {_literal(f'table {name} holds {rows}, which this downgrade would {loss}')}; END IF; "
        f"IF pg_catalog.current_setting('alfred_db.forced', true) = {_literal(table)} THEN"
        f" ALTER TABLE {table} FORCE ROW LEVEL SECURITY; END IF; PERFORM pg_catalog.set_config('row_security', 'on', true);"
    )


# Indexes and triggers


def build_indexes(table: str, made_by: str, indexes: Mapping[str, str], *, unique: bool = False) -> None:
    """Build the named indexes of a table that the revision `made_by` made; an index is what follows ON the table.

    A table that may hold rows gets them CONCURRENTLY, outside of a transaction, so that it is written meanwhile: what
    the revision did before is committed, and must bear to be done again. An empty one gets them in the transaction.
    """
    if _rehearsal() is not None:
        return
    schema, create = option("schema"), "CREATE UNIQUE INDEX" if unique else "CREATE INDEX"
    if context.is_offline_mode():
        filled = made_by in _run_before_the_script()
    else:
        schema = schema or option("home")
        filled = bool(op.get_bind().scalar(text(f"SELECT EXISTS (SELECT FROM {_qualified(schema, table)})")))
    if not filled:
        for name, definition in indexes.items():
            ddl(f"{create} {name} ON {full_name(table)} {definition}")
        return
    with op.get_context().autocommit_block():
        for name, definition in indexes.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_qualified(schema, name)}")  # an earlier try's
            op.execute(f"{create} CONCURRENTLY {name} ON {_qualified(schema, table)} {definition}")


def _run_before_the_script() -> set[str]:
    """The revisions that a database has where a script begins: the one that it starts from, and all before it."""
    start = context.get_starting_revision_argument()
    if start is None:
        return set()
    return {step.revision for step in context.script.iterate_revisions(start, "base")}


def trigram_index(table: str, column: str) -> None:
    """Index a column for search by similar spelling, where pg_trgm is installed."""
    name = f"idx_{table.rpartition('.')[2]}_{column}_trgm"
    ddl(f"""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_trgm') THEN
                CREATE INDEX {name} ON {_here(table)} USING gin ({column} gin_trgm_ops);
            END IF;
        END $$
    """)


def updated_by_trigger(table: str) -> None:
    """Have raw SQL keep `updated_at`; left out with `-x triggers=off`, for Citus, which distributes no triggers."""
    if statement := trigger_of(table):
        ddl(statement)


def trigger_of(table: str) -> str | None:
    """Return the trigger of a table for `create_unless_exists`; None with `-x triggers=off`."""
    if option("triggers") == "off":
        return None
    return (
        f"CREATE TRIGGER set_updated_at BEFORE UPDATE ON {table} FOR EACH ROW"
        " WHEN (NEW.updated_at = OLD.updated_at) EXECUTE FUNCTION extensions.set_updated_at()"
    )


# Text of SQL


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _qualified(schema: str | None, name: str) -> str:
    """A name in a schema; None leaves it to the search_path."""
    return name if schema is None else f"{_quoted(schema)}.{name}"


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
