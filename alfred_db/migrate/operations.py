"""What the revisions share: SQL that runs online and as `--sql`, for the default tenant and for a named one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from alembic import context, op
from sqlalchemy import text

from ..models import Base
from ..models.base import MADE_HERE, TENANT_SCHEMAS
from ..sql import literal, qualified, quoted
from .ddl import Look, create_schema, drop_schema, name_tables_with_rows, refuse_rows, trigger

__all__ = [
    "build_indexes",
    "create_schemas",
    "create_unless_exists",
    "ddl",
    "drop_if_made_here",
    "drop_schemas",
    "drop_tables",
    "look_for_rows",
    "option",
    "refuse_values",
    "shared",
    "trigger_of",
    "trigram_index",
    "updated_by_trigger",
]


def option(name: str) -> str | None:
    """An option of this run: `-x name=value` of any Alembic command, or what `alfred_db.migrate` was told."""
    given: Any = context.config.attributes.get(name)
    if given is None:
        given = context.get_x_argument(as_dictionary=True).get(name)
    return None if given is None else str(given)


def shared(step: Callable[[], None]) -> Callable[[], None]:
    """Mark `upgrade` or `downgrade` of a revision of the shared catalogs: a named tenant passes over it."""

    @wraps(step)
    def run() -> None:
        if option("schema") is None:
            step()

    run.shared = True  # type: ignore[attr-defined]
    return run


@dataclass(frozen=True, slots=True)
class _Doomed:
    """What downgrades would drop, by the full name of the table; its name for people is the value."""

    tables: dict[str, str] = field(default_factory=dict[str, str])
    if_made_here: dict[str, str] = field(default_factory=dict[str, str])
    """Tables that are dropped only if this library made them."""
    not_data: dict[str, str] = field(default_factory=dict[str, str])
    """Conditions of the rows that the downgrade deletes itself, as it has put them there."""
    values: list[tuple[str, str, str, str]] = field(default_factory=list[tuple[str, str, str, str]])
    """Tables that stay, with the condition of rows that would lose a value, and what these are for people."""


_rehearsal: ContextVar[_Doomed | None] = ContextVar("rehearsal", default=None)


def look_for_rows(downgrades: Sequence[Callable[[], None]]) -> str | None:
    """The statement that names all tables with rows that these downgrades would drop, and fails if there are any.

    None when there is nothing to look at, or rows may go. The downgrades are called, and say nothing to the database.
    """
    if not downgrades or option("allow_data_loss"):
        return None
    doomed = _Doomed()
    token = _rehearsal.set(doomed)
    try:
        for downgrade in downgrades:
            downgrade()
    finally:
        _rehearsal.reset(token)
    looks = [
        Look(table, name, f"NOT ({doomed.not_data[table]})" if table in doomed.not_data else "true", "")
        for table, name in doomed.tables.items()
    ]
    looks += [Look(table, name, only_if_made_here=True) for table, name in doomed.if_made_here.items()]
    looks += [Look(*value) for value in doomed.values]
    return name_tables_with_rows(looks) if looks else None


def ddl(sql: str) -> None:
    """Run SQL that names tables as the default tenant has them; a named tenant's are put in its own schema."""
    doomed = _rehearsal.get()
    if doomed is None:
        op.execute(_at_home(sql.strip()))
    elif (deleted := re.fullmatch(r"\s*DELETE FROM (\S+) WHERE (.*)", sql, re.DOTALL)) is not None:
        doomed.not_data[_full_name(deleted.group(1))] = deleted.group(2)


def _at_home(sql: str) -> str:
    """The statement with the schema of each table that has none, and a named tenant's tables in its own.

    A migration has nothing but pg_catalog in its search_path: whoever may create in another schema of it could have an
    operator or a function of theirs taken for PostgreSQL's. A script leaves the default tenant's to whoever runs it.
    """
    schema, home = option("schema"), option("schema") or option("home")
    if schema is not None:
        sql = re.sub(rf"\b({'|'.join(TENANT_SCHEMAS)})\.", lambda _: f"{quoted(schema)}.", sql)
    if home is None or context.is_offline_mode():
        return sql
    sql = _UNQUALIFIED.sub(lambda found: f"{found[1]}{quoted(home)}.{found[2]}", sql)
    return _of_extensions(_path_before(sql))


def _our_names() -> str:
    """The tables without a schema, and the partitions of those that have some."""
    names = [
        f"{table.name}(?:_\\w+)?" if table.dialect_options["postgresql"]["partition_by"] else table.name
        for table in Base.metadata.tables.values()
        if table.schema is None
    ]
    return "|".join(sorted(names, key=len, reverse=True))


_UNQUALIFIED = re.compile(
    r"(\b(?:TABLE|TABLE IF EXISTS|TABLE IF NOT EXISTS|ON|INTO|FROM|ONLY|JOIN|UPDATE|REFERENCES|OF|PARTITION)\s+"
    r"|(?:make_month_partitions|to_regclass)\('|^(?:DROP|ALTER) INDEX (?=\w))"
    rf"({_our_names()}|(?<=DROP INDEX )\w+|(?<=ALTER INDEX )\w+)\b(?!\.)"
)


