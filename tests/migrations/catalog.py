"""What the migration tests look at: the catalog, a dump, and processes that migrate."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
from forked import Program
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, text

from alfred_db import embedded, migrate
from alfred_db.config import parse_url

ROOT = Path(__file__).parent.parent.parent
REVISIONS = [step.id for step in migrate.history()]
HEAD = REVISIONS[-1]

EXTENSIONS = ("uuid-ossp", "pgcrypto", "pgjwt", "pg_trgm", "pg_stat_statements", "pg_cron")

SNAPSHOT = {
    "schemas": "SELECT nspname, nspacl::text, {comment}(n.oid, 'pg_namespace') FROM pg_namespace n WHERE {own}",
    "relations": (
        "SELECT nspname, relname, relkind, relpersistence, relispartition, reloptions::text, relacl::text,"
        " {comment}(c.oid, 'pg_class') FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE {own} AND relkind NOT IN ('i', 'I') AND {loose_class}"
    ),
    "indexes": "SELECT schemaname, tablename, indexname, indexdef FROM pg_indexes JOIN pg_namespace n ON nspname = schemaname WHERE {own}",
    "columns": (
        "SELECT nspname, relname, rank() OVER (PARTITION BY attrelid ORDER BY attnum), attname, format_type(atttypid, atttypmod), attnotnull, attidentity,"
        " attgenerated, pg_get_expr(adbin, adrelid) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
        " JOIN pg_namespace n ON n.oid = relnamespace LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE {own} AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'v') AND {loose_class}"
    ),
    "constraints": (
        "SELECT nspname, conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(c.oid)"
        " FROM pg_constraint c JOIN pg_namespace n ON n.oid = connamespace WHERE {own}"
    ),
    "types": (
        "SELECT nspname, typname FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace WHERE {own} AND"
        " NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.deptype = 'e') AND typelem = 0"
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.typrelid AND d.deptype = 'e')"
    ),
    "functions": (
        "SELECT nspname, p.oid::regprocedure::text, md5(prosrc), proacl::text, {comment}(p.oid, 'pg_proc')"
        " FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE {own} AND"
        " NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')"
    ),
    "triggers": "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal",
    "event triggers": "SELECT evtname FROM pg_event_trigger",
    "default grants": "SELECT defaclobjtype, defaclacl::text FROM pg_default_acl",
    "extensions": (
        "SELECT extname, extversion, nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace"
    ),
}
OWN = "nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'cron')"
LOOSE_CLASS = "NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')"

Snapshot = dict[str, list[tuple[Any, ...]]]


@contextmanager
def connected(url: URL, **options: Any) -> Iterator[Connection]:
    """An autocommit connection of its own."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", **options)
    with engine.connect() as connection:
        yield connection


def engine_of(url: URL) -> Engine:
    return create_engine(url, poolclass=NullPool)


def run(url: URL, *statements: str) -> None:
    """Execute statements, each on its own."""
    with connected(url) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))


def scalar(url: URL, statement: str, **parameters: Any) -> Any:
    with connected(url) as connection:
        return connection.scalar(text(statement), parameters)


def column(url: URL, statement: str) -> list[Any]:
    with connected(url) as connection:
        return list(connection.scalars(text(statement)))


def version(url: URL, schema: str | None = None) -> str | None:
    with connected(url) as connection:
        return migrate.current(connection, schema)


def snapshot(url: URL) -> Snapshot:
    """Everything in the catalog that is not the server's or an extension's, in a fixed order."""
    names = {"comment": "obj_description", "own": OWN, "loose_class": LOOSE_CLASS}
    with connected(url) as connection:
        found = {
            what: [tuple(row) for row in connection.exec_driver_sql(query.format(**names))]
            for what, query in SNAPSHOT.items()
        }
    numbered = numbering(value for rows in found.values() for row in rows for value in row)
    return {
        what: sorted((tuple(numbered(value) for value in row) for row in rows), key=repr)
        for what, rows in found.items()
    }


MONTH = re.compile(r"(\w+?)_(20\d\d_\d\d)(?!\d)")
BOUNDS = re.compile(
    r"(?<=_)(\d{4})_(\d\d) FOR VALUES FROM \('\1-\2-01 00:00:00\+00'\) TO \('(\d{4})-(\d\d)-01 00:00:00\+00'\)"
)


def numbering(values: Iterable[Any]) -> Callable[[Any], Any]:
    """What replaces the months in the names of partitions by their numbers, from the first one of each table.

    An upgrade makes the partitions of the months from now on: one before midnight of a month's end and one after it
    make the same, each of its own months.
    """
    months: dict[str, set[str]] = {}
    for value in values:
        for table, month in MONTH.findall(value) if isinstance(value, str) else ():
            months.setdefault(table, set()).add(month)

    def number(found: re.Match[str]) -> str:
        return f"{found[1]}_month_{sorted(months[found[1]]).index(found[2])}"

    return lambda value: MONTH.sub(number, value) if isinstance(value, str) else value


