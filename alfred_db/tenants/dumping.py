"""Dumps by pg_dump, of a database or of one tenant, and their restore by pg_restore into a new database."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo
from sqlalchemy import URL, Connection, text
from sqlalchemy.dialects.postgresql import psycopg

from ..embedded import system
from ..engine.pool import passing_engine
from ..engine.repeating import repeating
from ..errors import AlfredDBError, ConfigurationError, ConflictError, shown
from ..migrate import home
from ..server.databases import VERSION_TABLE
from ..sql import TENANT_SCHEMAS, literal, qualified, quoted

__all__ = ["create_database", "definition", "drop_database", "dump", "restore"]

_PACKAGED = "/usr/lib/postgresql"
"""Where Debian has the programs of each major version."""

POLLED_EVERY = 0.5
"""Seconds between two reports of the progress."""

OTHERS = ("auth", "storage")
"""Schemas with rows of all tenants that no tenant refers to."""


def dump(
    url: URL,
    file: Path,
    *,
    schema: str | None = None,
    snapshot: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Dump a database, or one tenant with the catalogs that it shares, into a file for pg_restore.

    Args:
        url: The database, as a role that may read all of it.
        file: The file; one that exists is replaced once the dump is complete.
        schema: Dump the rows of this tenant and no other, and none of `auth` and `storage`.
        snapshot: The snapshot of another transaction, whose state is dumped.
        progress: Called twice a second with the bytes written so far, in another thread.

    Raises:
        ConfigurationError: pg_dump is not installed, or is older than the server.
        AlfredDBError: pg_dump failed. The file is as it was.
    """
    with passing_engine(url, "alfred-db dump").connect() as connection:
        major = _major(connection)
        chosen = [] if schema is None else list(_without_others(connection, schema))
    part = file.with_name(f"{file.name}.part")
    # The jobs of pg_cron stay where they are: restored, they would run twice.
    options = ["--format=custom", "--no-owner", "--no-privileges", "--exclude-table-data=cron.*"]
    options += [] if snapshot is None else [f"--snapshot={snapshot}"]
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".filter") as rules:
            program = _program("pg_dump", major)
            if chosen:
                options += _filtered(chosen, rules, program)
            with _growing(part, progress):
                _run(program, url, f"--file={part}", *options)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def definition(url: URL, schema: str) -> str:
    """Return the statements that create the schema of a tenant with its tables, without their rows.

    Raises:
        ConfigurationError: pg_dump is not installed, or is older than the server.
        AlfredDBError: pg_dump failed.
    """
    with passing_engine(url, "alfred-db dump").connect() as connection:
        program = _program("pg_dump", _major(connection))
        comments = connection.execute(_COMMENTS, {"schema": schema}).all()
    left_out = ("--no-owner", "--no-publications", "--no-subscriptions", "--no-comments")
    script = _run(program, url, "--schema-only", f"--schema={quoted(schema)}", *left_out)
    # Lines with a backslash are commands of psql.
    lines = [line for line in script.splitlines() if line[:1] != "\\" and not _ODD.match(line.encode())]
    lines += [f"COMMENT ON {kind} {name} IS {literal(comment)};" for kind, name, comment in comments]
    return "\n".join(lines)


_COMMENTS = text("""
    SELECT 'SCHEMA', pg_catalog.quote_ident(CAST(nspname AS text)), pg_catalog.obj_description(oid, 'pg_namespace')
    FROM pg_catalog.pg_namespace
    WHERE CAST(nspname AS text) = CAST(:schema AS text) AND pg_catalog.obj_description(oid, 'pg_namespace') IS NOT NULL
    UNION ALL
    SELECT 'TABLE', pg_catalog.concat(pg_catalog.quote_ident(CAST(nspname AS text)), '.', pg_catalog.quote_ident(CAST(relname AS text))),
        pg_catalog.obj_description(pg_class.oid, 'pg_class')
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE CAST(nspname AS text) = CAST(:schema AS text) AND relkind IN ('r', 'p')
        AND pg_catalog.obj_description(pg_class.oid, 'pg_class') IS NOT NULL
""")