def _path_before(sql: str) -> str:
    """What a statement asks of the search_path is answered by the one of the role and database."""
    names: Sequence[str] = context.config.attributes.get("path") or ()
    listed = ", ".join(literal(name) for name in names)
    sql = sql.replace("current_schemas(false)", f"ARRAY[{listed}]::name[]")
    return sql.replace("current_schema()", f"{literal(names[0])}::name" if names else "NULL::name")


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
                prefix = f"{quoted(home)}."
                sql = names.sub(lambda found, prefix=prefix: prefix + found[1].lower(), sql)  # type: ignore[misc]
    return sql


_HOME_OF = """
    SELECT nspname FROM pg_catalog.pg_extension JOIN pg_catalog.pg_namespace ON pg_namespace.oid = extnamespace
    WHERE extname = :extension
"""


def _full_name(table: str) -> str:
    """A table by its schema, as the search_path goes on to where another one may have the name."""
    return _at_home(table) if "." in table else qualified(option("schema") or option("home"), table)


def create_schemas(*names: str) -> None:
    """Make the schemas that are missing; touch none that is there, whoever owns it."""
    for name in names:
        ddl(create_schema(name))


def drop_schemas(*names: str) -> None:
    """Drop the schemas that this library made, if nothing else has moved in."""
    for name in names:
        ddl(drop_schema(name))


def create_unless_exists(table: str, *statements: str | None) -> None:
    """Make a table, and what belongs to it, that another service may own already; its own is left untouched."""
    body = ";\n".join([*filter(None, statements), f"COMMENT ON TABLE {table} IS '{MADE_HERE}'"])
    ddl(f"DO $do$ BEGIN IF pg_catalog.to_regclass('{table}') IS NULL THEN {body}; END IF; END $do$")


def drop_if_made_here(table: str) -> None:
    """Drop what `create_unless_exists` made; refuses rows as `drop_tables` does."""
    if (doomed := _rehearsal.get()) is not None:
        doomed.if_made_here[_full_name(table)] = table
    ddl(f"""
        DO $do$ BEGIN
            IF pg_catalog.obj_description(pg_catalog.to_regclass('{table}'), 'pg_class') = '{MADE_HERE}' THEN
                {"" if option("allow_data_loss") else refuse_rows(table, table)}
                DROP TABLE {table};
            END IF;
        END $do$
    """)


def drop_tables(*names: str) -> None:
    """Drop tables in the given order; refuses one that holds rows unless the run has `allow_data_loss=1`."""
    tables = {_full_name(name): name for name in names}
    if (doomed := _rehearsal.get()) is not None:
        doomed.tables.update(tables)
    if not option("allow_data_loss"):
        for table, name in tables.items():
            ddl(f"DO $$ BEGIN {refuse_rows(table, name)} END $$")
    for table in tables:
        ddl(f"DROP TABLE {table}")


def build_indexes(table: str, made_by: str, indexes: Mapping[str, str], *, unique: bool = False) -> None:
    """Build the named indexes of a table that the revision `made_by` made; an index is what follows ON the table.

    A table that may hold rows gets them CONCURRENTLY, outside of a transaction, so that it is written meanwhile: what
    the revision did before is committed, and must bear to be done again. An empty one gets them in the transaction.
    """
    if _rehearsal.get() is not None:
        return
    schema, create = option("schema"), "CREATE UNIQUE INDEX" if unique else "CREATE INDEX"
    if context.is_offline_mode():
        start = context.get_starting_revision_argument()
        filled = start is not None and str(start) >= made_by
    else:
        schema = schema or option("home")
        filled = bool(op.get_bind().scalar(text(f"SELECT EXISTS (SELECT FROM {qualified(schema, table)})")))
    if not filled:
        for name, definition in indexes.items():
            ddl(f"{create} {name} ON {_full_name(table)} {definition}")
        return
    with op.get_context().autocommit_block():
        for name, definition in indexes.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {qualified(schema, name)}")  # an earlier try's
            op.execute(f"{create} CONCURRENTLY {name} ON {qualified(schema, table)} {definition}")


def refuse_values(table: str, condition: str, what: str) -> None:
    """Go no further when rows of a table meet the condition, unless the run has `allow_data_loss=1`."""
    if (doomed := _rehearsal.get()) is not None:
        doomed.values.append((_full_name(table), table, condition, what))
    if not option("allow_data_loss"):
        ddl(f"DO $$ BEGIN {refuse_rows(_full_name(table), table, condition, what)} END $$")


def trigram_index(table: str, column: str) -> None:
    """Index a column for search by similar spelling, where pg_trgm is installed."""
    name = f"idx_{table.rpartition('.')[2]}_{column}_trgm"
    ddl(f"""
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'pg_trgm') THEN
                CREATE INDEX {name} ON {table} USING gin ({column} gin_trgm_ops);
            END IF;
        END $$
    """)


def updated_by_trigger(table: str) -> None:
    """Have raw SQL keep `updated_at`; left out with `-x triggers=off`, for Citus, which distributes no triggers."""
    if statement := trigger_of(table):
        ddl(statement)


def trigger_of(table: str) -> str | None:
    """The trigger of a table for `create_unless_exists`; None with `-x triggers=off`."""
    return None if option("triggers") == "off" else trigger(table)