def _bounds(found: re.Match[str]) -> str:
    """The bounds in words if they are those of the month in the name, else as they are."""
    year, month, end_year, end_month = map(int, found.groups())
    of_the_month = end_year * 12 + end_month == year * 12 + month + 1
    return f"{found[1]}_{found[2]} FOR VALUES OF ITS MONTH" if of_the_month else found[0]


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What came and what went, for an assertion's message."""
    return [
        f"{sign} {what}: {row}"
        for what in before
        for sign, rows, others in (("-", before[what], after[what]), ("+", after[what], before[what]))
        for row in rows
        if row not in others
    ]


def prepare(url: URL) -> None:
    """What an administrator does ahead: the schema `extensions` and every extension that the server has."""
    run(url, "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA public")
    for name in EXTENSIONS:
        home = "public" if name == "pg_trgm" else "extensions"
        offered = scalar(url, "SELECT count(*) FROM pg_available_extensions WHERE name = :name", name=name)
        if offered and name != "pg_cron":
            run(url, f'CREATE EXTENSION "{name}" SCHEMA {home}')


def libpq(url: URL) -> list[str]:
    """The options of psql and pg_dump for a URL."""
    host = url.query.get("host", url.host)
    parts = {"--host": host, "--port": url.port, "--username": url.username, "--dbname": url.database}
    return [f"{option}={value}" for option, value in parts.items() if value]


def psql(url: URL, script: str) -> None:
    """Run a script as an administrator does, to the first error."""
    command = [
        str(embedded.binaries() / "psql"),
        *libpq(url),
        "--no-psqlrc",
        "--quiet",
        "-v",
        "ON_ERROR_STOP=1",
    ]
    done = subprocess.run(command, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def dump(url: URL, *schemas: str) -> dict[str, str]:
    """`pg_dump --schema-only` by object: without order, owners, and the version table."""
    command = [str(embedded.binaries() / "pg_dump"), *libpq(url), "--schema-only", "--no-owner"]
    command += [f"--schema={schema}" for schema in schemas]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return objects_in(done.stdout)


def objects_in(script: str) -> dict[str, str]:
    """The objects of a dump, with the months of partitions by their numbers."""
    script = BOUNDS.sub(_bounds, script)
    script = numbering([script])(script)
    parts = re.split(r"^--\n-- (Name: .*; Type: .*); Owner: .*\n--\n", script, flags=re.MULTILINE)
    objects: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if migrate.VERSION_TABLE not in name:
            # PostgreSQL 17.12 keeps a number of its own with each column, which the pg_dump of 18.6 shows.
            noise = r"SET |--|\\|ALTER TABLE ONLY .* SET \(pg_attver=\d+\);"
            lines = [line for line in body.splitlines() if line and not re.match(noise, line)]
            assert name not in objects, name
            objects[name] = "\n".join(lines)
    assert objects
    return objects


def unlike(left: dict[str, str], right: dict[str, str]) -> list[str]:
    """The objects that two dumps have otherwise, for an assertion's message."""
    return [
        f"{name}\n--- first\n{left.get(name)}\n--- second\n{right.get(name)}"
        for name in sorted({*left, *right})
        if left.get(name) != right.get(name)
    ]


def environment(url: URL | None = None, **more: str) -> dict[str, str]:
    """The environment of a process of the library on one database."""
    found = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ALFRED_", "DATABASE_URL", "ALEMBIC_"))
    }
    found["PYTHONPATH"] = str(ROOT)
    if url is not None:
        found["ALFRED_DB_URL"] = url.render_as_string(hide_password=False)
    return {**found, **more}


def alembic(
    *arguments: str, url: URL | None = None, cwd: Path = ROOT, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run plain `alembic` in a folder."""
    return forked.run("-m", "alembic", *arguments, cwd=cwd, env=environment(url, **more))


def python(code: str, url: URL | None = None, **more: str) -> Program:
    """Start a Python process."""
    return Program("-c", code, env=environment(url, **more), merged=True)


def fresh_python(code: str, url: URL | None = None, **more: str) -> str:
    """What a Python process prints that has imported nothing before."""
    command, given = [sys.executable, "-c", code], environment(url, **more)
    done = subprocess.run(
        command, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180
    )
    return done.stdout


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Poll until a condition holds; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def own_url(url: URL) -> str:
    """A URL as a user writes it."""
    assert parse_url(url) == url
    return url.render_as_string(hide_password=False)