@contextmanager
def _growing(file: Path, progress: Callable[[int], None] | None) -> Generator[None]:
    """Report the size of a file that another program writes."""
    if progress is None:
        yield
        return

    def report() -> None:
        with suppress(FileNotFoundError):
            progress(file.stat().st_size)

    with repeating(report, POLLED_EVERY):
        yield


def restore(file: Path, url: URL) -> None:
    """Restore a dump into an empty database, without owners and rights, as any role that may create there.

    Extensions that the server does not have, or that the role may not create, are left out.

    Raises:
        ConfigurationError: pg_restore is not installed, or cannot read the file.
        ConflictError: The database is not empty.
        AlfredDBError: pg_restore or psql failed.
    """
    with passing_engine(url, "alfred-db restore").connect() as connection:
        creatable = set(connection.scalars(_CREATABLE))
        major = _major(connection)
        if connection.scalars(_TENANTS).first() is not None:
            raise ConflictError(
                f"database {shown(url.database)}: it holds a schema of alfred-db already; restore into an empty one"
            )
    program = _program("pg_restore", major, file)
    entries = _run(program, None, "--list", str(file))
    with tempfile.TemporaryDirectory(prefix="alfred-db-restore-") as folder:
        listed, script, corrected = (Path(folder, name) for name in ("list", "script", "corrected"))
        listed.write_text("".join(_wanted(entries, creatable)))
        options = ["--no-owner", "--no-privileges", "--no-publications", "--no-subscriptions"]
        _run(program, None, *options, f"--use-list={listed}", f"--file={script}", str(file))
        with script.open("rb") as given, corrected.open("wb") as taken:
            taken.writelines(_corrected(given))
        script.unlink()
        # A script, because pg_restore itself runs a table with its odd statements as one.
        _run(
            program.with_name("psql"),
            url,
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            f"--file={corrected}",
        )


_ODD = re.compile(rb"ALTER TABLE ONLY .* SET \(pg_attver=\d+\);$|SET transaction_timeout = 0;$")
"""Statements of a dump that some servers refuse: a number that a server keeps with its columns, a setting of a newer one."""


def _corrected(script: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a script without the odd statements; the rows in it are as they are."""
    rows = False
    for line in script:
        if rows:
            rows = line != b"\\.\n"
        elif _ODD.match(line):
            continue
        else:
            rows = line.startswith(b"COPY ") and line.endswith(b" FROM stdin;\n")
        yield line


def create_database(url: URL, name: str) -> URL:
    """Create an empty database beside that of the URL, and return its URL."""
    _alone(url, f"CREATE DATABASE {quoted(name)} ENCODING 'UTF8' TEMPLATE template0")
    return url.set(database=name)


def drop_database(url: URL, name: str) -> None:
    """Drop a database beside that of the URL."""
    _alone(url, f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")


def _alone(url: URL, statement: str) -> None:
    engine = passing_engine(url, "alfred-db drill", any_encoding=True)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement.replace("%", "%%"))


_CREATABLE = text("""
    SELECT DISTINCT name FROM pg_catalog.pg_available_extension_versions
    WHERE trusted OR NOT superuser OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
        OR EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = name)
""")

_TENANTS = text(f"""
    SELECT CAST(nspname AS text) FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = '{VERSION_TABLE}' AND relkind IN ('r', 'p')
""")

_TABLES = text("""
    SELECT CAST(nspname AS text) AS schema, CAST(relname AS text) AS name
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p') AND CAST(nspname AS text) = ANY (CAST(:schemas AS text[]))
""")


def _without_others(connection: Connection, schema: str) -> Iterator[tuple[str, str]]:
    """Yield what is left out of the dump of one tenant, as the kind of the object and a pattern."""
    default = home(connection)
    for tenant in connection.scalars(_TENANTS):
        if tenant not in (schema, default):
            yield "schema", quoted(tenant)
    # The tables of the default tenant stay, as the shared catalogs are upgraded with them; their rows do not.
    schemas = [str(default), *TENANT_SCHEMAS, *OTHERS]
    for row in connection.execute(_TABLES, {"schemas": schemas}):
        if row.name != VERSION_TABLE:
            yield "table_data", qualified(row.schema, row.name)


def _filtered(chosen: Sequence[tuple[str, str]], rules: Any, program: Path) -> list[str]:
    """Return the options that leave objects out; many of them stand in a file, which older versions cannot read."""
    if _version(program) >= 17:
        rules.writelines(f"exclude {kind} {pattern}\n" for kind, pattern in chosen)
        rules.flush()
        return [f"--filter={rules.name}"]
    names = {"schema": "--exclude-schema", "table_data": "--exclude-table-data"}
    return [f"{names[kind]}={pattern}" for kind, pattern in chosen]


def _wanted(entries: str, creatable: set[str]) -> Iterator[str]:
    """Yield the entries of a dump's list, but comments on extensions and extensions that cannot be created."""
    for line in entries.splitlines():
        found = re.search(r" (COMMENT )?- (?:EXTENSION )?(\S+) ?", line) if " EXTENSION " in line else None
        if found is not None and (" COMMENT - EXTENSION " in line or found[2] not in creatable):
            continue
        yield f"{line}\n"


def _major(connection: Connection) -> int:
    return (
        int(connection.scalar(text("SELECT pg_catalog.current_setting('server_version_num')")) or 0) // 10000
    )


def _program(name: str, major: int, file: Path | None = None) -> Path:
    """Return the oldest of the installed programs that is not older than the server, or can read the file.

    Raises:
        ConfigurationError: No such program was found.
    """
    found: dict[Path, int] = {}
    for place in _places():
        if (place / name).exists():
            found[place / name] = _version(place / name)
    usable = sorted((version, path) for path, version in found.items() if version >= major)
    if file is not None:  # the oldest that can read it; a newer one sets what an older server does not know
        readable = [
            (version, path)
            for version, path in sorted((v, p) for p, v in found.items())
            if _reads(path, file)
        ]
        usable = [one for one in readable if one[0] >= major] or readable[-1:]
    if not usable:
        have = ", ".join(sorted({str(version) for version in found.values()})) or "none"
        raise ConfigurationError(
            f"{name}: version {major} or newer is needed, found {have}; install the client programs of PostgreSQL"
            f" {major}, such as Debian's postgresql-client-{major}, or put them on the PATH"
        )
    return usable[0][1]


def _places() -> Iterator[Path]:
    if (on_path := shutil.which("pg_dump")) is not None:
        yield Path(on_path).resolve().parent
        yield Path(on_path).parent
    yield from sorted(Path(_PACKAGED).glob("*/bin"))
    if system.available():
        yield system.binaries()


def _version(program: Path) -> int:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30)
        if (found := re.search(r"(\d+)\.\d", done.stdout)) is not None:
            return int(found[1])
    return 0


def _reads(program: Path, file: Path) -> bool:
    return subprocess.run([program, "--list", file], capture_output=True).returncode == 0


def _run(program: Path, url: URL | None, *options: str) -> str:
    """Run a program of PostgreSQL; the password is in its environment, where others cannot read it."""
    environment = {**os.environ, "LC_ALL": "C"}
    command = [str(program), *options]
    if url is not None:
        given: dict[str, Any] = psycopg.dialect().create_connect_args(url)[1]  # type: ignore[no-untyped-call]
        password = given.pop("password", None)
        if password is not None:
            environment["PGPASSWORD"] = str(password)
        command.insert(1, f"--dbname={make_conninfo(**given)}")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [
            line for line in done.stderr.splitlines() if "error" in line.lower()
        ] or done.stderr.splitlines()
        said = (lines[0] if lines else f"status {done.returncode}").removeprefix(f"{program.name}: ")
        raise AlfredDBError(f"{program.name}: {said[:300]}; correct what it names, and run the command again")
    return done.stdout
